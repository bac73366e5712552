"""BiT-R50x1 against timm's `resnetv2_50x1_bit`, which reads the random weights from our file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill.vision.convert import save_npz
from distill.vision.resnet import PRESETS, ResNet
from distill.vision.timm import save_timm
from moshijax.nn.paths import named_leaves, with_leaves
from tests.oracle import torch_timm


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

CONFIG = dataclasses.replace(PRESETS["r50x1"], pool_padding="zero")
TORCH_NAMES = {
    "block1/unit01/conv_proj/kernel": "stages.0.blocks.0.downsample.conv.weight",
    "block2/unit01/conv2/kernel": "stages.1.blocks.0.conv2.weight",
    "block3/unit04/conv1/kernel": "stages.2.blocks.3.conv1.weight",
    "block4/unit02/gn3/scale": "stages.3.blocks.1.norm3.weight",
    "root_block/conv_root/kernel": "stem.conv.weight",
    "norm_pre_head/bias": "norm.bias",
    "head/kernel": "head.fc.weight",
}


def random_model(config, seed):
    """Every array random, also those that start as ones and zeros."""
    model = jax.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        noise = rng.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            return noise / np.sqrt(np.prod(shape[:-1]))
        return name.endswith("scale") + noise / 4

    leaves = named_leaves(model).items()
    return with_leaves(model, {n: jnp.asarray(draw(n, x.shape), x.dtype) for n, x in leaves})


@jax.jit
def forward_and_gradient(model, images):
    def loss(model):
        logits, features = model(images)
        weights = jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)
        return (weights * logits).sum(), features

    return jax.grad(loss, has_aux=True)(model)


def test_features_logits_and_gradients_are_those_of_timm(tmp_path):
    import torch

    model = random_model(CONFIG, seed=1)
    save_npz(tmp_path / "random.npz", model, "bit")
    net = torch_timm.import_timm().create_model("resnetv2_50x1_bit", num_classes=1000)
    net = torch_timm.load(tmp_path / "random.npz", net)
    images = np.random.default_rng(2).uniform(-1, 1, (2, 96, 64, 3)).astype(np.float32)
    logits, expected = torch_timm.run(net, images)
    gradients, features = forward_and_gradient(model, images)
    assert len(expected) == 1 + 16 + 2
    for name, array in expected.items():
        scale = max(1, np.abs(array).max())
        np.testing.assert_allclose(features[name], array, atol=1e-4 * scale, err_msg=name)
    np.testing.assert_allclose(features["logits"], expected["logits"], atol=1e-4)

    (torch.cos(torch.arange(logits.numel())).reshape(logits.shape) * logits).sum().backward()
    theirs = dict(net.named_parameters())
    ours = named_leaves(gradients)
    for name, torch_name in TORCH_NAMES.items():
        array = theirs[torch_name].grad.numpy()
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0).reshape(ours[name].shape)
        # Loose, and in the norm: activations that rounding moves across zero switch gradients.
        assert np.linalg.norm(ours[name] - array) < 1e-2 * np.linalg.norm(array), name


def test_timm_gives_our_logits_on_a_file_in_its_own_names(tmp_path):
    import torch

    model = random_model(CONFIG, seed=3)
    path = tmp_path / "student.safetensors"
    save_timm(path, model)
    net = torch_timm.import_timm().create_model("resnetv2_50x1_bit", checkpoint_path=str(path))
    images = np.random.default_rng(4).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = net.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = jax.jit(lambda model, images: model(images)[0])(model, images)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
