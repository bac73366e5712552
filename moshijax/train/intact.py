"""Whether a checkpoint is what was written: its index, its files, and a digest of every array.

Orbax keeps arrays in an OCDBT database: its index is protected by checksums, the arrays are not.
So each array's digest is computed on the devices before it is written, and again after it is read,
on any mesh: that covers the whole way from memory to memory, and costs no pass over the files.
Orbax's other files are small, and have their checksums in a file beside them.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jaxtyping import Array, Shaped, UInt32

from moshijax.train.workdir import write_text


METADATA = "_CHECKPOINT_METADATA"  # Orbax's, of a step; our record is its `custom_metadata`.
SEAL = "checksums.json"
ITEM = "default"  # Orbax's name for the only item of a checkpoint.
# Errors of TensorStore that do not show damage: status codes of the machine or the storage, and
# errors of the operating system other than 2, "no such file".
PASSING = re.compile(
    r"(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|CANCELLED|ABORTED|PERMISSION_DENIED"
    r"|UNAUTHENTICATED|UNKNOWN|INTERNAL):|.*os_error_code='(?!2')",
    re.DOTALL,
)


class Written(NamedTuple):
    """An array as it was written."""

    dtype: str
    shape: list[int]
    digest: int


Record = dict[str, Written]  # By name.


class Damaged(Exception):  # noqa: N818 (a finding)
    """A checkpoint is proven not to be what was written."""


def _digest(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """The sum over all elements of bits * factor modulo 2^32, the factor an odd hash of the index.

    An odd factor has an inverse modulo 2^32: a change of one element always changes the sum, and
    changes of several go unseen with a probability of 2^-32. A sum of integers is the same in any
    order, so under any sharding.
    """
    if jnp.issubdtype(x.dtype, jnp.inexact):
        x = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{jnp.finfo(x.dtype).bits}"))
    bits = x.astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(
            jnp.uint32, x.shape, axis
        )
    # The finalizer of MurmurHash3: factors of neighbouring elements are unrelated.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        place = (place ^ (place >> jnp.uint32(shift))) * jnp.uint32(factor)
    return jnp.sum(bits * (place | jnp.uint32(1)), dtype=jnp.uint32)


@jax.jit
def _digests(leaves: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: _digest(leaf) for name, leaf in leaves.items()}


def _checksum(record: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def to_metadata(record: Record) -> dict[str, object]:
    """A record as it is kept in a checkpoint."""
    return {"leaves": {n: list(w) for n, w in record.items()}, "checksum": _checksum(record)}


def record_of(leaves: Mapping[str, Array | np.ndarray]) -> Record:
    """Type, shape and digest of every array."""
    digests = jax.device_get(_digests(dict(leaves)))
    return {n: Written(str(x.dtype), list(x.shape), int(digests[n])) for n, x in leaves.items()}


def read_record(folder: pathlib.Path) -> Record | None:
    """The record of a checkpoint; None if it was written without one.

    Raises:
        Damaged: it cannot be read, or is not what was written.
    """
    path = folder / METADATA
    try:
        found = json.loads(path.read_bytes())["custom_metadata"]
        if not found or "leaves" not in found:
            return None
        if _checksum(found["leaves"]) != found["checksum"]:
            raise Damaged(f"{METADATA} is not what was written")
        return {name: Written(*about) for name, about in found["leaves"].items()}
    except FileNotFoundError as error:
        raise Damaged(f"{METADATA} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{METADATA} is no JSON of a checkpoint") from error


def check_digests(leaves: Mapping[str, Array | np.ndarray], record: Record) -> None:
    """Raises Damaged unless arrays that were read are those that were written."""
    for name, now in record_of(leaves).items():
        if record[name] != now:
            raise Damaged(f"{name} is not what was written")


def _open(item: pathlib.Path) -> ts.KvStore:
    base = {"driver": "file", "path": f"{item}/"}
    return ts.KvStore.open({"driver": "ocdbt", "base": base}).result()


def _finding(error: Exception) -> Exception:
    """What an error of TensorStore shows: damage, unless it speaks of the machine."""
    if not isinstance(error, ValueError) or PASSING.match(str(error)):
        return error
    return Damaged((str(error).splitlines() or ["unreadable"])[0][:200])


def check_index(folder: pathlib.Path, names: Iterable[str], share: slice = slice(None)) -> None:
    """Reads the index, and the last byte of the pieces of arrays: cheap, as nothing is unpacked.

    Args:
        folder: of the checkpoint.
        names: arrays that must be there.
        share: of all pieces, those that this process reads.

    Raises:
        Damaged: an array is missing, or a file is, or it is cut short.
    """
    try:
        store = _open(folder / ITEM)
        keys = sorted(store.list().result())
        if not keys:
            raise Damaged("its index is missing")
        absent = sorted(set(names) - {key.decode().rpartition("/")[0] for key in keys})
        if absent:
            raise Damaged(f"{absent[0]} is missing ({len(absent)} such arrays)")
        reads = [store.read(key, byte_range=slice(-1, None)) for key in keys[share]]
        for read in reads:
            read.result()
    except Exception as error:
        raise _finding(error) from error


def _small_files(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file that holds no array, by its path."""
    item = folder / ITEM
    paths = sorted(p for p in item.rglob("*") if p.is_file() and p.parent.name != "d")
    return {str(p.relative_to(item)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def seal(folder: pathlib.Path) -> None:
    """Writes the checksums of a checkpoint's small files beside them."""
    write_text(folder / SEAL, json.dumps(_small_files(folder), indent=1) + "\n")


def check_whole(folder: pathlib.Path) -> None:
    """Reads and unpacks every piece of every array, one after the other, and all other files.

    Raises:
        Damaged: one cannot be read, or is not what was written.
    """
    try:
        if (folder / SEAL).exists():
            written, found = json.loads((folder / SEAL).read_bytes()), _small_files(folder)
            if odd := [n for n in sorted(written) if written[n] != found.get(n)]:
                raise Damaged(f"{odd[0]} is not what was written")
        store = _open(folder / ITEM)
        names = {key.decode().rpartition("/")[0] for key in store.list().result()}
        base = {"driver": "file", "path": f"{folder / ITEM}/"}
        for name in sorted(names):
            kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
            array = ts.open({"driver": "zarr", "kvstore": kvstore}).result()
            chunk = array.chunk_layout.read_chunk.shape or array.shape  # None: a scalar.
            for piece in _pieces(array.shape, [step or 1 for step in chunk]):
                array[piece].read().result()
    except Exception as error:
        raise _finding(error) from error


def _pieces(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The parts of an array that are stored together."""
    sides = list(zip(shape, chunk, strict=True))
    for at in np.ndindex(*(-(-size // step) for size, step in sides)):
        yield tuple(
            slice(i * step, min((i + 1) * step, size))
            for i, (size, step) in zip(at, sides, strict=True)
        )
