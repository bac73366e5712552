"""Writes mimi.npz: what PyTorch's Moshi computes with a tiny Mimi of random weights.

    python -m tests.golden.make_mimi

Needs torch and moshi. Run it again only if the tiny preset or the oracle changes.
"""

import pathlib
import tempfile

import numpy as np

from moshijax.codec.config import PRESETS
from moshijax.convert.mimi import save_mimi
from moshijax.convert.random import random_mimi
from moshijax.convert.safetensors import Safetensors
from tests.oracle.torch_mimi import moshi_config, run_offline


PATH = pathlib.Path(__file__).parent / "mimi.npz"


def make() -> None:
    config = PRESETS["tiny"]
    with tempfile.TemporaryDirectory() as folder:
        path = save_mimi(random_mimi(config, seed=3), f"{folder}/tiny.safetensors")
        weights = {name: np.array(array) for name, array in Safetensors(path).items()}
        rng = np.random.default_rng(4)
        audio = 0.3 * rng.standard_normal((2, 30 * config.frame_size - 5, 1)).astype(np.float32)
        outputs = run_offline(path, moshi_config(config), audio, config.num_codebooks)
    np.savez_compressed(PATH, audio=audio, **outputs, **{f"w:{k}": v for k, v in weights.items()})


if __name__ == "__main__":
    make()
