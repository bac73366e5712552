"""Products of frames with integers of 8 or 4 bits, which stand for weights.

What a step reads of memory is what its weights weigh, so they stay in few bits until they are
multiplied.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moshijax.kernels.dispatch import Kernel
from moshijax.kernels.matmul import pad_row, product


PART = 256  # inputs whose weights a CPU converts at a time
MIN_ROWS = 2  # With fewer a TPU does not use its MXU.
TILE = 128  # inputs of one tile of the MXU
MANY = 64  # rows; over so many, a scaled copy of the weights costs less than a product a block


def _channels_at_once(x: Float[Array, "B T C"], values: Int[Array, "C D"]) -> Float[Array, "B T D"]:
    # A TPU and a GPU read the integers and convert them on the way into the product.
    return jnp.matmul(x, values.astype(x.dtype), preferred_element_type=jnp.float32)


def _channels_padded(x: Float[Array, "B T C"], values: Int[Array, "C D"]) -> Float[Array, "B T D"]:
    """With at least two rows, for a TPU; see `matmul.pad_row`."""
    return pad_row(_channels_at_once, x, values)


def _channels_in_parts(
    x: Float[Array, "B T C"], values: Int[Array, "C D"]
) -> Float[Array, "B T D"]:
    """By parts of the inputs, for a CPU: it stores what it converts, and a part stays in the cache.

    A small model is still three times slower than in float32; it saves memory.
    """
    size = max(n for n in range(1, PART + 1) if x.shape[-1] % n == 0)
    return _sum_parts(x, values, jnp.ones((x.shape[-1] // size, 1)))


def _sum_parts(
    x: Float[Array, "B T C"], values: Int[Array, "C D"], scale: Float[Array, "parts #D"]
) -> Float[Array, "B T D"]:
    """Adds up the products of parts of the input, each scaled."""
    parts = scale.shape[0]
    xs = jnp.moveaxis(x.reshape(*x.shape[:2], parts, -1), 2, 0)
    kernels = values.reshape(parts, -1, values.shape[-1])

    @jax.checkpoint  # Else every converted part would be kept for the gradient.
    def add(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        own, kernel, factor = part
        y = product(own, kernel.astype(own.dtype)).astype(jnp.float32)
        return total + y * factor[None, None], None

    zero = jnp.zeros((*x.shape[:2], values.shape[-1]))
    total, _ = jax.lax.scan(add, zero, (xs, kernels, scale))
    return total


CHANNELS = Kernel(_channels_at_once, _channels_padded, _channels_in_parts)


def multiply_integers(x: Float[Array, "B T C"], values: Int[Array, "C D"]) -> Float[Array, "B T D"]:
    """The product `x @ values` in float32, not yet scaled."""
    return CHANNELS(x, values, cpu=_channels_in_parts, tpu=_channels_padded)


def _scaled_copy(
    x: Float[Array, "B T C"], values: Int[Array, "C D"], scale: Float[Array, "blocks D"]
) -> Float[Array, "B T D"]:
    steps = jnp.repeat(scale.astype(x.dtype), x.shape[-1] // scale.shape[0], axis=0)
    return jnp.matmul(x, values.astype(x.dtype) * steps, preferred_element_type=jnp.float32)


def _block_by_block(
    x: Float[Array, "B T C"], values: Int[Array, "C D"], scale: Float[Array, "blocks D"]
) -> Float[Array, "B T D"]:
    """By one product a block, scaled after, for a TPU or a GPU with few rows or wide blocks.

    A block narrower than a tile of the MXU would leave most of the tile empty. So blocks are taken
    together, as many as fill a tile, and each row is repeated once for every block of such a group,
    with zeros in place of the inputs of the other blocks.
    """
    blocks, rows = scale.shape[0], x.shape[0] * x.shape[1]
    width = x.shape[-1] // blocks
    size = max(n for n in range(1, max(TILE // width, 1) + 1) if blocks % n == 0)
    groups = blocks // size
    # [rows, groups, size, size, width]: copy i of a row keeps block i of its group.
    own = jnp.eye(size, dtype=x.dtype)[None, None, :, :, None]
    parts = x.reshape(rows, groups, size, 1, width) * own
    parts = jnp.pad(parts, ((0, max(MIN_ROWS - rows, 0)), *((0, 0),) * 4))
    parts = parts.reshape(-1, groups, size, size * width)
    kernels = values.astype(x.dtype).reshape(groups, size * width, -1)
    # r rows, g groups, i blocks of a group, c inputs of a group, d outputs.
    y = jnp.einsum("rgic,gcd->rgid", parts, kernels, preferred_element_type=jnp.float32)
    y = (y[:rows].reshape(rows, blocks, -1) * scale[None]).sum(axis=1)
    return y.reshape(*x.shape[:2], -1)


def _blocks_in_parts(
    x: Float[Array, "B T C"], values: Int[Array, "C D"], scale: Float[Array, "blocks D"]
) -> Float[Array, "B T D"]:
    """By one product a block, one after the other, for a CPU: see `_channels_in_parts`."""
    return _sum_parts(x, values, scale)


BLOCKS = Kernel(_scaled_copy, _block_by_block, _blocks_in_parts)


def multiply_blocks(
    x: Float[Array, "B T C"], values: Int[Array, "C D"], scale: Float[Array, "blocks D"]
) -> Float[Array, "B T D"]:
    """The product of x and `values`, each block of its rows times its scale, in float32."""
    rows, width = x.shape[0] * x.shape[1], x.shape[-1] // scale.shape[0]
    copied = rows > MANY and width < TILE
    return BLOCKS(
        x, values, scale, cpu=_blocks_in_parts, default=_scaled_copy if copied else _block_by_block
    )
