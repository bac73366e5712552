"""Sharding constraints inside of models: activations by rows, tables of vectors whole.

Both the batch and the parameters are sharded over `fsdp`. Without a constraint the partitioner
may all-gather the activations instead of the weights, and every device then computes all rows.
"""

import jax
from jax.sharding import PartitionSpec as P

from moshijax.kernels.names import HEADS, ROWS


FEWEST = 8  # frames of a stream on one device: a tile of a TPU has 8 rows


def split_rows(x: jax.Array, axis: int = 0) -> jax.Array:
    """Constrains an array to be sharded along its rows; without a mesh returns it as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = (None,) * axis + (ROWS,) + (None,) * (x.ndim - axis - 1)
    return jax.lax.with_sharding_constraint(x, P(*spec))


def split_frames(x: jax.Array) -> jax.Array:
    """Constrains a stream [B, T, D] between layers: rows as `split_rows`, frames over `tensor`.

    Only inside of a layer do the devices of that axis need all frames, each for its own heads and
    columns. Streams too short for it, as those of a live step are, stay whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.shape[HEADS]
    if parts == 1 or x.shape[1] % parts or x.shape[1] < FEWEST * parts:
        return split_rows(x)
    return jax.lax.with_sharding_constraint(x, P(ROWS, HEADS, None))


def gather_table(x: jax.Array) -> jax.Array:
    """All-gathers a table of vectors [V, D] before lookup; without a mesh returns it as it is.

    The table is sharded over D. Left to itself the partitioner looks up the slices of D for all
    rows of the batch on each device and sends these [B, T, D], which is more than [V, D].
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P())
