"""Keeps the rows of activations split over a mesh.

Parameters are split over `fsdp`, too. Where a program does not say which of the two it wants,
XLA may gather the rows of a whole batch on every device and repeat their work there.
"""

import jax
from jax.sharding import PartitionSpec as P


ROWS = ("data", "fsdp")  # The mesh axes that split a batch, as sharding.py has them.


def split_rows(x: jax.Array, axis: int = 0) -> jax.Array:
    """The same array, split along its rows where there is a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = (None,) * axis + (ROWS,) + (None,) * (x.ndim - axis - 1)
    return jax.lax.with_sharding_constraint(x, P(*spec))


def gather_table(x: jax.Array) -> jax.Array:
    """The same table of vectors, whole on every device where there is a mesh.

    Else XLA looks each device's part of every vector up for the rows of all others, and sends the
    results, which are many more than the entries.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P())
