"""Kernels of 8 or 4 bits, which take the place of the array in a `Linear`, stacked or not.

Per channel: int8, scaled by the largest absolute weight of each output, as bitsandbytes has it.
Per block of inputs: a scale and an offset for each block and output (Moshi, section 5.5).
"""

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from moshijax.kernels.quant_matmul import multiply_blocks, multiply_integers
from moshijax.nn.linear import Kernel, map_kernels


Tree = TypeVar("Tree")

LARGEST = 127  # the integer of the largest absolute weight of a channel
DTYPES = {8: jnp.int8, 4: jnp.int4}
BLOCK = 32  # most inputs of a block, where the caller names no size
# Modules whose linear maps are not quantised: what follows a table of vectors or a condition.
WHOLE = ("text_embedding", "audio_embeddings", "conditioners")


class Quantised(nnx.Module):
    """Integers that stand for a kernel, and their scale."""

    def __init__(self, values: Array, scale: Array):
        self.values = nnx.Param(values)
        self.scale = nnx.Param(scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel that this stands for."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of the scale: that of the model before it was quantised."""
        return self.scale.dtype


class PerChannel(Quantised):
    """Integers and a scale for each output: `w = values * scale / 127`."""

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Multiplies by the integers, then scales."""
        y = multiply_integers(x, self.values[...])
        return (y * (self.scale[...] / LARGEST)[None, None]).astype(x.dtype)

    def array(self) -> Float[Array, "*L C D"]:
        """Returns the kernel that this stands for."""
        return self.values[...].astype(jnp.float32) * (self.scale[...] / LARGEST)[..., None, :]


class PerBlock(Quantised):
    """Integers, a scale and an offset for each block of inputs: `w = values * scale + offset`."""

    def __init__(self, values: Array, scale: Array, offset: Array):
        super().__init__(values, scale)
        self.offset = nnx.Param(offset)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Sums over blocks of inputs `(x @ values) * scale + sum(x) * offset`."""
        scale = self.scale[...].astype(jnp.float32)
        y = multiply_blocks(x, self.values[...], scale)
        sums = x.astype(jnp.float32).reshape(*x.shape[:2], scale.shape[0], -1).sum(-1)
        return (y + sums @ self.offset[...].astype(jnp.float32)).astype(x.dtype)

    def array(self) -> Float[Array, "*L C D"]:
        """Returns the kernel that this stands for."""
        width = self.shape[-2] // self.scale.shape[-2]
        scale, offset = (
            jnp.repeat(a[...].astype(jnp.float32), width, axis=-2)
            for a in (self.scale, self.offset)
        )
        return self.values[...].astype(jnp.float32) * scale + offset


def quantize(model: Tree, bits: int = 8, block: int | None = None) -> Tree:
    """Quantises the kernel of every `Linear` but those of embeddings and conditioners.

    Args:
        model: with arrays as kernels; what is quantised already stays as it is.
        bits: 8 or 4.
        block: inputs that share a scale and an offset; None: all of a channel for 8 bits, and for
            4 as many as divide a kernel's inputs, up to 32.

    Raises:
        ValueError: there is no such number of bits, a kernel is no multiple of the block, or it has
            an adapter.
    """
    if bits not in DTYPES:
        raise ValueError(f"{bits} bits: take 8 or 4.")

    def change(name: str, kernel: Kernel) -> Kernel:
        if isinstance(kernel, Quantised) or any(word in name.split("/") for word in WHOLE):
            return kernel
        if not isinstance(kernel, nnx.Param):
            raise ValueError(f"{name} has an adapter: fuse it first, or quantise before adding it.")
        if block is None and bits == 8:
            return PerChannel(*_channels(kernel[...]))
        inputs = kernel.shape[-2]
        width = block or max(n for n in range(1, BLOCK + 1) if inputs % n == 0)
        if inputs % width:
            raise ValueError(
                f"{name} has {inputs} inputs, no multiple of the block of {width}: take a smaller "
                "one."
            )
        return PerBlock(*_blocks(kernel[...], bits, width))

    return map_kernels(model, change)


def bits_of(model: PyTree) -> set[int]:
    """Returns the bits that kernels of a model have, where it is quantised."""
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Quantised))
    bits = {jnp.dtype(dtype): number for number, dtype in DTYPES.items()}
    return {bits[node.values.dtype] for node in nodes if isinstance(node, Quantised)}


def dequantize(model: Tree) -> Tree:
    """Returns the model with arrays as kernels again, in float32."""

    def change(_: str, kernel: Kernel) -> Kernel:
        return nnx.Param(kernel.array()) if isinstance(kernel, PerChannel | PerBlock) else kernel

    return map_kernels(model, change)


@jax.jit
def _channels(kernel: Float[Array, "*L C D"]) -> tuple[Array, Array]:
    kernel = kernel.astype(jnp.float32)
    scale = jnp.abs(kernel).max(axis=-2)
    ratio = kernel / jnp.where(scale > 0, scale, 1.0)[..., None, :]
    return jnp.round(ratio * LARGEST).astype(jnp.int8), scale


@functools.partial(jax.jit, static_argnums=(1, 2))
def _blocks(kernel: Float[Array, "*L C D"], bits: int, block: int) -> tuple[Array, Array, Array]:
    """Rounds each block to `2**bits` equal steps that cover its smallest and largest weight."""
    *stacked, inputs, outputs = kernel.shape
    shape = (*stacked, inputs // block, block, outputs)
    kernel = kernel.astype(jnp.float32).reshape(shape)
    low, high, half = kernel.min(axis=-2), kernel.max(axis=-2), 2 ** (bits - 1)
    # The integers are -half .. half - 1, so zero lies half a step above the middle.
    offset = ((low + high) / 2 + (high - low) / (2**bits - 1) / 2).astype(jnp.bfloat16)
    zero = offset.astype(jnp.float32)
    # Rounded up, so that a scale in bfloat16 still reaches both ends.
    scale = _rounded_up(jnp.maximum((high - zero) / (half - 1), (zero - low) / half))
    divisor = jnp.where(scale > 0, scale, 1).astype(jnp.float32)
    values = jnp.round((kernel - zero[..., None, :]) / divisor[..., None, :])
    values = jnp.clip(values, -half, half - 1).astype(DTYPES[bits])
    return values.reshape(*stacked, inputs, outputs), scale, offset


def _rounded_up(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """The next bfloat16 that is no smaller; of numbers that are not negative."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = (bits + jnp.uint32(0xFFFF)) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)
