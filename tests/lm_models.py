"""Small language models of random weights, for tests."""

import functools

import jax
import numpy as np
from flax import nnx

from moshijax.lm.moshi import Moshi
from moshijax.lm.presets import PRESETS
from moshijax.nn.paths import named_leaves, with_leaves


NAMES = [name.removesuffix("_tiny") for name in PRESETS if name.endswith("_tiny")]


def random_leaf(rng, path, shape):
    """Kernels that keep the variance, scales about 1, tables of unit variance."""
    if path.endswith("scale"):
        array = rng.uniform(0.5, 1.5, shape)
    elif path.endswith("kernel"):
        array = rng.standard_normal(shape) * shape[-2] ** -0.5
    else:
        array = rng.standard_normal(shape)
    return jax.numpy.array(array, jax.numpy.float32)


@functools.cache
def random_model(name, seed=0):
    """A tiny model with the structure of a preset."""
    config = PRESETS[f"{name}_tiny"]
    model = jax.eval_shape(lambda: Moshi(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    leaves = {n: random_leaf(rng, n, leaf.shape) for n, leaf in named_leaves(model).items()}
    return with_leaves(model, leaves)


def random_codes(config, batch, length, seed=0, zeros=True):
    """Codes of every stream, a tenth of them of no value."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, config.text_vocab, (batch, 1, length))
    text[rng.random(text.shape) < 0.4] = config.text_padding
    text[rng.random(text.shape) < 0.1] = config.text_padding_end
    audio = rng.integers(0, config.codebook_size, (batch, config.num_codebooks, length))
    codes = np.concatenate([text, audio], axis=1).astype(np.int32)
    if zeros:
        codes[rng.random(codes.shape) < 0.1] = -1
    return codes
