"""Reads the text of an optimised HLO module: what runs, how often, and from which source line.

XLA's own totals count the body of a loop once. The trip count of a loop stands only in the
constant that its condition compares with.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


BITS = {
    **{"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16},
    **{"f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64},
    **{"f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8},
}
NAMES = r"%?([\w.\-]+)"

_HEAD = re.compile(rf"^(ENTRY )?{NAMES} \(.*\{{\s*$")
_INSTRUCTION = re.compile(rf"^\s+(ROOT )?{NAMES} = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(rf"(?:calls|to_apply|called_computation)={NAMES}")
_BRANCHES = re.compile(rf"(?:true_computation|false_computation)={NAMES}")
_TABLE = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)$")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    text: str  # What follows the type.
    root: bool

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        inside = self.text[self.text.find("(") + 1 : _closing(self.text, self.text.find("("))]
        return re.findall(r"%([\w.\-]+)", inside)

    @property
    def called(self) -> str | None:
        """The computation that a fusion or an asynchronous operation runs."""
        found = _CALLED.search(self.text)
        return found.group(1) if found else None

    def field(self, pattern: str) -> str:
        """The first group of a pattern in its attributes, else nothing."""
        found = re.search(pattern, self.text)
        return found.group(1) if found else ""


class Module(NamedTuple):
    """A whole program."""

    computations: dict[str, list[Instruction]]
    entry: str
    lines: dict[int, str]  # Source line of each stack frame.

    def source(self, instruction: Instruction) -> str:
        """Where in the Python sources an instruction comes from."""
        frame = instruction.field(r"stack_frame_id=(\d+)")
        return self.lines.get(int(frame), "") if frame else ""

    def runs(self) -> Iterator[tuple[str, int]]:
        """Every computation that is run as such, with how often a step runs it."""
        yield from self._runs(self.entry, 1)

    def _runs(self, name: str, times: int) -> Iterator[tuple[str, int]]:
        yield name, times
        for op in self.computations.get(name, ()):
            if op.opcode == "while":
                trips = self.trips(op.field(rf"condition={NAMES}"))
                yield from self._runs(op.field(rf"body={NAMES}"), times * trips)
            elif op.opcode == "conditional":
                several = op.field(r"branch_computations=\{([^}]*)\}")
                branches = re.findall(NAMES, several) or _BRANCHES.findall(op.text)
                for branch in branches:
                    yield from self._runs(branch, times)
            elif op.opcode == "call" and op.called:
                yield from self._runs(op.called, times)

    def trips(self, condition: str) -> int:
        """How often a loop runs: the largest constant of its condition, at least once."""
        ops = self.computations.get(condition, [])
        found = [int(op.field(r"^constant\((\d+)\)") or 0) for op in ops if op.opcode == "constant"]
        inner = [self.trips(op.called) for op in ops if op.called]
        return max([1, *found, *inner])


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return len(text)


def _instruction(line: str) -> Instruction | None:
    """The instruction of a line, `%name = type opcode(operands), attributes`; None: no such."""
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    rest = match.group(3)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    text = rest[end:].strip()
    opcode = re.match(r"([\w\-]+)\(", text)
    return Instruction(
        match.group(2), rest[:end], opcode.group(1) if opcode else "", text, bool(match.group(1))
    )


def parse(text: str) -> Module:
    """Reads the text that a compiler dumps after its last pass."""
    computations: dict[str, list[Instruction]] = {}
    tables: dict[str, list[str]] = {}
    current, entry, table = "", "", ""
    for line in text.splitlines():
        if current:
            # Kernels carry attributes of many lines, some of which begin with a bracket.
            if line.startswith("}") and not line.startswith("}}"):
                current = ""
            elif op := _instruction(line):
                computations[current].append(op)
            continue
        if head := _HEAD.match(line):
            current = head.group(2)
            computations[current] = []
            entry, table = current if head.group(1) else entry, ""
        elif found := _TABLE.match(line):
            table = found.group(1)
        elif table and line.strip():
            tables.setdefault(table, []).append(line)
    return Module(computations, entry, _source_lines(tables))


def _source_lines(tables: dict[str, list[str]]) -> dict[int, str]:
    """The innermost line of each stack frame that is not a library's."""
    files = {}
    for line in tables.get("FileNames", []):
        number, _, name = line.partition(" ")
        files[int(number)] = name.strip('"')
    places, frames = {}, {}
    for line in tables.get("FileLocations", []):
        number, file, row = re.findall(r"^(\d+)|file_name_id=(\d+)|\bline=(\d+)", line)[:3]
        places[int(number[0])] = (files.get(int(file[1]), ""), int(row[2]))
    for line in tables.get("StackFrames", []):
        number, place, parent = map(int, re.findall(r"\d+", line)[:3])
        frames[number] = (place, parent - 1)  # Parents are counted from 1, 0 being none.
    return {number: _line(number, frames, places) for number in frames}


def _line(
    number: int, frames: dict[int, tuple[int, int]], places: dict[int, tuple[str, int]]
) -> str:
    """File and line of a stack frame, or of the first caller that is not a library's."""
    here = number
    while here in frames:
        file, row = places.get(frames[here][0], ("", 0))
        if file and "site-packages" not in file:
            return f"{_short(file)}:{row}"
        here = frames[here][1]
    file, row = places.get(frames[number][0], ("", 0))
    return f"{_short(file)}:{row}" if file else ""


def _short(file: str) -> str:
    """The last two parts of a path."""
    return "/".join(file.split("/")[-2:])


def arrays(type_text: str) -> list[tuple[float, bool]]:
    """Bytes of each array of a type, and whether it is in the main memory (HBM)."""
    found = []
    for kind, sides, layout in _ARRAY.findall(type_text):
        if kind in BITS:
            count = math.prod(int(n) for n in sides.split(",") if n)
            found.append((count * BITS[kind] / 8, "S(" not in layout))
    return found


def size(type_text: str) -> float:
    """Bytes of all arrays of a type."""
    return sum((n for n, _ in arrays(type_text)), 0.0)
