"""What a chip can do: the one table of peaks, memories and links.

Rates are those of the vendors' data sheets, in FLOP/s and bytes/s; a link's is one direction's,
as collectives reach it: nine tenths of the sheet's.
"""

from typing import NamedTuple, Protocol, runtime_checkable


GIB = 2**30


@runtime_checkable
class Device(Protocol):
    """What is asked of a JAX device."""

    platform: str  # cpu, gpu or tpu.
    device_kind: str


class Chip(NamedTuple):
    """One kind of accelerator, by JAX device; zero where a figure is not needed here."""

    kind: str  # What JAX's device_kind begins with.
    flops: float  # FLOP/s, dense bfloat16.
    hbm: float = 0.0  # Bytes that the TPU compiler lets a program use.
    bandwidth: float = 0.0  # Bytes/s of that memory.
    link: float = 0.0  # Bytes/s, one way, to one neighbour.
    clock: float = 0.0  # Hz, of the cycles that the TPU compiler estimates.
    # The compiler's cycles of a large addition over its time at nine tenths of the bandwidth.
    slack: float = 1.0
    vmem_kib: int = 0  # Vector memory that an operation may fill; 0: the compiler's default.
    cores: int = 1  # Devices a chip.
    ring: int = 0  # A side of a multiple of this many chips is closed to a ring.
    topologies: tuple[str, ...] = ()  # Shapes that can be ordered.


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x12", "4x8x8", "8x8x8"),
    *("8x8x12", "8x8x16", "8x16x16", "16x16x16"),
)

CHIPS: dict[str, Chip] = {
    "v4": Chip("TPU v4", 275e12, 30.75 * GIB, 1228e9, 45e9, 1.05e9, 1.3, 0, 1, 4, _CUBES),
    "v5e": Chip("TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 45e9, 1.5e9, 1.55, 24576, 1, 16, _FLAT),
    "v5p": Chip("TPU v5", 459e12, 95.74 * GIB, 2765e9, 90e9, 1.75e9, 2.0, 24576, 1, 4, _CUBES),
    "v6e": Chip("TPU v6 lite", 918e12, 31.25 * GIB, 1640e9, 90e9, 1.75e9, 2.0, 49152, 1, 16, _FLAT),
    # Two devices share a chip's links.
    "tpu7x": Chip("TPU7x", 1153.5e12, 94.75 * GIB, 3690e9, 45e9, 2.2e9, 1.0, 0, 2, 4, _CUBES),
    "a100": Chip("NVIDIA A100", 312e12),
    "h100": Chip("NVIDIA H100", 989e12),
    "h200": Chip("NVIDIA H200", 989e12),
}


def find(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; the longest name that fits counts."""
    fits = [c for c in CHIPS.values() if device_kind.startswith(c.kind)]
    return max(fits, key=lambda chip: len(chip.kind), default=None)
