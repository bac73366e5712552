"""Sharding constraints inside of models: activations by rows, tables of vectors whole.

Both the batch and the parameters are sharded over `fsdp`. Without a constraint the partitioner
may all-gather the activations instead of the weights, and every device then computes all rows.
"""

import jax
from jax.sharding import PartitionSpec as P

from moshijax.kernels.names import ROWS


def split_rows(x: jax.Array, axis: int = 0) -> jax.Array:
    """Constrains an array to be sharded along its rows; without a mesh returns it as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = (None,) * axis + (ROWS,) + (None,) * (x.ndim - axis - 1)
    return jax.lax.with_sharding_constraint(x, P(*spec))


def gather_table(x: jax.Array) -> jax.Array:
    """All-gathers a table of vectors [V, D] before lookup; without a mesh returns it as it is.

    The table is sharded over D. Left to itself the partitioner looks up the slices of D for all
    rows of the batch on each device and sends these [B, T, D], which is more than [V, D].
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P())
