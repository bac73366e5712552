"""Files of codes: an npz of `codes` [K, T] and the `sample_rate` of the audio they stand for."""

import lzma
import math
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np
from jaxtyping import Int

from moshijax.system import files
from moshijax.system.errors import UserError
from moshijax.system.files import replacing


# A small file may unpack to a thousand times its size. A month of 8 codebooks fits.
MOST_BYTES = {"codes": 1 << 30, "sample_rate": 1 << 10}
# What zipfile, its decompressors and NumPy raise for damaged bytes.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, RuntimeError, TypeError, KeyError, IndexError, OverflowError, MemoryError),
)


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises if codes cannot be written under this name."""
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise UserError(f"{path} is to hold codes, so its name must end in .npz; name it so")
    files.check_output(path)


def write_codes(
    path: str | os.PathLike[str], codes: Int[np.ndarray, "K T"], sample_rate: int
) -> None:
    """Writes codes, whole or not at all."""
    check_output(path)
    with replacing(path) as file:
        np.savez(file, codes=codes, sample_rate=np.int32(sample_rate))


def read_codes(
    path: str | os.PathLike[str], *, sample_rate: int, num_codebooks: int, codebook_size: int
) -> Int[np.ndarray, "K T"]:
    """Reads codes; raises unless they suit a model of these sizes."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of codes; check the path")
    fields = _read_fields(path, ("codes", "sample_rate"))
    codes, rate = fields["codes"], fields["sample_rate"]
    if rate.shape or rate.dtype.kind not in "iu" or int(rate) != sample_rate:
        raise UserError(
            f"{path} has the sample_rate {_brief(rate)}, but the model's is {sample_rate}; decode "
            "with the model that made the codes"
        )
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or not codes.size:
        raise UserError(
            f"{path} has codes of shape {list(codes.shape)} and dtype {codes.dtype}; they must be "
            "integers [codebooks, frames] with at least one of each"
        )
    if codes.shape[0] > num_codebooks:
        raise UserError(
            f"{path} has codes of {codes.shape[0]} codebooks, but the model has {num_codebooks}; "
            "decode with the model that made the codes, or keep the first rows"
        )
    low, high = codes.min(), codes.max()
    if low < 0 or high >= codebook_size:
        raise UserError(
            f"{path} has codes from {low} to {high}; the model's go from 0 to {codebook_size - 1}, "
            "so decode with the model that made the codes"
        )
    return codes.astype(np.int32)


def _read_fields(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [name for name in names if f"{name}.npy" not in archive.namelist()]
            fields = {} if missing else {name: _read_array(archive, name, path) for name in names}
    except UserError:
        raise
    except DAMAGE as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{path} is no file of codes, or damaged ({why}); encode the audio anew"
        ) from error
    if missing:
        raise UserError(f"{path} has no field {missing[0]!r}; write it with the encode command")
    return fields


def _read_array(archive: zipfile.ZipFile, name: str, path: pathlib.Path) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        # The header is checked first, so that memory is taken only for what is there.
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects instead of numbers")
    count, size = math.prod(shape), archive.getinfo(f"{name}.npy").file_size
    if count * dtype.itemsize > size:
        raise ValueError(f"{name} of shape {list(shape)} does not fit in its {size} bytes")
    if count * dtype.itemsize > MOST_BYTES[name]:
        raise UserError(
            f"{path} has a field {name} of {count * dtype.itemsize} bytes when unpacked, more than "
            f"the {MOST_BYTES[name]} that are read at once; cut it into several files"
        )
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _brief(array: np.ndarray) -> str:
    return str(array) if array.ndim == 0 else f"of shape {list(array.shape)}"
