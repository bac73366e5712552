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

from moshijax.errors import UserError
from moshijax.nn.paths import named_leaves, with_leaves


AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))
SHOWN = 4  # Of the arrays that an axis does not divide.
WIDEST_TENSOR = 8  # Wider than a host's chips it is never worth its traffic.

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
        UserError: no rule or several rules match.
    """
    found = [(regex, value) for regex, value in rules if re.search(f"(?:^|/)(?:{regex})$", name)]
    if len(found) == 1:
        return found[0][1]
    matches = ", ".join(repr(regex) for regex, _ in found) or "none"
    raise UserError(
        f"{what}: parameter {name!r} must match exactly one rule, it matches {matches}: "
        f"change the rules ({', '.join(repr(regex) for regex, _ in rules)})."
    )


def mesh_sizes(shape: Any, count: int) -> dict[str, int]:
    """Sizes by axis over so many devices; -1 (default: of `data`) takes what the others leave.

    Args:
        shape: a mapping, as a config's `mesh` is one; None: all devices on `data`.
        count: of devices.

    Raises:
        UserError: an unknown axis, what is no size, or sizes that do not make the devices.
    """
    if shape is not None and not hasattr(shape, "items"):
        raise UserError(f"mesh: {shape!r} is no table of sizes: write it as dict(data=1, fsdp=-1).")
    sizes = {"data": -1, "fsdp": 1, "tensor": 1} | dict(shape.items() if shape else {})
    if set(sizes) != set(AXES):
        unknown = sorted(set(sizes) - set(AXES))
        raise UserError(f"mesh: unknown axes {unknown}, take some of {', '.join(AXES)}.")
    for axis, size in sizes.items():
        if type(size) is not int or size < -1 or size == 0:
            raise UserError(
                f"mesh.{axis}: {size!r} is no size: take a whole number from 1 on, or -1 for "
                f"what the other axes leave of the {count} devices."
            )
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise UserError(
            f"mesh: {' and '.join(rest)} are -1, but one axis alone can take what the others leave "
            f"of the {count} devices: give the sizes of the others."
        )
    known = math.prod(size for size in sizes.values() if size != -1)
    if count % known or (not rest and known != count):
        raise UserError(
            f"mesh: {mesh_text(sizes)} does not make {count} devices: take sizes whose product is "
            f"{count}, or -1 for one of them and others whose product divides {count}."
        )
    return {axis: count // known if sizes[axis] == -1 else sizes[axis] for axis in AXES}


def mesh_text(sizes: Mapping[str, int]) -> str:
    """Sizes as they are typed: `data=4,fsdp=8`; axes that are 1 wide are left out."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "data=1"


def device_grid(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Devices by `AXES`; several slices of a TPU, far from each other, share `data` alone.

    Raises:
        UserError: the slices do not divide the size of `data`.
    """
    count = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes["data"] % count:
        raise UserError(
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


def make_mesh(shape: Any = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices; sizes as in `mesh_sizes`, slices as in `device_grid`."""
    devices = jax.devices() if devices is None else devices
    grid = device_grid(mesh_sizes(shape, len(devices)), devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: Mapping[str, int] | None = None) -> AbstractMesh:
    """A mesh of no devices, to plan on; without sizes of one."""
    sizes = dict.fromkeys(AXES, 1) if sizes is None else sizes
    return AbstractMesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(AXES)
    )


def _whole_spec(name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """The mesh axis of each dimension by the table."""
    if not shape:
        return ()
    last = tuple(match_one(name, RULES, "sharding"))
    # Adafactor keeps means over an axis of a parameter's squared gradients: little, and of fewer
    # axes than the parameter. One number stands for what it does not keep.
    if {"v_row", "v_col"} & set(name.split("/")) or math.prod(shape) == 1:
        return (None,) * len(shape)
    if len(last) > len(shape):
        raise ValueError(f"sharding: {name!r} has shape {shape}, fewer axes than its rule {last}.")
    return (None,) * (len(shape) - len(last)) + last


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """The spec of one array; an axis that the mesh does not divide stays whole."""
    axes = zip(_whole_spec(name, shape), shape, strict=True)
    return P(*(a if a and size % mesh.shape[a] == 0 else None for a, size in axes))


def undivided(tree: Any, mesh: Mesh | AbstractMesh) -> list[str]:
    """What stays whole since its axis of the mesh does not divide it: a line for each axis."""
    found: dict[str, list[str]] = {}
    for name, leaf in named_leaves(tree).items():
        for axis, size in zip(_whole_spec(name, leaf.shape), leaf.shape, strict=True):
            if axis and size % mesh.shape[axis]:
                found.setdefault(axis, []).append(f"{size} of {name}")
    return [
        f"mesh.{axis}={mesh.shape[axis]} does not divide {', '.join(names[:SHOWN])}"
        f"{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}: every device has the "
        "whole of it."
        for axis, names in found.items()
    ]


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


def check_batch_size(
    batch_size: int, mesh: Mesh | AbstractMesh, pieces: int = 1, name: str = "batch_size"
) -> None:
    """Raises UserError unless the rows divide among the devices that split a batch.

    Args:
        batch_size: rows of a global batch.
        mesh: the devices.
        pieces: one after the other in an update, each over all of these devices.
        name: of the config's key, for the error.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    where = f"do not divide among {parts} devices (mesh {mesh_text(mesh.shape)})"
    if batch_size % parts:
        other = _narrower(batch_size, mesh)
        raise UserError(f"{name}: {batch_size} rows {where}: take a multiple of {parts}{other}.")
    each = batch_size // parts
    if each % pieces:
        fitting = [n for n in range(1, each + 1) if each % n == 0]
        raise UserError(
            f"accumulate: {pieces} pieces of {batch_size} rows {where}: take "
            f"{alternatives(fitting)}, or a {name} of a multiple of {parts * pieces}."
        )


def alternatives(values: Sequence[Any]) -> str:
    """`1, 2 or 4`."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _narrower(batch_size: int, mesh: Mesh | AbstractMesh) -> str:
    """A mesh of as many devices over which the rows divide, where a host's chips allow it."""
    parts = math.gcd(batch_size, mesh.size)
    tensor = mesh.size // parts
    if tensor > WIDEST_TENSOR:
        return ""
    data = math.gcd(mesh.shape["data"], parts)
    return f", or a mesh of {mesh_text({'data': data, 'fsdp': parts // data, 'tensor': tensor})}"


def fill_up(batch_size: int, mesh: Mesh | AbstractMesh) -> int:
    """The next number of rows that divide among the devices; those in excess are padding."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-batch_size // parts) * parts


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
