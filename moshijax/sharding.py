"""Where arrays live on the device mesh: three axes, one table, one rule per parameter.

Batches are split over `data` and `fsdp`, parameters over `fsdp` and `tensor`.
The same table places optimizer moments and averages, whose names end like their parameter's.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moshijax.nn.paths import named_leaves, with_leaves


AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# Regex over the end of a parameter's name -> spec of its last axes; earlier axes are whole.
# A number before a kernel counts weight sets that are a list; `frozen` and `values` stand for a
# kernel that has an adapter or is quantised.
RULES: tuple[tuple[str, P], ...] = (
    # Convolutions [..., in, out], heads and codebook projections [in, out].
    (r"(conv\w*|head|project_in|project_out)/kernel", P("tensor", "fsdp")),
    (r"(first|last|downs/\d+|ups/\d+|downsample|upsample)/kernel", P(None, "fsdp")),
    # Transformers: into the heads and the MLP by columns, out of them by rows.
    (r"(q|k|v|gate|up)(/\d+)?/kernel(/frozen|/values)*", P("fsdp", "tensor")),
    (r"(out|down)(/\d+)?/kernel(/frozen|/values)*", P("tensor", "fsdp")),
    # Language models: tables of vectors, what reads them, and heads by columns.
    (r"(text_embedding|audio_embeddings)/table", P(None, "fsdp")),
    (r"(second|low_rank)(/\d+)?/kernel(/frozen|/values)*", P(None, "fsdp")),
    (r"first/kernel(/frozen|/values)+", P(None, "fsdp")),
    (r"(text_head|heads|depth/project)(/\d+)?/kernel(/frozen|/values)*", P("fsdp", "tensor")),
    (r"kernel/a", P("fsdp", None)),
    (r"kernel/b", P(None, "fsdp")),
    # Live sessions: rows by `data`, the heads of their caches by `tensor`.
    (r"temporal(/\d+)?/(k|v)", P("data", "tensor", None, None)),
    (r"temporal(/\d+)?/end|frames", P("data")),
    (r"codes", P("data", None, None)),
    (r"recent", P("data", None)),
    # What is small stays whole.
    (r"conditioners/parts/\w+/(table|absent|project/kernel(/frozen|/values)*)", P(None)),
    (r"pause_heads(/\d+)?/kernel(/frozen|/values)*", P(None)),
    (r"kernel(/frozen)?/(scale|offset)", P(None)),
    (r"(gn\d|\w*norm\w*|\w+_scale)/(scale|bias)", P(None)),
    (r"(conv|head|out|first|last|downs/\d+|ups/\d+)/bias", P(None)),
    (r"codebooks/\d+/(embedding_sum|usage|initialized)", P(None)),
)


def match_one(name: str, rules: Sequence[tuple[str, Any]], what: str) -> Any:
    """The value of the only rule whose regex matches the end of the name.

    Raises:
        ValueError: no rule or several rules match.
    """
    found = [(regex, value) for regex, value in rules if re.search(f"(?:^|/)(?:{regex})$", name)]
    if len(found) == 1:
        return found[0][1]
    matches = ", ".join(repr(regex) for regex, _ in found) or "none"
    raise ValueError(
        f"{what}: parameter {name!r} must match exactly one rule, it matches {matches}: "
        f"change the rules ({', '.join(repr(regex) for regex, _ in rules)})."
    )


def mesh_sizes(shape: Mapping[str, int] | None, count: int) -> dict[str, int]:
    """Sizes by axis over so many devices; -1 (default: of `data`) takes what the others leave.

    Raises:
        ValueError: an unknown axis, or sizes whose product is not the number of devices.
    """
    sizes = {"data": -1, "fsdp": 1, "tensor": 1} | dict(shape or {})
    if set(sizes) != set(AXES):
        raise ValueError(f"mesh: unknown axes {sorted(set(sizes) - set(AXES))}, known: {AXES}.")
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {a: count // known if n == -1 else n for a, n in sizes.items()}
    if math.prod(sizes.values()) != count:
        raise ValueError(f"mesh: {sizes} does not make {count} devices: change the sizes.")
    return {axis: sizes[axis] for axis in AXES}


def device_grid(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Devices by `AXES`; several slices of a TPU, far from each other, share `data` alone.

    Raises:
        ValueError: the slices do not divide the size of `data`.
    """
    count = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes["data"] % count:
        raise ValueError(
            f"mesh: data={sizes['data']} does not divide among {count} slices: "
            f"take a multiple of {count}."
        )
    shape = (sizes["data"] // count, sizes["fsdp"], sizes["tensor"])
    # A side of a pod may serve two axes: jax.make_mesh allows it on one generation only.
    if count == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        shape, (count, 1, 1), devices, allow_split_physical_axes=True
    )


def make_mesh(shape: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices; sizes as in `mesh_sizes`, slices as in `device_grid`."""
    devices = jax.devices() if devices is None else devices
    grid = device_grid(mesh_sizes(shape, len(devices)), devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """The spec of one array; an axis that the mesh does not divide stays whole."""
    if not shape:
        return P()
    last = tuple(match_one(name, RULES, "sharding"))
    if len(last) > len(shape):
        raise ValueError(f"sharding: {name!r} has shape {shape}, fewer axes than its rule {last}.")
    spec = (None,) * (len(shape) - len(last)) + last
    fits = (a and size % mesh.shape[a] == 0 for a, size in zip(spec, shape, strict=True))
    return P(*(a if fit else None for a, fit in zip(spec, fits, strict=True)))


def shard_like(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """The sharding of each leaf of a state or of frozen arrays (arrays or shapes)."""
    specs = {n: parameter_spec(n, tuple(x.shape), mesh) for n, x in named_leaves(tree).items()}
    return with_leaves(tree, {name: NamedSharding(mesh, spec) for name, spec in specs.items()})


def shaped(tree: Any, shardings: Any) -> Any:
    """The shapes of arrays, each told where it would be."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def put(array: Any, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process has whole, or that is spread over the mesh already.

    Each process feeds its own devices: `jax.device_put` would compare what all have first.
    """
    spread = isinstance(array, jax.Array) and not array.is_fully_addressable
    if sharding.is_fully_addressable or spread:
        return jax.device_put(array, sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def place(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Puts every leaf where the table says; shapes are only told so."""
    shardings = shard_like(tree, mesh)
    shapes = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree))
    if shapes or isinstance(mesh, AbstractMesh):
        return shaped(tree, shardings)
    if mesh.is_multi_process:
        return jax.tree.map(put, tree, shardings)
    return jax.device_put(tree, shardings)


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError unless the rows divide among the devices that split a batch."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"batch_size: {batch_size} rows do not divide among {parts} devices "
            f"(mesh {dict(mesh.shape)}): take a multiple of {parts}."
        )


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a global batch that this process feeds, in order.

    They follow from the sharding, not from the process's number: with tensor
    parallelism across processes several of them feed the same rows.
    """
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    slices = {index[0].indices(batch_size) for index in indices.values() if index}
    return np.array(sorted({row for bounds in slices for row in range(*bounds)}))


def batch_shapes(batch: Any, mesh: Mesh | AbstractMesh) -> Any:
    """The shapes of a global batch as `to_mesh` places it."""
    return shaped(
        batch,
        jax.tree.map(lambda x: NamedSharding(mesh, BATCH if x.shape else P()), batch),
    )


def to_mesh(batch: Any, batch_size: int, mesh: Mesh) -> Any:
    """Global arrays from this process's rows; scalars are copied to every device."""

    def globally(array: Any) -> jax.Array:
        if np.ndim(array) == 0:
            return put(array, NamedSharding(mesh, P()))
        sharding = NamedSharding(mesh, BATCH)
        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(array), shape)

    return jax.tree.map(globally, batch)
