"""Writes lm.npz: what PyTorch's Moshi computes with tiny language models of random weights.

    python -m tests.golden.make_lm

Needs torch and moshi. Run it again only if a tiny preset, its weights or the oracle changes.
"""

import pathlib
import tempfile

import numpy as np

from moshijax.convert.lm import save_lm
from tests.lm_models import random_codes, random_model
from tests.oracle import torch_lm
from tests.oracle.test_lm import rows_of


PATH = pathlib.Path(__file__).parent / "lm.npz"
LENGTH, FRAMES = 20, 30
NAMES = ("moshi_7b", "hibiki_2b")


def make() -> None:
    arrays = {}
    for name in NAMES:
        model = random_model(name)
        config = model.config
        rows = rows_of(config, 2) if config.conditions else None
        with tempfile.TemporaryDirectory() as folder:
            path = save_lm(model, f"{folder}/lm.safetensors")
            torch_model = torch_lm.load(path, config)
        codes = random_codes(config, 2, LENGTH)
        text, _, audio, _ = torch_lm.logits(torch_model, codes, rows)
        user_codes = random_codes(config, 2, FRAMES, 3, zeros=False)[:, 1 + config.num_generated :]
        still = np.zeros((FRAMES, 2), bool)
        rolled, _ = torch_lm.roll_out(torch_model, user_codes, still, ~still, rows)
        found = {
            "codes": codes,
            "text": text,
            "audio": audio,
            "given": user_codes,
            "rolled": rolled,
        }
        # Rounded, so that the file stays small.
        found |= {k: np.nan_to_num(found[k]).round(4).astype(np.float32) for k in ("text", "audio")}
        arrays |= {f"{name}:{key}": array for key, array in found.items()}
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    make()
