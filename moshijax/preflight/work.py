"""What one chip does in a step: cycles as its compiler estimates them, and bytes of its memory.

The estimate of a large matrix product is 2 to 18% over the time at peak on v4, v5e and v5p, up to
42% on v6e, and is taken as it is. That of everything else is divided by the chip's `slack`: chips
add large arrays at nine tenths of their memory's bandwidth, and the estimate is 1.3 to 2 times the
time of that. It is never below the bytes over the bandwidth. Pallas kernels have no estimate.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from moshijax.preflight import hlo
from moshijax.train.chips import Chip


# Neither compute nor move anything by themselves.
FREE = (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "iota", "opt-barrier", "copy-done", "async-done"),
)
SLICES = ("dynamic-slice", "slice", "gather")
PRODUCTS = "matrix products and convolutions"
UNKNOWN = 1 << 60  # The compiler writes the largest number where it has no estimate.


class Work(NamedTuple):
    """Sums over a step of one chip."""

    cycles: float  # The compiler's estimate.
    seconds: float  # The same, calibrated.
    bytes: float  # To and from the main memory.
    by_kind: Mapping[str, float]  # Of the seconds, the most first.
    kernels: int  # Runs of kernels without an estimate.


def count(module: hlo.Module, chip: Chip) -> Work:
    """Adds up all instructions, loops multiplied out."""
    cycles, moved, kernels = 0.0, 0.0, 0
    kinds: dict[str, float] = {}
    for name, times in module.runs():
        types = {op.name: op.type for op in module.computations.get(name, ())}
        for op in module.computations.get(name, ()):
            if op.opcode in FREE:
                continue
            own = int(op.field(r'"estimated_cycles":"(\d+)"') or 0)
            own = own if own < UNKNOWN else 0
            touched = traffic(module, op, types)
            cycles += times * own
            moved += times * touched
            kernels += times if is_kernel(op) else 0
            what = kind(op)
            kinds[what] = kinds.get(what, 0.0) + times * seconds(what, own, touched, chip)
    ranked = dict(sorted(kinds.items(), key=lambda item: -item[1]))
    return Work(cycles, sum(kinds.values(), 0.0), moved, ranked, kernels)


def seconds(kind: str, cycles: int, touched: float, chip: Chip) -> float:
    """The time of an instruction with an estimate, calibrated as the module's head says."""
    if kind == PRODUCTS or not cycles:
        return cycles / chip.clock
    return max(cycles / chip.clock / chip.slack, touched / chip.bandwidth)


def is_kernel(op: hlo.Instruction) -> bool:
    """Whether an instruction is a kernel written by hand."""
    return op.opcode == "custom-call" and '"tpu_custom_call"' in op.text


def kind(op: hlo.Instruction) -> str:
    """A name for what an instruction does, by the operations that were fused into it."""
    if "convolution" in op.text[:200] or "convolution_algorithm_config" in op.text:
        return PRODUCTS
    if op.opcode in ("copy", "transpose", "reshape") or op.name.startswith("copy"):
        return "copies"
    return "elementwise and reductions" if op.opcode == "fusion" else op.opcode


def _in_memory(type_text: str) -> float:
    """Bytes of the arrays of a type that are in the main memory."""
    return sum((n for n, in_memory in hlo.arrays(type_text) if in_memory), 0.0)


def traffic(module: hlo.Module, op: hlo.Instruction, types: Mapping[str, str]) -> float:
    """Bytes that an instruction reads from and writes to the main memory."""
    if op.opcode == "async-start":
        inside = module.computations.get(op.called or "", [])
        inner_types = {o.name: o.type for o in inside}
        return sum(traffic(module, o, inner_types) for o in inside if o.opcode not in FREE)
    if op.opcode.endswith("-done"):
        return 0.0  # Its start is counted.
    if op.opcode.endswith("-start") and op.opcode != "all-reduce-start":
        return _in_memory(op.type)  # Their types name their input, too.
    operands = [types.get(name, "") for name in op.operands]
    if op.opcode in SLICES:
        return bool(_in_memory(operands[0])) * hlo.size(op.type) + _in_memory(op.type)
    if op.opcode == "dynamic-update-slice":
        return 2 * _in_memory(operands[1])
    inner = module.computations.get(op.called or "", []) if op.opcode == "fusion" else []
    read = [_in_memory(text) for text in operands]
    written = _in_memory(op.type)
    for i, name in _parameters(inner):
        users = [o for o in inner if name in o.operands]
        updates = [o for o in users if o.opcode == "dynamic-update-slice" and o.operands[0] == name]
        if i < len(read) and users and all(o.opcode in SLICES for o in users):
            read[i] = min(read[i], sum(hlo.size(o.type) for o in users))
        elif i < len(read) and updates:
            # Written in place: of the whole array only the update moves.
            part = sum(hlo.size(o.type) for o in inner if o.name == updates[0].operands[1])
            written -= max(read[i] - part, 0.0)
            read[i] = 0.0
    return sum(read) + max(written, 0.0)


def _parameters(inner: list[hlo.Instruction]) -> list[tuple[int, str]]:
    """Number and name of each parameter of a fusion."""
    found = [(re.match(r"parameter\((\d+)\)", op.text), op.name) for op in inner]
    return [(int(match.group(1)), name) for match, name in found if match]
