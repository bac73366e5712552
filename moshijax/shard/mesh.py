"""The device mesh: three axes, and what they may be over so many devices."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from moshijax.system.errors import UserError


AXES = ("data", "fsdp", "tensor")
WIDEST_TENSOR = 8  # Wider than a host's chips it is never worth its traffic.
AnyMesh = Mesh | AbstractMesh


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
