"""Parity with timm without PyTorch: see make_resnet.py."""

import pathlib

import jax
import numpy as np
from flax import nnx

from distill.vision.convert import load_npz
from distill.vision.resnet import ResNet
from tests.golden.make_resnet import CONFIG, PATH


def test_a_bit_resnet_computes_what_timm_computes(tmp_path: pathlib.Path):
    with np.load(PATH) as file:
        golden = dict(file)
    weights = {name[2:]: array for name, array in golden.items() if name.startswith("w:")}
    np.savez(tmp_path / "weights.npz", **weights)
    model = load_npz(
        tmp_path / "weights.npz", jax.eval_shape(lambda: ResNet(CONFIG, rngs=nnx.Rngs(0)))
    )
    _, features = jax.jit(lambda model, images: model(images))(model, golden["images"])
    names = ["stem", "stage1/unit01", "stage1/unit02", "stage2/unit01", "pre_logits_2d", "logits"]
    assert set(names) == {n for n in golden if n != "images" and not n.startswith("w:")}
    for name in names:
        tolerance = 1e-5 * max(1, np.abs(golden[name]).max())
        np.testing.assert_allclose(features[name], golden[name], atol=tolerance, err_msg=name)
