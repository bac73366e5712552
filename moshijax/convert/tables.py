"""Arrays of a model from the tensors of a file, and back, by a table of names.

A number in a path of a table counts layers, codebooks or weight sets. Where the model has a list
it is the list's index; where it has a stack the numbers index the stack's first axes, in order.
"""

import itertools
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike

from moshijax.convert.safetensors import Lazy, brief
from moshijax.convert.transforms import Entry
from moshijax.convert.values import check_finite
from moshijax.convert.weights import Weights
from moshijax.shard import Leaf


TILE = 256  # rows and columns that are copied at a time
Index = tuple[slice, ...]


class Place(NamedTuple):
    """An array of a model, or the part of it at an index of its first axes."""

    name: str
    index: tuple[int, ...]


class Piece(NamedTuple):
    """Where an array, or a part of it, comes from: output `part` of the transform of `entry`."""

    entry: Entry
    part: int


def find(path: str, leaves: Container[str]) -> Place:
    """Finds what a path of a table stands for in a model.

    Raises:
        KeyError: the model has no such array.
    """
    words = path.split("/")
    numbers = [i for i, word in enumerate(words) if word.isdigit()]
    for count in range(len(numbers) + 1):
        for dropped in itertools.combinations(numbers, count):
            name = "/".join(word for i, word in enumerate(words) if i not in dropped)
            if name in leaves:
                return Place(name, tuple(int(words[i]) for i in dropped))
    raise KeyError(f"the model has no array {path}")


def pieces(
    table: Iterable[Entry], leaves: Container[str]
) -> dict[str, dict[tuple[int, ...], Piece]]:
    """Returns where every array comes from, part by part.

    A part is an index of the array's first axes, `()` for the whole of it.
    """
    found: dict[str, dict[tuple[int, ...], Piece]] = {}
    for entry in table:
        for part, path in enumerate(entry.paths):
            name, index = find(path, leaves)
            found.setdefault(name, {})[index] = Piece(entry, part)
    return found


def read(
    file: Weights,
    parts: Mapping[tuple[int, ...], Piece],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    index: Index | None = None,
) -> np.ndarray:
    """Reads an array or a slice of it, and no more of the file than that.

    Args:
        file: whose tensors are read.
        parts: where each part of the array comes from; see `pieces`.
        shape: of the whole array.
        dtype: of the result.
        index: the slice of every axis. None: all of it.

    Raises:
        UserError: a value is not finite.
    """
    index = index or (slice(None),) * len(shape)
    bounds = [range(*cut.indices(size)) for cut, size in zip(index, shape, strict=True)]
    array = np.empty(tuple(map(len, bounds)), dtype)
    stacked = len(next(iter(parts)))
    for target in itertools.product(*(range(len(b)) for b in bounds[:stacked])):
        place = tuple(b[i] for b, i in zip(bounds, target, strict=False))
        entry, part = parts[place]
        whole = entry.transform.split(file[entry.name])[part]
        _copy(whole[index[stacked:]], array[target])
        check_finite(file, entry.name, array[target])
    return array


@np.errstate(over="ignore", invalid="ignore")  # What is not finite is refused afterwards.
def _copy(source: np.ndarray, target: np.ndarray) -> None:
    if source.dtype == target.dtype and source.dtype.itemsize == 2:
        # NumPy copies bfloat16 one number at a time; the same bytes as integers are copied fast.
        source, target = source.view(np.uint16), target.view(np.uint16)
    if source.ndim != 2 or source.flags.c_contiguous:
        target[...] = source
        return
    # By tiles that fit the cache: a transposed matrix is copied twice as fast.
    for i, j in itertools.product(*(range(0, size, TILE) for size in source.shape)):
        tile = slice(i, i + TILE), slice(j, j + TILE)
        target[tile] = source[tile]


def announce(entry: Entry, leaves: Mapping[str, Leaf], dtype: DTypeLike | None = None) -> Lazy:
    """Describes a tensor of a file, which is made of the model's arrays when it is written.

    It has their type where `dtype` is None.
    """
    places = [find(path, leaves) for path in entry.paths]
    dtype = np.dtype(dtype or leaves[places[0].name].dtype)

    def make() -> np.ndarray:
        arrays = (_numbers(leaves[name], index).astype(dtype) for name, index in places)
        return entry.transform.join(*arrays)

    return Lazy(_shape(entry, [leaves[p.name].shape[len(p.index) :] for p in places]), dtype, make)


def _numbers(leaf: Leaf, index: tuple[int, ...]) -> np.ndarray:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(f"a shape, {leaf.shape}, has no numbers to write")
    return np.asarray(leaf[index] if index else leaf)


def _shape(entry: Entry, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a tensor, found without making it: it may be a tenth of the model."""
    if len(shapes) > 1 and all(len(shape) == 2 for shape in shapes):
        # Joining [0, n] matrices costs nothing; the result has length 0 where the rows would be.
        empty = entry.transform.join(*(np.empty((0, shape[1]), bool) for shape in shapes))
        return tuple(size or shapes[0][0] for size in empty.shape)
    return entry.transform.join(*(np.broadcast_to(False, shape) for shape in shapes)).shape


def detect(file: Weights, tables: Mapping[str, Iterable[Entry]]) -> str | None:
    """Returns the layout that has most of a file's names; None if the file has few of any."""
    names = {layout: {entry.name for entry in table} for layout, table in tables.items()}
    common = {layout: len(names[layout] & file.keys()) for layout in names}
    best = max(names, key=lambda layout: common[layout])
    return best if common[best] >= len(names[best]) / 2 else None


def faults(file: Weights, table: Iterable[Entry], leaves: Mapping[str, Leaf]) -> str:
    """Says which tensors a file lacks, has besides and has in another shape; empty if none."""
    wanted = {entry.name: announce(entry, leaves) for entry in table}
    shapes = {name: lazy.shape for name, lazy in wanted.items()}
    here = {name: file.entries[name] for name in shapes if name in file}
    wrong = [
        f"{name} is {list(entry.shape)}, not {list(shapes[name])}"
        for name, entry in here.items()
        if entry.shape != shapes[name]
    ]
    typed = [
        f"{name} is {entry.dtype}"
        for name, entry in here.items()
        if _counts(entry.dtype) != _counts(wanted[name].dtype)
    ]
    missing, surplus = sorted(shapes.keys() - file.keys()), sorted(file.keys() - shapes.keys())
    found = [
        ("lacks", missing),
        ("has besides", surplus),
        ("has misshapen", wrong),
        ("has of another type", typed),
    ]
    return "; ".join(f"it {verb} {few(which)}" for verb, which in found if which)


def _counts(dtype: np.dtype) -> bool:
    return dtype.kind in "iub"


def few(items: list[str]) -> str:
    """Names the first of many, as a terminal can show them."""
    shown = (name if name.isprintable() and len(name) < 80 else brief(name) for name in items[:4])
    return ", ".join(shown) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
