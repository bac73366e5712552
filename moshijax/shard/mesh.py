"""The device mesh: three axes, and what they may be over so many devices."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from moshijax.system.errors import UserError


AXES = ("data", "fsdp", "tensor")
WIDEST_TENSOR = 8  # Beyond the chips of a host its communication costs more than it saves.
AnyMesh = Mesh | AbstractMesh


@runtime_checkable
class Table(Protocol):
    """A mapping; a table of a config, which is none by its class, is one too."""

    def items(self) -> Iterable[tuple[str, object]]:
        """Axes and sizes."""
        ...


def mesh_sizes(shape: object, count: int) -> dict[str, int]:
    """Sizes by axis over so many devices; -1 (default: of `data`) takes what the others leave.

    Args:
        shape: a mapping, as a config's `mesh` is one; None: all devices on `data`.
        count: of devices.

    Raises:
        UserError: an unknown axis, what is no size, or sizes that do not make the devices.
    """
    if shape is not None and not isinstance(shape, Table):
        raise UserError(f"mesh: {shape!r} is no table of sizes: write it as dict(data=1, fsdp=-1).")
    given = {"data": -1, "fsdp": 1, "tensor": 1} | dict(shape.items() if shape else {})
    if set(given) != set(AXES):
        unknown = sorted(set(given) - set(AXES))
        raise UserError(f"mesh: unknown axes {unknown}, take some of {', '.join(AXES)}.")
    sizes = {axis: _size(axis, value, count) for axis, value in given.items()}
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


def _size(axis: str, value: object, count: int) -> int:
    if type(value) is not int or value < -1 or value == 0:
        raise UserError(
            f"mesh.{axis}: {value!r} is no size: take a whole number from 1 on, or -1 for "
            f"what the other axes leave of the {count} devices."
        )
    return value


def mesh_text(sizes: Mapping[str, int]) -> str:
    """Sizes as they are typed: `data=4,fsdp=8`; axes that are 1 wide are left out."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "data=1"


def device_grid(sizes: Mapping[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices as an array with the axes `AXES`; slices of a TPU are laid along `data` alone.

    Between slices there is only the network of the data centre, too slow for the other axes.

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
    # A physical axis of the torus may be split over two of the mesh: jax.make_mesh allows that
    # for one generation only.
    if count == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        shape, (count, 1, 1), devices, allow_split_physical_axes=True
    )


def make_mesh(shape: object = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; sizes as in `mesh_sizes`, slices as in `device_grid`."""
    devices = jax.devices() if devices is None else devices
    grid = device_grid(mesh_sizes(shape, len(devices)), devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: Mapping[str, int] | None = None) -> AbstractMesh:
    """A mesh without devices, to plan on; None: all sizes are 1."""
    sizes = dict.fromkeys(AXES, 1) if sizes is None else sizes
    return AbstractMesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(AXES)
    )
