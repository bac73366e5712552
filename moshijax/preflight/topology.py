"""TPU slices by name, described by libtpu on a machine that need not have a TPU."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from moshijax.system import libtpu
from moshijax.system.errors import UserError
from moshijax.train.chips import CHIPS, Chip


FAMILIES = tuple(family for family, chip in CHIPS.items() if chip.topologies)


class UnknownSliceError(ValueError):
    """The installed libtpu cannot describe a slice."""


class Topology(NamedTuple):
    """A slice as it is ordered."""

    name: str
    chip: Chip
    sides: tuple[int, int, int]  # In chips.

    @property
    def chips(self) -> int:
        """How many chips it has, which is what is paid for."""
        return self.sides[0] * self.sides[1] * self.sides[2]

    @property
    def size(self) -> int:
        """How many devices JAX sees."""
        return self.chips * self.chip.cores

    @property
    def closed(self) -> tuple[bool, bool, bool]:
        """Which sides close to a ring; a cube's do together or not at all."""
        x, y, z = (side % self.chip.ring == 0 for side in self.sides)
        cube = x and y and z
        return (x, y, False) if self.sides[2] == 1 else (cube, cube, cube)


class Slice(NamedTuple):
    """A mesh laid out over a slice."""

    chip: Chip
    mesh: Mapping[str, int]  # Sizes by axis.
    devices: np.ndarray  # Numbers in the order of the mesh.
    coordinates: np.ndarray  # Of each, in chips.
    sides: tuple[int, int, int]
    closed: tuple[bool, bool, bool]


def parse(name: str) -> Topology:
    """The slice called so, such as v5p:4x4x8, in either case and with spaces.

    Raises:
        UserError: there is none.
    """
    family, _, shape = "".join(name.lower().split()).partition(":")
    if family not in FAMILIES:
        raise UserError(
            f"topology: {name.strip()!r} is unknown, take one of {', '.join(FAMILIES)} and a "
            f"shape, such as {FAMILIES[0]}:{CHIPS[FAMILIES[0]].topologies[0]}."
        )
    chip = CHIPS[family]
    if shape not in chip.topologies:
        raise UserError(
            f"topology: {family} has no shape {shape!r}, take one of "
            f"{', '.join(f'{family}:{known}' for known in chip.topologies)}."
        )
    sides = [int(n) for n in shape.split("x")]
    x, y, z = sides if len(sides) == 3 else (*sides, 1)
    return Topology(f"{family}:{shape}", chip, (x, y, z))


def check_libtpu() -> None:
    """Raises UserError if there is nothing to compile with."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed: pip install 'moshijax[tpu]'.")


def devices(topology: Topology) -> list[jax.Device]:
    """The devices of a slice, to compile for.

    Raises:
        UserError: libtpu is missing.
        UnknownSliceError: libtpu does not know the slice.
    """
    check_libtpu()
    libtpu.hush()
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # Another process may compile, too.
    options: dict[str, Any] = {"wrap": topology.closed} if any(topology.closed) else {}
    if topology.name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # One device a chip.
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UnknownSliceError(f"libtpu does not know {topology.name} ({reason}).") from error
    return list(found.devices)


def lay_out(topology: Topology, mesh: Mesh) -> Slice:
    """A mesh with the place of each of its devices in the slice."""
    order = mesh.devices.flatten()
    coordinates = np.array([device.coords for device in order])
    numbers = np.arange(len(order))
    return Slice(
        topology.chip, dict(mesh.shape), numbers, coordinates, topology.sides, topology.closed
    )
