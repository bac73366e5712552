"""What command lines over sound share: the codec, progress in seconds, warnings above it."""

import dataclasses
import sys
from collections.abc import Generator, Iterable

import numpy as np
from tqdm import tqdm

from moshijax.codec.config import MimiConfig
from moshijax.codec.mimi import Mimi, for_inference
from moshijax.convert.mimi import load_mimi
from moshijax.convert.random import random_mimi


PUBLISHED = "hf://kyutai/moshiko-pytorch-bf16/tokenizer-e351c8d8-checkpoint125.safetensors"


def load(source: str, config: MimiConfig, num_codebooks: int) -> Mimi:
    """Loads a Mimi, or draws one, with the codebooks that are needed."""
    if source == "random":
        return for_inference(random_mimi(config))
    config = dataclasses.replace(config, num_codebooks=num_codebooks)
    return load_mimi(source, config, inference=True)


def progress(
    blocks: Iterable[np.ndarray], seconds: float | None, sample_rate: int
) -> Generator[np.ndarray]:
    """Shows how many seconds of audio are done, on a terminal and if it takes over a second."""
    form = "{n:.0f} s of audio"
    if seconds is not None:
        form = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio, {remaining} left"
    with tqdm(total=seconds, disable=None, delay=1, leave=False, bar_format=form) as bar:
        for block in blocks:
            yield block
            done = len(block) / sample_rate
            bar.update(done if seconds is None else min(done, seconds - bar.n))


def warn(sentence: str) -> None:
    """Says what is odd about an input, above the progress."""
    tqdm.write(f"warning: {sentence}", file=sys.stderr)
