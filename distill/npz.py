"""npz files from untrusted sources: headers are checked before an array is unpacked.

A file of a few kilobytes can declare arrays of any size, or objects that run code when they are
unpacked. So the headers of all arrays are read first, and arrays then one by one.
"""

import io
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from moshijax.system.errors import UserError
from moshijax.system.files import replacing


ENDING = ".npy"
KINDS = "biufcUV"  # plain numbers, texts, and bytes, as which numpy keeps bfloat16
LONGEST_HEADER = 10_000
MOST_ARRAYS = 100_000
PREFIXES = {1: "<H", 2: "<I"}  # of a header's length, by version

Path = str | os.PathLike[str]


class Header(NamedTuple):
    """What a file says of one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_headers(path: Path) -> dict[str, Header]:
    """Shapes and types of a file's arrays, by name.

    Raises:
        UserError: the file is missing or damaged, or holds what is no plain array.
    """
    with _opened(path) as archive:
        return _headers(archive)


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """These arrays of a file, each of the size that its header declares.

    Raises:
        UserError: the file is missing or damaged, or holds what is no plain array.
    """
    with _opened(path) as archive:
        headers = _headers(archive)
        return {name: _array(archive, name, headers[name]) for name in names}


def read_stored(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file that `save` wrote, which declares no more than it holds.

    Raises:
        UserError: the file is missing or damaged, or holds what is no plain array.
    """
    headers = read_headers(path)
    declared = sum(math.prod(header.shape) * header.dtype.itemsize for header in headers.values())
    if declared > os.path.getsize(path):
        raise UserError(f"{path} unpacks to {declared} bytes, more than it has: make it again.")
    return read_arrays(path, headers)


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def _opened(path: Path) -> Generator[zipfile.ZipFile]:
    """An npz file as a zip file; whatever breaks in it is told of the file."""
    try:
        with open(path, "rb") as file:
            yield zipfile.ZipFile(file)
    except Exception as error:  # A zip file breaks in many ways, of as many types.
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(f"{path} cannot be opened: {error.strerror}.") from error
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is not a whole npz file of plain arrays ({text}): copy or make it again."
        ) from error


def _headers(archive: zipfile.ZipFile) -> dict[str, Header]:
    members = archive.infolist()
    if len(members) > MOST_ARRAYS:
        raise ValueError(f"{len(members)} members")
    return {m.filename.removesuffix(ENDING): _header(archive, m) for m in members}


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    """The header of a member, if its size is what the header says."""
    name = member.filename
    with archive.open(member) as stream:
        magic = stream.read(8)
        if not name.endswith(ENDING) or magic[:6] != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"{name} is no array")
        prefix = PREFIXES[magic[6]]
        start = stream.read(struct.calcsize(prefix))
        (length,) = struct.unpack(prefix, start)
        if length > LONGEST_HEADER:
            raise ValueError(f"the header of {name} has {length} bytes")
        text = stream.read(length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers by Python 2
        read = getattr(np.lib.format, f"read_array_header_{magic[6]}_0")
        shape, _, dtype = read(io.BytesIO(start + text))
    if dtype.kind not in KINDS or dtype.hasobject or dtype.names:
        raise ValueError(f"{name} is of type {dtype}")
    declared = len(magic) + len(start) + length + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != member.file_size:
        raise ValueError(f"{name} of shape {shape} has {member.file_size} bytes")
    return Header(shape, dtype)


def _array(archive: zipfile.ZipFile, name: str, header: Header) -> np.ndarray:
    with archive.open(name + ENDING) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read()  # To its end, where the checksum is compared.
    if array.shape != header.shape or array.dtype != header.dtype:
        raise ValueError(f"{name} differs from its header")
    return array
