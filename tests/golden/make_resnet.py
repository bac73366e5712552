"""Writes resnet.npz: what timm computes with a tiny BiT ResNet of random weights.

    python -m tests.golden.make_resnet

Needs torch and timm. Run it again only if the tiny configuration or the oracle changes.
"""

import pathlib
import tempfile

import numpy as np

from distill.vision.convert import save_npz
from distill.vision.resnet import ResNetConfig
from tests.oracle import torch_timm
from tests.oracle.test_timm_resnet import random_model


PATH = pathlib.Path(__file__).parent / "resnet.npz"
CONFIG = ResNetConfig(
    (2, 1),
    8,
    unit="bottleneck",
    num_groups=4,
    stem="imagenet",
    num_classes=5,
    pool_padding="zero",
)


def make() -> None:
    images = np.random.default_rng(4).uniform(-1, 1, (2, 29, 20, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.npz"
        save_npz(path, random_model(CONFIG, seed=3), "bit")
        _, features = torch_timm.run(torch_timm.load(path, torch_timm.bit_net(CONFIG)), images)
        with np.load(path) as file:
            weights = {f"w:{name}": file[name] for name in file.files}
    np.savez_compressed(PATH, images=images, **features, **weights)


if __name__ == "__main__":
    make()
