import jax
import jax.numpy as jnp
import numpy as np

from distill.vision.rules import RULES as RESNET
from moshijax import shard
from moshijax.convert.lm import load_lm, save_lm
from tests.lm_models import random_codes, random_model


def test_placed_arrays_keep_their_values():
    mesh = shard.make_mesh(dict(data=2, fsdp=4))
    tree = {"head": {"kernel": jnp.arange(32.0).reshape(4, 8), "bias": jnp.ones(8)}}
    placed = shard.place(tree, mesh, RESNET)
    np.testing.assert_array_equal(placed["head"]["kernel"], tree["head"]["kernel"])
    assert placed["head"]["kernel"].sharding.shard_shape((4, 8)) == (4, 2)


def test_sharded_language_model_gives_the_same_logits(tmp_path):
    model = random_model("moshi_7b")
    path = save_lm(model, tmp_path / "lm.safetensors")
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    placed = load_lm(path, model.config, mesh=mesh)
    kernel = placed.temporal.transformer.layers.mlp.up.kernel[...]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 28)
    codes = random_codes(model.config, 4, 6)
    run = jax.jit(lambda model, codes: model.logits(codes))
    want, got = run(model, codes), run(placed, shard.to_mesh(codes, 4, mesh))
    np.testing.assert_allclose(got.text, want.text, atol=2e-5)
    np.testing.assert_allclose(got.audio, want.audio, atol=2e-5)
