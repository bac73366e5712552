"""A Mimi of random weights whose codes vary, for trials and tests without a file."""

import jax
import jax.numpy as jnp
import numpy as np

from moshijax.codec.config import MimiConfig
from moshijax.codec.mimi import Mimi
from moshijax.convert.mimi import abstract_mimi
from moshijax.nn.paths import named_leaves, with_leaves


LAYER_SCALE = 0.1  # At the 0.01 of a new model the transformers would hardly change the output.


def random_mimi(config: MimiConfig, seed: int = 0) -> Mimi:
    """Returns a Mimi whose layers keep the variance, and whose codebooks fit noise.

    With the constructor's initial values all latents, and so all codes, would be nearly equal.
    """
    rng = np.random.default_rng(seed)
    model = abstract_mimi(config)
    leaves = {path: _random(rng, path, leaf.shape) for path, leaf in named_leaves(model).items()}
    model = with_leaves(model, leaves)
    noise = rng.standard_normal((1, 64 * config.frame_size, 1), np.float32) * 0.3
    latents, _ = jax.jit(lambda encoder, audio: encoder(audio))(model.encoder, jnp.asarray(noise))
    return with_leaves(model, leaves | _fit_codebooks(rng, leaves, config, np.asarray(latents[0])))


def _random(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> jax.Array:
    name = path.rsplit("/", 1)[-1]
    if name == "kernel":
        # What is summed over: of [L, in, out], [taps, in, stride, out] or [taps, in, out].
        axes = shape[1:-1] if "/layers/" in path else shape[:-2] if len(shape) == 4 else shape[:-1]
        gain = 0.003 if "decoder/seanet/last" in path else 1.3 if "seanet" in path else 1.0
        array = rng.standard_normal(shape, np.float32) * np.float32(gain * np.prod(axes) ** -0.5)
    elif name == "scale":
        branch = "_scale/" in path
        array = np.full(shape, LAYER_SCALE if branch else 1.0, np.float32)
        array *= rng.uniform(0.5, 1.5, shape)
    elif name == "bias":
        array = rng.standard_normal(shape, np.float32) * np.float32(0.05)
    else:
        array = np.ones(shape, np.float32)
    return jnp.array(array, jnp.float32)


def _fit_codebooks(
    rng: np.random.Generator,
    leaves: dict[str, jax.Array],
    config: MimiConfig,
    latents: np.ndarray,
) -> dict[str, jax.Array]:
    """Draws each codebook with the mean and spread of the residual that those before it leave."""
    fitted = {}
    for part, number in (("semantic", 1), ("acoustic", config.num_codebooks - 1)):
        rest = latents @ np.asarray(leaves[f"quantizer/{part}/project_in/kernel"])
        for i in range(number):
            spread = rng.standard_normal((config.codebook_size, rest.shape[1]), np.float32)
            vectors = rest.mean(0) + 0.8 * rest.std(0) * spread
            usage = rng.uniform(0.5, 4.0, config.codebook_size).astype(np.float32)
            path = f"quantizer/{part}/codebooks/{i}"
            fitted[f"{path}/usage"] = jnp.array(usage)
            fitted[f"{path}/embedding_sum"] = jnp.array(vectors * usage[:, None])
            scores = rest @ vectors.T - 0.5 * np.square(vectors).sum(1)
            rest = rest - vectors[scores.argmax(1)]
    return fitted
