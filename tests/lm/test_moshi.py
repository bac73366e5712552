import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.lm.conditioning import read_values
from moshijax.lm.losses import LossConfig, lm_loss
from moshijax.lm.moshi import cast, read_end_as_padding
from moshijax.lm.presets import PRESETS
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import quantize
from tests.lm_models import random_codes, random_model


model = random_model("moshi_7b")
codes = jnp.asarray(random_codes(model.config, 2, 12))
loss = jax.jit(lm_loss, static_argnums=2)


def test_published_sizes():
    from flax import nnx

    from moshijax.lm.moshi import Moshi

    sizes = {"moshi_7b": 7_687_729_152, "hibiki_1b": 1_799_907_840, "hibiki_2b": 2_787_362_816}
    for name, size in sizes.items():
        shapes = jax.eval_shape(lambda c=PRESETS[name]: Moshi(c, rngs=nnx.Rngs(0)))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == size


def test_gradients_are_finite_and_reach_everything():
    gradient = jax.jit(jax.grad(lambda m: lm_loss(m, codes, LossConfig(chunk_frames=5))[0]))
    for name, leaf in named_leaves(gradient(model)).items():
        assert np.isfinite(leaf).all(), name
        assert np.abs(leaf).max() > 0, name


def test_chunks_give_the_loss_and_the_gradient_of_the_whole():
    long = jnp.asarray(random_codes(model.config, 2, 21))  # Filled up to 24, and in chunks to 32.

    def at(frames):
        config = LossConfig(chunk_frames=frames)
        return jax.jit(jax.value_and_grad(lambda m: lm_loss(m, long, config)[0]))(model)

    (a, da), (b, db) = at(16), at(24)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    for x, y in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_masked_codes_count_for_nothing():
    cut = codes.at[1].set(-1)
    both, _ = loss(model, jnp.concatenate([codes[:1], codes[:1]]), LossConfig())
    one, _ = loss(model, cut, LossConfig())
    np.testing.assert_allclose(one, both, rtol=1e-5)


def test_padding_and_semantic_weights_are_used():
    light = loss(model, codes, LossConfig(padding_weight=0.0))[1]
    usual = loss(model, codes, LossConfig(padding_weight=1.0))[1]
    assert light["text_loss"] < usual["text_loss"]
    flat = loss(model, codes, LossConfig(semantic_weight=1.0))[1]
    mean = np.mean([flat[f"audio_loss_{k}"] for k in range(8)])
    np.testing.assert_allclose(flat["audio_loss"], mean, rtol=1e-5)
    heavy = loss(model, codes, LossConfig(semantic_weight=1e6))[1]
    np.testing.assert_allclose(heavy["audio_loss"], heavy["audio_loss_0"], rtol=1e-3)


def test_bfloat16_stays_near_float32():
    wide = model.logits(codes)
    narrow = cast(model, jnp.bfloat16).logits(codes)
    assert narrow.text.dtype == jnp.float32
    assert np.abs(narrow.text - wide.text).mean() < 0.05
    hibiki = cast(random_model("hibiki_1b"), jnp.bfloat16)
    kinds = {n.split("/")[0]: leaf.dtype for n, leaf in named_leaves(hibiki).items()}
    assert kinds["conditioners"] == jnp.float32
    assert kinds["temporal"] == jnp.bfloat16


@pytest.mark.parametrize(("bits", "block"), [(8, None), (4, 8)])
def test_kernels_of_few_bits_keep_their_types(bits, block):
    wide = quantize(random_model("hibiki_1b"), bits, block)
    narrow = cast(wide, jnp.bfloat16)
    few = {n: leaf for n, leaf in named_leaves(wide).items() if "/kernel/" in n}
    assert len(few) > 20
    for name, leaf in few.items():
        kept = named_leaves(narrow)[name]
        assert kept.dtype == leaf.dtype, name
        np.testing.assert_array_equal(kept.astype(jnp.float32), leaf.astype(jnp.float32))
    text = random_codes(wide.config, 2, 12)
    conditions = {c.name: read_values(c, ["very_good", None]) for c in wide.config.conditions}
    want, found = (m.logits(jnp.asarray(text), conditions).text for m in (wide, narrow))
    assert found.dtype == jnp.float32
    assert np.abs(found - want).mean() < 0.05


def test_the_end_of_text_is_read_as_padding():
    table = read_end_as_padding(model).temporal.text_embedding.table[...]
    np.testing.assert_array_equal(table[2], model.temporal.text_embedding.table[...][3])
    np.testing.assert_array_equal(table[3:], model.temporal.text_embedding.table[...][3:])


def test_wrong_numbers_of_streams_and_delays_are_named():
    with pytest.raises(ValueError, match="9 streams given, the model has 17"):
        model.logits(codes[:, :9])
    with pytest.raises(ValueError, match="delays: 3 given for 17 streams"):
        dataclasses.replace(model.config, delays=(0, 1, 2))
    with pytest.raises(ValueError, match="delays: -1 is negative"):
        dataclasses.replace(model.config, delays=(-1,) * 17)


def test_unknown_conditions_are_named():
    hibiki = random_model("hibiki_1b")
    with pytest.raises(ValueError, match=r"the model has \['description'\]"):
        hibiki.prepare({})
    with pytest.raises(ValueError, match="the model has none"):
        model.prepare({"description": read_values(hibiki.config.conditions[0], ["very_good"])})
    config = random_model("tts_1_6b").config.conditions[1]
    with pytest.raises(ValueError, match=r"condition cfg: '9' is unknown; known are 1\.0, 1\.5"):
        read_values(config, ["9"])
