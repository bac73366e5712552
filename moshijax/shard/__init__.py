"""Where arrays live on the device mesh.

Rows of batches are split over `data` and `fsdp`, parameters over `fsdp` and `tensor`, by the one
rule that each of them has.
"""

from moshijax.shard.batches import (
    BATCH,
    alternatives,
    batch_shapes,
    check_batch_size,
    fill_up,
    local_rows,
    to_mesh,
)
from moshijax.shard.mesh import (
    AXES,
    WIDEST_TENSOR,
    AnyMesh,
    abstract_mesh,
    device_grid,
    make_mesh,
    mesh_sizes,
    mesh_text,
)
from moshijax.shard.placement import place, put, shaped, shard_like
from moshijax.shard.rules import Leaf, Rules, match_one, parameter_spec, undivided


__all__ = [
    "AXES",
    "BATCH",
    "WIDEST_TENSOR",
    "AnyMesh",
    "Leaf",
    "Rules",
    "abstract_mesh",
    "alternatives",
    "batch_shapes",
    "check_batch_size",
    "device_grid",
    "fill_up",
    "local_rows",
    "make_mesh",
    "match_one",
    "mesh_sizes",
    "mesh_text",
    "parameter_spec",
    "place",
    "put",
    "shaped",
    "shard_like",
    "to_mesh",
    "undivided",
]
