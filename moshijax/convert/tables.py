"""Between the tensors of a file and the arrays of a model, by a table of names.

A number in a path of a table counts layers, codebooks or weight sets. Where the model has a list
it is the list's index; where it has a stack the numbers index the stack's first axes, in order.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from moshijax.convert.safetensors import Lazy, brief
from moshijax.convert.transforms import Entry
from moshijax.convert.values import check_finite
from moshijax.convert.weights import Weights


SQUARE = 256
Index = tuple[slice, ...]


class Place(NamedTuple):
    """An array of a model, or the part of it at an index of its first axes."""

    name: str
    index: tuple[int, ...]


class Piece(NamedTuple):
    """What of a tensor an array, or a part of it, is made of."""

    entry: Entry
    part: int


def find(path: str, leaves: Mapping[str, Any]) -> Place:
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
    table: Iterable[Entry], leaves: Mapping[str, Any]
) -> dict[str, dict[tuple[int, ...], Piece]]:
    """Returns for every array what each of its parts is made of."""
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
    dtype: Any,
    index: Index | None = None,
) -> np.ndarray:
    """Reads an array or a slice of it; of the file no more than that is touched."""
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
        # NumPy copies integers fast, and bfloat16 one number at a time.
        source, target = source.view(np.uint16), target.view(np.uint16)
    if source.ndim != 2 or source.flags.c_contiguous:
        target[...] = source
        return
    # Squares that fit the cache, of which a transposed matrix is copied twice as fast.
    for i, j in itertools.product(*(range(0, size, SQUARE) for size in source.shape)):
        square = slice(i, i + SQUARE), slice(j, j + SQUARE)
        target[square] = source[square]


def announce(entry: Entry, leaves: Mapping[str, Any], dtype: Any = None) -> Lazy:
    """Announces a tensor of a file, to be made of the model's arrays when it is written.

    It has their type, or `dtype`.
    """
    places = [find(path, leaves) for path in entry.paths]
    dtype = np.dtype(dtype or leaves[places[0].name].dtype)

    def make() -> np.ndarray:
        arrays = (np.asarray(_part(leaves[name], index)).astype(dtype) for name, index in places)
        return entry.transform.join(*arrays)

    return Lazy(_shape(entry, [leaves[p.name].shape[len(p.index) :] for p in places]), dtype, make)


def _part(leaf: Any, index: tuple[int, ...]) -> Any:
    return leaf[index] if index else leaf


def _shape(entry: Entry, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a tensor, found without making it: it may be a tenth of the memory."""
    if len(shapes) > 1 and all(len(shape) == 2 for shape in shapes):
        # Joining matrices without rows costs nothing; then the rows' axis has no length.
        empty = entry.transform.join(*(np.empty((0, shape[1]), bool) for shape in shapes))
        return tuple(size or shapes[0][0] for size in empty.shape)
    return entry.transform.join(*(np.broadcast_to(False, shape) for shape in shapes)).shape


def detect(file: Weights, tables: Mapping[str, Iterable[Entry]]) -> str | None:
    """Returns the layout that has most of a file's names; None if the file has few of any."""
    names = {layout: {entry.name for entry in table} for layout, table in tables.items()}
    common = {layout: len(names[layout] & file.keys()) for layout in names}
    best = max(names, key=lambda layout: common[layout])
    return best if common[best] >= len(names[best]) / 2 else None


def faults(file: Weights, table: Iterable[Entry], leaves: Mapping[str, Any]) -> str:
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
