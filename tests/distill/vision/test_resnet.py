import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill.vision.resnet import PRESETS, ResNet, ResNetConfig


TINY = PRESETS["tiny"]
BOTTLENECK = ResNetConfig(
    (2, 1), 4, unit="bottleneck", num_groups=2, stem="imagenet", num_classes=5
)


@functools.partial(jax.jit, static_argnums=0)
def make(config, seed=0):
    return ResNet(config, rngs=nnx.Rngs(seed))


def shapes(config):
    return jax.eval_shape(lambda: make(config))


def with_head(model, seed=1):
    """A random head, without which the logits are zero whatever comes before."""
    model.head.kernel = nnx.Param(
        jax.random.normal(jax.random.key(seed), model.head.kernel.shape) / 4
    )
    return model


def images_for(config, batch=2, size=19, seed=0):
    shape = (batch, size, size + 4, config.in_channels)
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1, maxval=1)


forward = jax.jit(lambda model, images: model(images))


@pytest.mark.parametrize(
    ("preset", "num_classes", "arrays", "parameters"),
    [
        ("r50x1", 1000, 153, 25_549_352),
        ("r50x1", 37, 153, 23_576_165),
        ("r50x1", 21_843, 153, 68_256_659),
        ("r152x2", 1000, 459, 236_335_208),
        ("r152x2", 102, 459, 232_656_102),
    ],
)
def test_sizes_are_the_published_ones(preset, num_classes, arrays, parameters):
    config = dataclasses.replace(PRESETS[preset], num_classes=num_classes)
    leaves = jax.tree.leaves(shapes(config))
    assert len(leaves) == arrays
    assert sum(leaf.size for leaf in leaves) == parameters


def test_parameter_paths_are_those_of_the_published_files():
    paths = {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes(PRESETS["r50x1"]))
    }
    assert paths["root_block/conv_root/kernel"] == (7, 7, 3, 64)
    assert paths["block1/unit01/conv_proj/kernel"] == (1, 1, 64, 256)
    assert paths["block2/unit01/conv1/kernel"] == (1, 1, 256, 128)
    assert paths["block4/unit03/conv2/kernel"] == (3, 3, 512, 512)
    assert paths["block4/unit03/gn3/scale"] == (512,)
    assert paths["norm_pre_head/bias"] == (2048,)
    assert paths["head/kernel"] == (2048, 1000)


def test_features_have_the_shapes_of_the_paper():
    images = jax.ShapeDtypeStruct((2, 224, 160, 3), jnp.float32)
    logits, features = jax.eval_shape(forward, shapes(PRESETS["r50x1"]), images)
    assert logits.shape == (2, 1000)
    units = [
        f"stage{b}/unit{u:02d}" for b, n in enumerate((3, 4, 6, 3), 1) for u in range(1, n + 1)
    ]
    tail = ["norm_pre_head", "pre_logits_2d", "pre_logits", "logits_2d", "logits"]
    assert set(features) == {"stem", *units, *tail}
    assert features["stem"].shape == (2, 56, 40, 64)
    assert features["stage1/unit01"].shape == (2, 56, 40, 256)
    assert features["stage2/unit01"].shape == (2, 28, 20, 512)
    assert features["stage3/unit06"].shape == (2, 14, 10, 1024)
    assert features["pre_logits_2d"].shape == (2, 7, 5, 2048)
    assert features["pre_logits"].shape == (2, 2048)
    assert features["logits_2d"].shape == (2, 7, 5, 1000)


@pytest.mark.parametrize("name", ["small_teacher", "small_student", "tiny"])
def test_small_nets_halve_28_pixels_at_stem_and_stages(name):
    config = PRESETS[name]
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    logits, features = jax.eval_shape(forward, shapes(config), images)
    assert logits.shape == (2, 10)
    assert features["stem"].shape == (2, 14, 14, config.width)
    assert features["stage2/unit01"].shape == (2, 7, 7, 2 * config.width)


def test_a_new_network_predicts_uniformly():
    logits, features = forward(make(TINY), images_for(TINY))
    assert not np.any(logits)
    assert np.all(np.std(features["pre_logits"], axis=0) > 0)


@pytest.mark.parametrize("config", [TINY, BOTTLENECK])
def test_bfloat16_is_near_float32(config):
    model, images = with_head(make(config)), images_for(config)
    low = with_head(make(dataclasses.replace(config, dtype="bfloat16")))
    exact, features = forward(model, images)
    rounded, low_features = forward(low, images)
    assert rounded.dtype == jnp.float32
    assert low_features["stage2/unit01"].dtype == jnp.bfloat16
    # 8 bits of mantissa through half a dozen layers.
    np.testing.assert_allclose(
        low_features["pre_logits"],
        features["pre_logits"],
        atol=0.05 * np.abs(features["pre_logits"]).max(),
    )
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())
    assert np.any(rounded != exact)


def test_remat_changes_nothing():
    def loss(model, images):
        return jnp.square(model(images)[0]).mean()

    images = images_for(BOTTLENECK)
    kept = jax.jit(jax.grad(loss))(with_head(make(BOTTLENECK)), images)
    config = dataclasses.replace(BOTTLENECK, remat=True)
    remade = jax.jit(jax.grad(loss))(with_head(make(config)), images)
    assert "remat" in str(jax.make_jaxpr(loss)(make(config), images))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(remade), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_pool_padding_touches_the_border_alone():
    # Where all is negative, zeros outside win the maximum and -inf does not.
    stems = {}
    for padding in ("-inf", "zero"):
        config = dataclasses.replace(BOTTLENECK, pool_padding=padding)
        stems[padding] = forward(make(config), images_for(config, size=33))[1]["stem"]
    differs = np.any(stems["-inf"] != stems["zero"], axis=(0, 3))
    assert not np.any(differs[1:-1, 1:-1])
    assert np.any(differs[0])
    assert np.all(stems["zero"] >= stems["-inf"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(unit="wide"), "unit is 'wide'"),
        (dict(pool_padding="same"), "pool_padding is 'same'"),
        (dict(num_groups=3), "width=4 is no multiple of num_groups=3"),
        (dict(stem="imagenet", stem_stride=1), "stem_stride=1"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_images_with_other_channels_are_refused():
    with pytest.raises(ValueError, match="have 3 channels, the network takes 1"):
        make(TINY)(jnp.zeros((2, 8, 8, 3)))
