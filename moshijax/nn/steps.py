"""Linear maps and embeddings with weights of their own for each step of a short sequence.

Moshi's depth transformer has them, one set for each codebook or group of codebooks
(section 3.4.1). The sets are stacked along a first axis; as a list they are what a CPU reads
fastest.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from moshijax.nn.linear import Linear, truncated, uniform
from moshijax.nn.rows import gather_table


Linears = Linear | Sequence[Linear]  # stacked along a first axis, or a list


def make_linears(number: int, in_features: int, out_features: int, rngs: nnx.Rngs) -> Linear:
    """Returns linear maps without bias as one, with their number as the kernel's first axis."""

    def make(key: Array) -> Linear:
        own = nnx.Rngs(key)
        return Linear(in_features, out_features, use_bias=False, init=uniform, rngs=own)

    return jax.vmap(make)(jax.random.split(rngs.params(), number))


def map_steps(
    linears: Linears, x: Float[Array, "B K C"], sets: tuple[int, ...]
) -> Float[Array, "B K D"]:
    """Maps `x[:, i]` by the linear map number `sets[i]` of a stack or a list of them."""
    if not isinstance(linears, Linear):
        parts = [linears[which](x[:, i : i + 1]) for i, which in enumerate(sets)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    chosen = jax.tree.map(lambda leaf: _take(leaf, sets), linears)
    if not isinstance(chosen.kernel, nnx.Param):
        each = jax.vmap(lambda linear, x: linear(x[:, None])[:, 0], in_axes=(0, 1), out_axes=1)
        return each(chosen, x)
    # [B, K, C] by [K, C, D]: step k has a kernel of its own.
    return jnp.einsum("bkc,kcd->bkd", x, chosen.kernel[...].astype(x.dtype))


def _take(leaf: Array, sets: tuple[int, ...]) -> Array:
    if sets == tuple(range(leaf.shape[0])):
        return leaf
    return leaf[sets[0]][None] if len(sets) == 1 else leaf[np.array(sets)]


class Embedding(nnx.Module):
    """A table of vectors, of low rank if asked for; the code -1 gives zeros.

    With `pairs` a code may hold two entries, `(second + 1) * num_entries + first`, whose vectors
    go through a matrix each and are added (DSM's second text stream).
    """

    def __init__(
        self,
        num_entries: int,
        dim: int,
        *,
        low_rank: int | None = None,
        pairs: bool = False,
        rngs: nnx.Rngs,
    ):
        width = low_rank or dim
        self.table = nnx.Param(_table(rngs.params(), (num_entries, width)))
        linears = [
            Linear(width, dim, use_bias=False, rngs=rngs) if wanted else None
            for wanted in (low_rank is not None, pairs, pairs)
        ]
        # With pairs the low-rank map is in the files and is not used, as in Moshi's own code.
        self.low_rank, self.first, self.second = linears

    def __call__(self, codes: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Looks every code up."""
        table = gather_table(self.table[...])
        absent = (codes < 0)[..., None]
        codes = jnp.maximum(codes, 0)
        if self.first is None or self.second is None:
            y = jnp.where(absent, 0.0, table[codes])
            return y if self.low_rank is None else self.low_rank(y)
        second = codes // table.shape[0] - 1
        y = self.second(table[jnp.maximum(second, 0)])
        y = self.first(table[codes % table.shape[0]]) + jnp.where(second[..., None] < 0, 0.0, y)
        return jnp.where(absent, 0.0, y)


class CodeEmbeddings(nnx.Module):
    """Tables of vectors [K, V, D], one for each codebook; the code -1 gives zeros."""

    def __init__(
        self,
        number: int,
        num_entries: int,
        dim: int,
        *,
        low_rank: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.table = nnx.Param(_table(rngs.params(), (number, num_entries, low_rank or dim)))
        low = None if low_rank is None or not number else low_rank
        self.low_rank: Linears | None = (
            None if low is None else make_linears(number, low, dim, rngs)
        )

    def __call__(
        self, codes: Int[Array, "*B K"], tables: tuple[int, ...]
    ) -> Float[Array, "*B K D"]:
        """Looks `codes[..., i]` up in the table number `tables[i]`."""
        # One gather: a slice of the stacked tables would be copied first.
        found = gather_table(self.table[...])[np.array(tables), jnp.maximum(codes, 0)]
        y = jnp.where((codes < 0)[..., None], 0.0, found)
        return y if self.low_rank is None else map_steps(self.low_rank, y, tables)


def _table(key: Array, shape: tuple[int, ...]) -> Array:
    """Entries of variance 1 / width."""
    return truncated(key, (*shape[:-2], shape[-1], shape[-2])).swapaxes(-1, -2)
