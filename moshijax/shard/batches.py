"""Batches over the mesh: rows are split over `data` and `fsdp`."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import ArrayLike, PyTree

from moshijax.shard.mesh import WIDEST_TENSOR, AnyMesh, mesh_text
from moshijax.shard.placement import put, shaped
from moshijax.shard.rules import Leaf
from moshijax.system.errors import UserError


BATCH = P(("data", "fsdp"))


def check_batch_size(
    batch_size: int, mesh: AnyMesh, pieces: int = 1, name: str = "batch_size"
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


def alternatives(values: Sequence[object]) -> str:
    """`1, 2 or 4`."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _narrower(batch_size: int, mesh: AnyMesh) -> str:
    """A mesh of as many devices over which the rows divide, where a host's chips allow it."""
    parts = math.gcd(batch_size, mesh.size)
    tensor = mesh.size // parts
    if tensor > WIDEST_TENSOR:
        return ""
    data = math.gcd(mesh.shape["data"], parts)
    return f", or a mesh of {mesh_text({'data': data, 'fsdp': parts // data, 'tensor': tensor})}"


def fill_up(batch_size: int, mesh: AnyMesh) -> int:
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


def batch_shapes(batch: PyTree[Leaf], mesh: AnyMesh) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of a global batch as `to_mesh` places it."""
    return shaped(
        batch,
        jax.tree.map(lambda x: NamedSharding(mesh, BATCH if x.shape else P()), batch),
    )


def to_mesh(batch: PyTree[ArrayLike], batch_size: int, mesh: Mesh) -> PyTree[jax.Array]:
    """Global arrays from this process's rows; scalars are copied to every device."""

    def globally(array: ArrayLike) -> jax.Array:
        rows = np.asarray(array)
        if rows.ndim == 0:
            return put(array, NamedSharding(mesh, P()))
        sharding = NamedSharding(mesh, BATCH)
        shape = (batch_size, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return jax.tree.map(globally, batch)
