"""Windows of codes for a language model: array_record shards of `[K, T]`, or made data.

A record is a NumPy array file (`.npy`) of int16 or int32 codes, text first. Batches are a pure
function of the step, as everywhere.
"""

import glob
import io
import pathlib
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from array_record.python.array_record_module import (  # ty: ignore[import-not-found]
    ArrayRecordWriter,
)
from jaxtyping import Int

from moshijax.data.order import Stream, shuffled
from moshijax.files import replacing
from moshijax.lm.config import ZERO, MoshiConfig


MADE = 11  # The purpose of made codes' random stream.


@runtime_checkable
class Windows(Protocol):
    """Random access to arrays of codes [K, T]."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Int[np.ndarray, "K T"]:
        """One of them."""
        ...


def write_shard(path: str | pathlib.Path, windows: Iterable[np.ndarray]) -> None:
    """Writes arrays of codes [K, T] to one shard, whole or not at all."""
    with replacing(path) as partial:
        # One record a group: windows are read at random.
        writer = ArrayRecordWriter(partial.name, "group_size:1")
        for codes in windows:
            record = io.BytesIO()
            narrow = codes.max(initial=0) < 2**15
            np.save(record, codes.astype(np.int16 if narrow else np.int32), allow_pickle=False)
            writer.write(record.getvalue())
        writer.close()


class Shards:
    """The records of all shards that a pattern such as `codes/train-*.array_record` names."""

    def __init__(self, pattern: str, config: MoshiConfig):
        self.paths = sorted(glob.glob(pattern))
        if not self.paths:
            raise ValueError(f"{pattern}: no file has this name; give the shards' path, with *.")
        self.config = config
        self._source = grain.sources.ArrayRecordDataSource(self.paths)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Int[np.ndarray, "K T"]:
        where = f"record {index} of {self.paths[0]}" + (" and others" if self.paths[1:] else "")
        try:
            codes = np.load(io.BytesIO(self._source[index]), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{where} is no array file ({error}): write it anew.") from error
        check_codes(codes, self.config, where)
        return codes.astype(np.int32)


def check_codes(codes: np.ndarray, config: MoshiConfig, where: str) -> None:
    """Raises ValueError unless the codes are of this model's streams and within its tables."""
    if codes.ndim != 2 or codes.shape[0] != config.num_streams:
        raise ValueError(
            f"{where}: codes of shape {list(codes.shape)}; the model has {config.num_streams} "
            "streams (text and every codebook): give one row each."
        )
    sizes = np.array((config.text_vocab, *(config.codebook_size,) * config.num_codebooks))
    if config.two_texts:
        sizes[0] = (config.text_vocab + 1) * (config.text_vocab + 1)
    wrong = (codes < ZERO) | (codes >= sizes[:, None])
    if wrong.any():
        stream, frame = np.argwhere(wrong)[0]
        raise ValueError(
            f"{where}: stream {stream} holds {codes[stream, frame]} at frame {frame}; codes are "
            f"{ZERO} (none) to {sizes[stream] - 1}: was it made with another codec or tokenizer?"
        )


class Made:
    """Codes that can be learned without data: each stream repeats itself with a little noise."""

    def __init__(self, number: int, length: int, config: MoshiConfig, seed: int = 0):
        self.number, self.length, self.config, self.seed = number, length, config, seed

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Int[np.ndarray, "K T"]:
        config = self.config
        rng = Stream(self.seed, 0, index, MADE).generator(0)
        streams = np.arange(config.num_streams)[:, None]
        sizes = np.array((config.text_vocab, *(config.codebook_size,) * config.num_codebooks))
        start, pace = rng.integers(0, 1000), rng.integers(1, 4)
        codes = (start + pace * np.arange(self.length)[None] + 7 * streams) % np.minimum(sizes, 32)[
            :, None
        ]
        noise = rng.integers(0, sizes[:, None], codes.shape)
        codes = np.where(rng.random(codes.shape) < 0.05, noise, codes)
        codes[0, rng.random(self.length) < 0.65] = config.text_padding  # As in speech (3.4.4).
        return codes.astype(np.int32)


def load(name: str, length: int, config: MoshiConfig) -> Windows:
    """Opens `made:NUMBER` or a pattern of shards.

    Raises:
        ValueError: no such file, or no number after `made:`.
    """
    kind, _, number = name.partition(":")
    if kind != "made":
        return Shards(name, config)
    if not number.isdigit() or not int(number):
        raise ValueError(f"data {name!r}: give the number of made windows, such as made:1000.")
    return Made(int(number), length, config)


def _cut(codes: Int[np.ndarray, "K T"], length: int, start: float) -> Int[np.ndarray, "K L"]:
    """Cuts frames from a share of what there is to choose from; pads with ZERO."""
    room = codes.shape[1] - length
    if room < 0:
        return np.pad(codes, ((0, 0), (0, -room)), constant_values=ZERO)
    first = min(int(start * (room + 1)), room)
    return codes[:, first : first + length]


class TrainWindows:
    """Training batches `{"codes": [B, K, T]}` by step: shuffled, each cut at random."""

    def __init__(self, windows: Windows, *, batch_size: int, length: int, seed: int):
        self.windows, self.batch_size = windows, batch_size
        self.length, self.seed = length, seed

    def batch(self, step: int, order: int = 0, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The step's rows of the global batch; another `order` shuffles otherwise."""
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        position = step * self.batch_size + rows.astype(np.int64)
        index = shuffled(position, len(self.windows), seed=self.seed, order=order)
        starts = Stream(self.seed, order, step, MADE).generator(0).random(self.batch_size)[rows]
        cuts = [
            _cut(self.windows[i], self.length, start)
            for i, start in zip(index.tolist(), starts.tolist(), strict=True)
        ]
        return {"codes": np.stack(cuts)}


class EvalWindows:
    """Every window once from its start; rows beyond the last hold ZERO and count for nothing."""

    def __init__(self, windows: Windows, *, batch_size: int, length: int):
        self.windows, self.batch_size, self.length = windows, batch_size, length
        self.num_batches = -(-len(windows) // batch_size)

    def batch(self, i: int, rows: np.ndarray | None = None) -> dict[str, Any]:
        """Rows of global batch i."""
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        positions = (i * self.batch_size + rows).tolist()
        empty = np.full_like(_cut(self.windows[0], self.length, 0.0), ZERO)
        last = len(self.windows)
        cuts = [_cut(self.windows[k], self.length, 0.0) if k < last else empty for k in positions]
        return {"codes": np.stack(cuts)}
