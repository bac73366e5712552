"""What a program sends between chips: bytes, the mesh axes they cross, and how long that takes."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from moshijax.preflight import hlo
from moshijax.preflight.topology import Slice


KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"),
    *("ragged-all-to-all", "collective-broadcast"),
)
Groups = list[list[int]]


class Transfer(NamedTuple):
    """One collective operation of a program."""

    kind: str
    bytes: float  # Of the result of one run on one chip.
    times: int  # Runs in a step.
    axes: str  # Mesh axes that its groups cross.
    seconds: float  # Of all runs in a step, by the rates of the links.
    overlapped: bool  # Runs beside the arithmetic.
    scope: str
    source: str


def find(module: hlo.Module, place: Slice) -> list[Transfer]:
    """All collectives of a step, the longest first."""
    found = []
    for name, times in module.runs():
        # The pieces of an asynchronous collective share a channel.
        seen: dict[str, Transfer] = {}
        for outer, op in _collectives(module, name):
            key = op.field(r"channel_id=(\d+)") or op.name
            hidden = "-start" in op.opcode or "async" in f"{outer.name} {outer.called}"
            if key not in seen:
                seen[key] = _transfer(module, op, times, place, hidden)
            elif hidden:
                seen[key] = seen[key]._replace(overlapped=True)
        found += seen.values()
    return sorted(found, key=lambda t: -t.seconds)


def _collectives(
    module: hlo.Module, name: str
) -> Iterator[tuple[hlo.Instruction, hlo.Instruction]]:
    """The collectives of a computation, each with the instruction there that runs it."""
    for outer in module.computations.get(name, []):
        # A collective may lie inside of a fusion or of an asynchronous computation.
        inside = [outer.called] if outer.opcode in ("fusion", "async-start") else []
        for op in [outer, *(o for c in inside for o in _nested(module, c))]:
            if op.opcode.removesuffix("-start") in KINDS:
                yield outer, op


def _nested(module: hlo.Module, name: str | None) -> Iterator[hlo.Instruction]:
    """All instructions of a fusion, also of those within."""
    ops = module.computations.get(name or "", [])
    # The TPU compiler's reduce-scatter is a fusion of an all-reduce and a slice of it: the links
    # carry that slice only.
    scatters = (name or "").startswith("all-reduce-scatter")
    kept = next((op.type for op in ops if op.root), "")
    for op in ops:
        if scatters and op.opcode == "all-reduce":
            yield op._replace(opcode="reduce-scatter", type=kept)
        else:
            yield op
        if op.opcode in ("fusion", "call"):  # Sparse cores run what they are given as a call.
            yield from _nested(module, op.called)


def _transfer(
    module: hlo.Module, op: hlo.Instruction, times: int, place: Slice, hidden: bool
) -> Transfer:
    kind = op.opcode.removesuffix("-start")
    sizes = [n for n, _ in hlo.arrays(op.type)]
    # The type of any other `-start` is a tuple of input, output and context: one array counts.
    paired = op.opcode.endswith("-start") and kind != "all-reduce"
    size = max(sizes, default=0.0) if paired else sum(sizes)
    pairs = op.field(r"source_target_pairs=\{(\{[^=]*\})\}")
    groups = _pairs(pairs) if pairs else replica_groups(op.text, place.devices.size)
    # Ring exchanges come in pairs, one for each direction.
    rate = 2 * place.chip.link if pairs else link_rate(groups, place)
    seconds = times * wire_bytes(kind, size, groups, place) / rate
    return Transfer(
        kind=kind,
        bytes=size,
        times=times,
        axes=crossed(groups, place),
        seconds=seconds,
        overlapped=hidden,
        scope=op.field(r'op_name="([^"]*)"'),
        source=module.source(op),
    )


def _pairs(text: str) -> Groups:
    """Source and target of each transfer of a permutation."""
    return [list(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", text)]


def _iota(sizes: str, order: str) -> np.ndarray:
    """Numbers from 0 on in an array of these sizes, its axes transposed to an order."""
    shape = [int(n) for n in sizes.split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def replica_groups(text: str, count: int) -> Groups:
    """The groups of devices, in any of the notations of an HLO text.

    `{{0,1},{2,3}}`, `[2,2]<=[2,2]T(1,0)`, or the axes of a mesh, `mesh['a'=2,'b'=2] {'b'}`.

    Raises:
        ValueError: another notation.
    """
    if match := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        groups = re.findall(r"\{([\d,]*)\}", match.group(1))
        return [[int(n) for n in group.split(",") if n] for group in groups]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape = [int(n) for n in match.group(1).split(",")]
        return _iota(match.group(2), match.group(3) or "").reshape(shape).tolist()
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text):
        sizes = {name: int(n) for name, n in re.findall(r"'([^']*)'=(\d+)", match.group(1))}
        order = re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", match.group(2))
        ids = _iota(order.group(1), order.group(2) or "") if order else np.arange(count)
        names = list(sizes)
        used = [names.index(name) for name in re.findall(r"'([^']*)'", match.group(3))]
        kept = [i for i in range(len(names)) if i not in used]
        grid = ids.reshape(list(sizes.values())).transpose(kept + used)
        return grid.reshape(-1, math.prod(sizes[names[i]] for i in used)).tolist()
    if "replica_groups={}" in text:
        return [list(range(count))]
    raise ValueError(f"replica groups in an unknown notation: {text[:300]}")


def crossed(groups: Groups, place: Slice) -> str:
    """The mesh axes along which the members of a group differ: `data+fsdp`."""
    shape = [place.mesh[axis] for axis in place.mesh]
    differ = set()
    for group in groups:
        points = np.array(np.unravel_index(group, shape))
        differ |= set(np.flatnonzero((points != points[:, :1]).any(axis=1)).tolist())
    return "+".join(axis for i, axis in enumerate(place.mesh) if i in differ)


def link_rate(groups: Groups, place: Slice) -> float:
    """Bytes/s into the worst-placed chip of a group, over all sides of the slice it spans.

    Along a closed ring data arrive from both neighbours, along an open line its last chip has one.
    """
    group = max(groups, key=len, default=[])
    rate = 0.0
    for side, (length, closed) in enumerate(zip(place.sides, place.closed, strict=True)):
        spanned = len(set(place.coordinates[group, side].tolist()))
        if spanned > 1:
            rate += place.chip.link * (2 if closed and spanned == length else 1)
    return rate or 2 * place.chip.link  # All on one chip, or no groups.


def wire_bytes(kind: str, size: float, groups: Groups, place: Slice) -> float:
    """Bytes that a chip receives in one run of a collective.

    Args:
        kind: one of `KINDS`.
        size: bytes of its result on one chip.
        groups: of devices that it is among; for a permutation pairs of source and target.
        place: the mesh and its slice.
    """
    members = max(map(len, groups), default=1)
    share = (members - 1) / max(members, 1)
    if kind == "all-reduce":
        return 2 * size * share
    if kind == "reduce-scatter":
        return size * (members - 1)
    if kind == "collective-permute":
        return size * max(1.0, _hops(groups, place))
    if kind in ("all-to-all", "ragged-all-to-all"):
        return size * max(share, members / 8)  # Half the data cross the middle of a ring.
    return size * share


def _hops(pairs: Groups, place: Slice) -> float:
    """How many links a permutation's transfers pass on average."""
    if not pairs:
        return 0.0
    source, target = np.array(pairs).T
    steps = np.abs(place.coordinates[source] - place.coordinates[target])
    rings = np.where(place.closed, np.minimum(steps, np.array(place.sides) - steps), steps)
    return float(rings.sum(axis=1).mean())


class Sum(NamedTuple):
    """The collectives of one kind over the same axes."""

    kind: str
    axes: str
    count: int  # Runs in a step.
    bytes: float  # Of the results on one chip in a step.
    seconds: float
    exposed: float  # Of the seconds: those beside which nothing runs.


def summarize(transfers: Sequence[Transfer]) -> list[Sum]:
    """Sums by kind and axes, the longest first; what stays on a chip is left out."""

    def key(transfer: Transfer) -> tuple[str, str]:
        return transfer.kind, transfer.axes

    crossing = sorted((t for t in transfers if t.axes), key=key)
    sums = [
        Sum(
            kind,
            axes,
            sum(t.times for t in group),
            sum(t.bytes * t.times for t in group),
            sum(t.seconds for t in group),
            sum(t.seconds for t in group if not t.overlapped),
        )
        for (kind, axes), found in itertools.groupby(crossing, key)
        for group in [list(found)]
    ]
    return sorted(sums, key=lambda s: -s.seconds)
