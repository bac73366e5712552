"""Where the bytes of a chip's main memory go, from what the compiler writes down about them.

The compiler's own report is taken, not `memory_analysis()`, whose temporaries add up to more than
the memory that is set aside for them; it is there also when the program does not fit.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from moshijax.nn.paths import named_leaves
from moshijax.preflight import hlo


UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SHOWN = 8
MINOR = 100  # A buffer so many times smaller than the largest is not worth a line.

_TOTAL = re.compile(r"^Memory Space: default.*\nTotal bytes: (\d+)", re.MULTILINE)
_HEAP = re.compile(r"^allocation \d+: size (\d+), preallocated-temp:", re.MULTILINE)
_VALUE = re.compile(
    r"^ value: <\d+ ([\w.\-]+)(?:\{[^}]*\})? @\d+> \(size=(\d+),offset=(\d+)\): (\S+)"
)
_NUMBER = r"([\d.]+)([KMGT]?)i?B?"
_OVER = (
    re.compile(rf"HLO temporaries \({_NUMBER}\) exceeds available HBM \({_NUMBER}\)"),
    re.compile(rf"Used {_NUMBER} of {_NUMBER} hbm"),
)
_LARGEST = re.compile(rf"Size: {_NUMBER}\s+(?:Operator: op_name=\"([^\"]*)\"\s+)?Shape: (\S+)")


class Buffer(NamedTuple):
    """One of the largest things in memory."""

    bytes: float
    shape: str
    scope: str
    source: str


class Usage(NamedTuple):
    """The memory that a program takes of one chip."""

    needed: float  # At its peak.
    available: float
    arguments: float  # State, frozen arrays and batch.
    temporaries: float
    outputs: float  # What is returned.
    aliased: float  # Of the outputs: in the place of donated arguments.
    largest: tuple[Buffer, ...]


class Overflow(NamedTuple):
    """A compiler's refusal, in bytes."""

    needed: float
    available: float
    largest: tuple[Buffer, ...]


def _bytes(number: str, unit: str) -> float:
    return float(number) * UNITS[unit]


def read_overflow(message: str) -> Overflow | None:
    """What a compiler's error says of memory; None if it is about something else."""
    for pattern in _OVER:
        if match := pattern.search(message):
            needed, available = _bytes(*match.group(1, 2)), _bytes(*match.group(3, 4))
            largest = tuple(
                Buffer(_bytes(*m.group(1, 2)), m.group(4), m.group(3) or "", "")
                for m in _LARGEST.finditer(message)
            )
            return Overflow(needed, available, largest[:SHOWN])
    return None


def read_total(report: str) -> float:
    """Bytes of main memory that a program needs, from the compiler's report (0: not told)."""
    match = _TOTAL.search(report)
    return float(match.group(1)) if match else 0.0


def largest_buffers(assignment: str, module: hlo.Module | None) -> tuple[Buffer, ...]:
    """The largest temporaries, one for each place in memory.

    Args:
        assignment: the compiler's text on the assignment of buffers.
        module: the compiled program, to find the source lines in; None: there is none.
    """
    found: list[tuple[int, int, str, str]] = []
    for size, offset, name, shape in sorted(_heap_values(assignment), reverse=True):
        if shape.startswith("("):
            continue  # A tuple: its buffer holds addresses, not an array.
        if len(found) == SHOWN or (found and size * MINOR < found[0][0]):
            break
        if all(size + offset <= o or o + s <= offset for s, o, _, _ in found):
            found.append((size, offset, name, shape))
    ops = {op.name: op for c in (module.computations.values() if module else ()) for op in c}
    return tuple(_buffer(size, name, shape, ops, module) for size, _, name, shape in found)


def _buffer(
    size: int,
    name: str,
    shape: str,
    ops: Mapping[str, hlo.Instruction],
    module: hlo.Module | None,
) -> Buffer:
    """A buffer, with the operation and the line that it comes from, where they are known."""
    op = ops.get(name)
    if op is None or module is None:
        return Buffer(size, _plain(shape), name, "")
    scope = op.field(r'op_name="([^"]*)"')
    return Buffer(size, _plain(shape), scope or name, module.source(op))


def _heap_values(assignment: str) -> Iterator[tuple[int, int, str, str]]:
    """Size, offset, name and shape of each value in the heap of temporaries."""
    inside = False
    for line in assignment.splitlines():
        if line.startswith("allocation"):
            inside = bool(_HEAP.match(line))
        elif inside and (match := _VALUE.match(line)):
            yield int(match.group(2)), int(match.group(3)), match.group(1), match.group(4)


def _plain(shape: str) -> str:
    """A shape without its layout."""
    return re.sub(r"\{[^}]*\}", "", shape)


class Share(NamedTuple):
    """Arrays of one part of the state that are split alike."""

    part: str  # model, mu, nu, frozen.
    spec: str
    arrays: int
    bytes: float  # Of all of them together.
    chip_bytes: float  # Of what one chip holds.


def shares(
    state: PyTree[jax.ShapeDtypeStruct], frozen: PyTree[jax.Array | jax.ShapeDtypeStruct]
) -> list[Share]:
    """How the parts of a placed state and of frozen arrays are split, the largest first."""
    leaves = {f"state/{name}": x for name, x in named_leaves(state).items()}
    leaves |= {f"frozen/{name}": x for name, x in named_leaves(frozen).items()}
    sums: dict[tuple[str, str], list[float]] = {}
    for name, x in leaves.items():
        split = [a for a in x.sharding.spec if a and x.sharding.mesh.shape[a] > 1]
        spec = ", ".join(split) or "whole"
        row = sums.setdefault((_part(name), spec), [0, 0, 0])
        row[0] += 1
        row[1] += nbytes(x.shape, x.dtype)
        row[2] += nbytes(x.sharding.shard_shape(x.shape), x.dtype)
    rows = [Share(part, spec, int(n), b, c) for (part, spec), (n, b, c) in sums.items()]
    return sorted(rows, key=lambda share: -share.chip_bytes)


def _part(name: str) -> str:
    """The state's field, or the moment's: whatever names a whole copy of the parameters."""
    parts = name.split("/")
    for moment in ("mu", "nu", "trace", "v_row", "v_col"):
        if moment in parts:
            return f"optimizer {moment}"
    return parts[1] if parts[0] == "state" else "frozen"


def nbytes(shape: Sequence[int], dtype: Any) -> float:
    """Bytes of an array; a random key's are its two words'."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return 8.0
    size = float(jax.numpy.dtype(dtype).itemsize)
    for n in shape:
        size *= n
    return size


def chip_bytes(tree: PyTree[jax.Array | jax.ShapeDtypeStruct]) -> float:
    """Bytes that one chip holds of placed arrays."""
    sizes = (nbytes(x.sharding.shard_shape(x.shape), x.dtype) for x in jax.tree.leaves(tree))
    return sum(sizes, 0.0)
