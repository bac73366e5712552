"""Windows of codes for a language model: array_record shards of `[K, T]`, or made data.

Batches are a pure function of the step, as everywhere.
"""

import bisect
import glob
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np
from array_record.python.array_record_module import (  # ty: ignore[import-not-found]
    ArrayRecordReader,
    ArrayRecordWriter,
)
from jaxtyping import Int

from moshijax.data.order import Purpose, Stream, shuffled
from moshijax.data.records import decode, encode
from moshijax.lm.config import ZERO, MoshiConfig
from moshijax.system.errors import UserError
from moshijax.system.files import replacing
from moshijax.system.paths import local_path


MOST_MADE = 10**8  # A shuffling is a table of all rows.
CHECKED = 1000  # Records of a set that are read before a run: a second.


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

    def checked(act: Callable[..., object], *given: bytes) -> None:
        try:
            act(*given)
        except RuntimeError as error:  # The writer's only class of errors: a full disk, most often.
            why = " ".join(str(error).split())
            raise UserError(f"{path} cannot be written ({why}): check the disk's space.") from error

    with replacing(path) as partial:
        # Groups of one record, since windows are read at random and a group is read whole.
        writer = ArrayRecordWriter(partial.name, "group_size:1")
        for i, codes in enumerate(windows):
            checked(writer.write, encode(codes, f"window {i} for {path}"))
        checked(writer.close)


class Shard(NamedTuple):
    """One file of a set: all of its records, as grain reads them."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """`take`, by the name that grain reads."""
        return self.take


class Shards:
    """The records of all shards that a path such as `codes/train-*.array_record` names.

    All files are opened and `CHECKED` records, spread over them, are read when it is made; the
    others are checked when they are read.
    """

    def __init__(self, name: str, config: MoshiConfig, option: str = "data"):
        self.config = config
        self.shards = [_open(path, option) for path in find_files(name, option)]
        self._ends = list(itertools.accumulate(shard.take for shard in self.shards))
        if not len(self):
            raise UserError(f"{option}: {name} holds no window: write shards with some.")
        self._source = grain.sources.ArrayRecordDataSource(self.shards)
        self._check(option)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Int[np.ndarray, "K T"]:
        number = bisect.bisect_right(self._ends, index)
        path, count = self.shards[number].filename, self.shards[number].take
        where = f"record {index - self._ends[number] + count} of {path}"
        try:
            record = self._source[index]
        except RuntimeError as error:  # The reader's only class of errors, damage among them.
            raise _damaged(where, error) from error
        return decode(record, self.config, where)

    def _check(self, option: str) -> None:
        """Reads the first and last record of every shard, and some of those between."""
        outer = {
            i
            for end, shard in zip(self._ends, self.shards, strict=True)
            for i in (end - shard.take, end - 1)
            if shard.take
        }
        spread = np.linspace(0, len(self) - 1, min(len(self), CHECKED)).astype(int).tolist()
        some = [bool((self[i] > ZERO).any()) for i in sorted(outer.union(spread))]
        # A window may hold no code at all; a set of nothing else would train at a loss of 0.
        if not any(some):
            raise UserError(
                f"{option}: {self.shards[0].filename} and others hold no code but {ZERO} (none): "
                "encode the audio anew."
            )


def find_files(name: str, option: str) -> list[pathlib.Path]:
    """The files that a path names, in order; where nothing has that name, `*` stands for anything.

    Raises:
        UserError: there is none, or one is a folder.
    """
    found = [pathlib.Path(pathlib.Path(name).anchor)]
    for part in local_path(option, name).relative_to(found[0]).parts:
        found = [path for folder in found for path in _match(folder, part)]
    folders = [path for path in found if path.is_dir()]
    if folders:
        raise UserError(
            f"{option}: {folders[0]} is a folder: give the shards in it, such as "
            f"{folders[0]}/*.array_record."
        )
    if not found:
        raise UserError(
            f"{option}: {name}: no file has this name; give one path, in which * stands for any "
            "letters, and commas and ~ for themselves."
        )
    return sorted(found)


def _match(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    if os.path.exists(folder / name):
        return [folder / name]
    # Of glob's characters only * has its meaning: brackets are common in names.
    pattern = glob.escape(name).replace("[*]", "*")
    return [folder / found for found in glob.glob(pattern, root_dir=folder)]


def _open(path: pathlib.Path, option: str) -> Shard:
    """Counts the records of a file by its index."""
    if path.exists() and not path.is_file():
        raise UserError(f"{option}: {path} is a pipe or a device: give files.")
    try:
        # Opened first, since its errors are plainer than the reader's.
        with open(path, "rb"):
            pass
        reader = ArrayRecordReader(str(path))
        count, sound = reader.num_records(), reader.ok()
        reader.close()  # Raises what was wrong, most of the time.
    except OSError as error:
        raise UserError(
            f"{option}: {path} cannot be read ({error.strerror}): check it and its permissions."
        ) from error
    except RuntimeError as error:
        raise _damaged(f"{option}: {path}", error) from error
    if not sound:
        raise _damaged(f"{option}: {path}", RuntimeError("it ends too early"))
    return Shard(str(path), count)


def _damaged(where: str, error: RuntimeError) -> UserError:
    why = " ".join(str(error).split())[:200]
    return UserError(f"{where} is no shard of codes, or damaged ({why}): write it anew.")


class Made:
    """Codes that can be learned without data: each stream repeats itself with a little noise."""

    def __init__(self, number: int, length: int, config: MoshiConfig, seed: int = 0):
        self.number, self.length, self.config, self.seed = number, length, config, seed

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Int[np.ndarray, "K T"]:
        config = self.config
        rng = Stream(self.seed, 0, index, Purpose.MADE).generator(0)
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


def load(name: str, length: int, config: MoshiConfig, option: str = "data") -> Windows:
    """Opens `made:NUMBER` or shards by their path, and checks what can be read of them.

    Raises:
        UserError: no such file, one that is damaged or of another model, or no number after
            `made:`; `option` is what named it.
    """
    kind, _, number = name.partition(":")
    if kind != "made":
        return Shards(name, config, option)
    if not number.isdecimal() or not 1 <= int(number) <= MOST_MADE:
        raise UserError(
            f"{option}: {name!r}: give the number of made windows, from 1 to {MOST_MADE}, such as "
            "made:1000."
        )
    return Made(int(number), length, config)


def _cut(codes: Int[np.ndarray, "K T"], length: int, start: float) -> Int[np.ndarray, "K L"]:
    """Cuts frames from a share `start` (0 to 1) of all possible places; pads with ZERO."""
    room = codes.shape[1] - length
    if room < 0:
        return np.pad(codes, ((0, 0), (0, -room)), constant_values=ZERO)
    first = min(int(start * (room + 1)), room)
    return codes[:, first : first + length]


class TrainWindows:
    """Training batches `{"codes": [B, K, T]}` by step: shuffled, each cut at random."""

    def __init__(self, windows: Windows, *, kind: str, batch_size: int, length: int, seed: int):
        self.windows, self.batch_size = windows, batch_size
        self.length, self.seed = length, seed
        self._kind = kind

    def kind(self, step: int) -> str:
        """The same at every step."""
        del step
        return self._kind

    def prepare(self, workdir: pathlib.Path) -> None:
        """Nothing is kept in the work directory."""

    def close(self) -> None:
        """Nothing is open but what the process's end closes."""

    def batch(
        self, step: int, order: int = 0, rows: np.ndarray | None = None
    ) -> dict[str, Int[np.ndarray, "B K T"]]:
        """The step's rows of the global batch; another `order` shuffles otherwise."""
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        position = step * self.batch_size + rows.astype(np.int64)
        index = shuffled(position, len(self.windows), seed=self.seed, order=order)
        stream = Stream(self.seed, order, step, Purpose.CUT)
        starts = stream.generator(0).random(self.batch_size)[rows]
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

    def batch(
        self, number: int, rows: np.ndarray | None = None
    ) -> dict[str, Int[np.ndarray, "B K T"]]:
        """Rows of a global batch."""
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        positions = (number * self.batch_size + rows).tolist()
        empty = np.full_like(_cut(self.windows[0], self.length, 0.0), ZERO)
        last = len(self.windows)
        cuts = [_cut(self.windows[k], self.length, 0.0) if k < last else empty for k in positions]
        return {"codes": np.stack(cuts)}
