"""Safetensors files: read lazily through a memory map, written one tensor at a time.

A file is the length of its header (8 bytes), the header (JSON: a name to dtype, shape and byte
range), and the bytes. Nothing in a file is trusted: every number is checked before it is used.
"""

import json
import math
import mmap
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeGuard

import ml_dtypes
import numpy as np

from moshijax.convert.foreign import refuse_foreign, refuse_unfinished
from moshijax.system.errors import UserError
from moshijax.system.files import replacing


DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
MAX_HEADER = 100_000_000  # bytes; the limit of the format
MAX_RANK = 32
MAX_BYTES = 2**63 - 1  # of an array in NumPy, which multiplies the other sizes even where one is 0
REMEDY = "it is damaged, so fetch it anew"


class Entry(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Safetensors(Mapping[str, np.ndarray]):
    """A file as a mapping from names to read-only arrays that are read when touched."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._bytes = _map(self.path)
        self.entries, self.metadata = _read_header(self.path, self._bytes)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.entries:
            raise KeyError(f"{self.path} holds no tensor {name}")
        entry = self.entries[name]
        count = math.prod(entry.shape)
        if not count:
            return np.zeros(entry.shape, entry.dtype)
        flat = np.frombuffer(self._bytes, entry.dtype, count, entry.start)
        return flat.reshape(entry.shape)

    def release(self) -> None:
        """Drops the pages that were read from memory; a tensor touched again is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._bytes.madvise(mmap.MADV_DONTNEED)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _map(path: pathlib.Path) -> mmap.mmap:
    refuse_unfinished(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    size = path.stat().st_size
    if size < 8:
        raise UserError(f"{path} is {size} bytes long, which is no safetensors file; fetch it anew")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_header(path: pathlib.Path, data: mmap.mmap) -> tuple[dict[str, Entry], dict[str, str]]:
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        refuse_foreign(path, data[:64])
        raise UserError(
            f"{path} says that its header has {length} bytes, but the file has {len(data)}: "
            "it is cut short or no safetensors file, so fetch it anew"
        )
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=no_repeats)
    except (ValueError, RecursionError) as error:
        refuse_foreign(path, data[:64])
        raise UserError(
            f"{path} has a header that is no JSON ({error}): it is no safetensors file, or "
            "damaged, so fetch it anew"
        ) from error
    if not isinstance(header, dict):
        raise UserError(f"{path} has a header that is no JSON object: {REMEDY}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{path} has a field __metadata__ that is no table of texts: {REMEDY}")
    start = 8 + length
    entries = {name: _read_entry(path, name, field, start) for name, field in header.items()}
    _check_ranges(path, entries, start, len(data))
    return entries, metadata


def no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Makes a dict of a JSON object and refuses a repeated name: json's `object_pairs_hook`."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _read_entry(path: pathlib.Path, name: str, field: object, start: int) -> Entry:
    where = f"{path}, tensor {brief(name)}"
    if not isinstance(field, dict) or field.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(
            f"{where} must have the fields dtype, shape and data_offsets, not {brief(field)}: "
            f"{REMEDY}"
        )
    kind, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise UserError(
            f"{where} has the dtype {brief(kind)}; convert it to one of {', '.join(DTYPES)}"
        )
    if not _naturals(shape) or not _addressable(shape, DTYPES[kind]):
        raise UserError(
            f"{where} has the shape {brief(shape)}, which is no list of sizes: {REMEDY}"
        )
    if not _naturals(offsets) or len(offsets) != 2:
        raise UserError(
            f"{where} has the data_offsets {brief(offsets)}, which are no two numbers: {REMEDY}"
        )
    first, last = offsets
    size = math.prod(shape) * DTYPES[kind].itemsize
    if last - first != size:
        raise UserError(
            f"{where} is {kind} {shape}, so {size} bytes, but spans {last - first}: {REMEDY}"
        )
    return Entry(DTYPES[kind], tuple(shape), start + first, start + last)


def _naturals(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _addressable(shape: list[int], dtype: np.dtype) -> bool:
    counted = math.prod(size for size in shape if size)
    return len(shape) <= MAX_RANK and counted * dtype.itemsize <= MAX_BYTES


def brief(value: object) -> str:
    """Shows a value of a file, which may be long or hold what a terminal cannot show."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_ranges(path: pathlib.Path, entries: dict[str, Entry], start: int, size: int) -> None:
    """Raises UserError unless the tensors fill the file from `start` on, without gap or overlap."""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.stop > size:
            raise UserError(
                f"{path} is cut short: tensor {brief(name)} ends at byte {entry.stop}, the file "
                f"at {size}; fetch it anew"
            )
        if entry.start != start:
            raise UserError(
                f"{path}, tensor {brief(name)} begins at byte {entry.start} instead of {start}: "
                f"{REMEDY}"
            )
        start = entry.stop
    if start != size:
        raise UserError(f"{path} has {size - start} bytes after its last tensor: {REMEDY}")


class Lazy(NamedTuple):
    """A tensor to write: its shape and type, and the function that makes it when it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Lazy], metadata: Mapping[str, str]
) -> None:
    """Writes a file in the order of the names, holding one tensor in memory at a time."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in sorted(tensors):
        shape, dtype, _ = tensors[name]
        stop = start + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": codes[dtype],
            "shape": list(shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # Keeps the tensors aligned.
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in sorted(tensors):
            file.write(_raw(name, tensors[name]))


def _raw(name: str, tensor: Lazy) -> memoryview:
    array = tensor.make()
    if array.shape != tensor.shape:
        raise ValueError(f"tensor {name} was announced as {tensor.shape} and is {array.shape}")
    return np.ascontiguousarray(array, tensor.dtype).reshape(-1).view(np.uint8).data
