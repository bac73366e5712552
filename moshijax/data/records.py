"""One record of a shard: a NumPy array file (`.npy`) of codes [K, T], text first.

Records are written as int16 or int32 and read in any integer type and memory order. Nothing is
taken on trust: not the header, not the size, not a code.
"""

import io
import math

import numpy as np
from jaxtyping import Int

from moshijax.lm.config import ZERO, MoshiConfig
from moshijax.system.errors import UserError


HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LARGEST = 2**31 - 1


def encode(codes: np.ndarray, where: str) -> bytes:
    """A record of codes.

    Raises:
        UserError: they are no codes of any model; `where` says whose they are.
    """
    _check_form(codes.shape, codes.dtype, where)
    wrong = (codes < ZERO) | (codes > LARGEST)
    if wrong.any():
        raise _wrong(codes, wrong, where, f"codes are {ZERO} (none) to {LARGEST}")
    record = io.BytesIO()
    narrow = np.int16 if codes.max() < 2**15 else np.int32
    np.save(record, np.ascontiguousarray(codes, narrow), allow_pickle=False)
    return record.getvalue()


def decode(record: bytes, config: MoshiConfig, where: str) -> Int[np.ndarray, "K T"]:
    """The codes of a record.

    Raises:
        UserError: it is no array file, or not of this model's streams or within its tables;
            `where` names file and record.
    """
    file = io.BytesIO(record)
    try:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # NumPy evaluates the header and names no class for what is wrong.
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where} is no array file ({why}): write it anew.") from error
    _check_form(shape, dtype, where)
    # Memory is taken for what is there, not for what the header claims.
    size, found = math.prod(shape) * dtype.itemsize, len(record) - file.tell()
    if size != found:
        raise UserError(
            f"{where} is damaged: codes of shape {list(shape)} are {size} bytes, but it holds "
            f"{found}: write it anew."
        )
    order = "F" if fortran else "C"
    codes = np.ndarray(shape, dtype, record, offset=file.tell(), order=order)
    check_codes(codes, config, where)
    return codes.astype(np.int32, order="C")


def check_codes(codes: np.ndarray, config: MoshiConfig, where: str) -> None:
    """Raises UserError unless the codes are of this model's streams and within its tables."""
    _check_form(codes.shape, codes.dtype, where)
    if codes.shape[0] != config.num_streams:
        raise UserError(
            f"{where}: codes of shape {list(codes.shape)}; the model has {config.num_streams} "
            "streams (text and every codebook): give one row each."
        )
    sizes = np.array((config.text_vocab, *(config.codebook_size,) * config.num_codebooks))
    if config.two_texts:
        sizes[0] = (config.text_vocab + 1) * (config.text_vocab + 1)
    wrong = (codes < ZERO) | (codes >= sizes[:, None])
    if wrong.any():
        most = sizes[np.argwhere(wrong)[0][0]] - 1
        allowed = f"codes are {ZERO} (none) to {most}: was it made with another codec or tokenizer?"
        raise _wrong(codes, wrong, where, allowed)


def _check_form(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "iu":
        raise UserError(
            f"{where}: codes of type {dtype}; they are whole numbers: write them as int16 or int32."
        )
    if len(shape) != 2 or min(shape) < 1:
        raise UserError(
            f"{where}: codes of shape {list(shape)}; a window is [streams, frames] with at least "
            "one of each: leave out windows without a frame."
        )


def _wrong(codes: np.ndarray, wrong: np.ndarray, where: str, allowed: str) -> UserError:
    stream, frame = np.argwhere(wrong)[0]
    return UserError(
        f"{where}: stream {stream} holds {codes[stream, frame]} at frame {frame}; {allowed}"
        + ("" if allowed.endswith("?") else ": encode it anew.")
    )
