"""Labelled images by row: the embedded set, a folder, or any TFDS name."""

import functools
import hashlib
import importlib
import importlib.resources
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from distill.vision import folder
from distill.vision.folder import LISTED, PREFIX, Picture
from moshijax.system.errors import UserError


SAMPLE = "fashion_mnist_sample"
# The names of its own page and of TFDS.
SAMPLE_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PART = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Row(NamedTuple):
    """An encoded file or pixels [H, W, C], and its class."""

    image: bytes | UInt8[np.ndarray, "H W C"]
    label: int


@runtime_checkable
class Source(Protocol):
    """Random access to labelled images.

    A label is an index into `class_names`; `fingerprint` is a hash of the rows and their order.
    """

    name: str
    channels: int
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def where(self, index: int) -> str:
        """What to call a row when something is wrong with it."""
        return f"Row {index} of {self.name}"


class ArraySource(Source):
    """Images that lie in memory as pixels."""

    def __init__(
        self,
        name: str,
        images: UInt8[np.ndarray, "n H W C"],
        labels: Int[np.ndarray, " n"],
        class_names: tuple[str, ...],
    ):
        self.name = name
        self.images = images
        self.labels = labels
        self.class_names = class_names
        self.channels = images.shape[3]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of pixels and labels."""
        return digest([self.images.tobytes(), self.labels.tobytes()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Row:
        return Row(self.images[index], int(self.labels[index]))


class FolderSource(Source):
    """Files under folders, one for each class."""

    def __init__(
        self, name: str, root: pathlib.Path, files: list[Picture], class_names: tuple[str, ...]
    ):
        self.name = name
        self.root = root
        self.files = files
        self.class_names = class_names
        self.channels = 3
        self._numbers = {label: number for number, label in enumerate(class_names)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the files' names below the folder and their sizes."""
        return digest(
            os.fsencode(f"{path.relative_to(self.root)}\0{_length(path)}\0")
            for path, _ in self.files
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Row:
        path, label = self.files[index]
        return Row(path.read_bytes(), self._numbers[label])

    def where(self, index: int) -> str:
        """Also names the file."""
        path = self.files[index].path.relative_to(self.root)
        return f"{super().where(index)} ({path})"


class TfdsSource(Source):
    """A prepared TFDS data set, read without TensorFlow."""

    def __init__(
        self, name: str, rows, channels: int, class_names: tuple[str, ...], fingerprint: str
    ):
        self.name = name
        self.rows = rows
        self.channels = channels
        self.class_names = class_names
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        return Row(row["image"], int(row["label"]))


class Renumbered(Source):
    """A source whose labels index another list of classes, which has all of its own."""

    def __init__(self, source: Source, class_names: Sequence[str]):
        self.source = source
        self.name, self.channels = source.name, source.channels
        self.fingerprint = source.fingerprint
        self.class_names = tuple(class_names)
        self._numbers = [self.class_names.index(name) for name in source.class_names]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Row:
        row = self.source[index]
        check_label(self.source, index, row.label)
        return row._replace(label=self._numbers[row.label])

    def where(self, index: int) -> str:
        """The row of the source itself."""
        return self.source.where(index)


def check_label(source: Source, index: int, label: int) -> None:
    """Refuses a label out of range, such as -1 of test images without labels."""
    if not 0 <= label < len(source.class_names):
        raise UserError(
            f"{source.where(index)} has the label {label}, none of its "
            f"{len(source.class_names)} classes: take a split with labels."
        )


def digest(parts: Iterable[bytes]) -> str:
    """A hash of these bytes."""
    result = hashlib.sha256()
    for part in parts:
        result.update(part)
    return result.hexdigest()[:32]


def _length(path: pathlib.Path) -> int:
    """Bytes of a file; 0 for a broken link."""
    return path.stat().st_size if path.exists() else 0


def load(name: str, split: str, data_dir: str | None = None) -> Source:
    """Opens a split in TFDS notation, such as "train[90%:]" or "train[:500]+test".

    `name` is "fashion_mnist_sample" (embedded), "folder:PATH" (PATH/CLASS/FILE is the split
    "all", PATH/SPLIT/CLASS/FILE has named splits) or a data set prepared by TFDS.
    """
    if name == SAMPLE:
        return _load_sample(split)
    path = folder.path_of(name)
    if path is not None:
        return _load_folder(path, split)
    return _load_tfds(name, split, data_dir)


def select(split: str, sizes: dict[str, int], name: str) -> list[tuple[str, slice]]:
    """Resolves a split to its parts and slices of these, in the order written."""
    chosen = []
    for match in _parts(split, name):
        part = match["name"]
        if part not in sizes:
            known = sorted(sizes)
            more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
            raise UserError(
                f"{name} has no split {part!r}, only {', '.join(known[:LISTED])}{more}."
            )
        start = _position(match["start"], 0, sizes[part])
        stop = _position(match["stop"], sizes[part], sizes[part])
        if start >= stop:
            raise UserError(
                f"Split {match[0]!r} of {name} is empty: {part} has {sizes[part]} rows."
            )
        chosen.append((part, slice(start, stop)))
    return chosen


def _parts(split: str, name: str) -> list[re.Match[str]]:
    matches = [PART.fullmatch(text.strip()) for text in split.split("+")]
    if None in matches:
        raise UserError(f"Split {split!r} of {name} is not of the form train[10%:500]+test.")
    return [match for match in matches if match]


def _position(text: str | None, default: int, size: int) -> int:
    if text is None:
        return default
    percent = text.endswith("%")  # rounded to the closest row, as in TFDS
    position = round(int(text[:-1]) * size / 100) if percent else int(text)
    return min(max(position + size if position < 0 else position, 0), size)


@functools.cache
def _sample() -> dict[str, np.ndarray]:
    file = importlib.resources.files("distill.vision.sample") / "fashion_mnist.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays}


def _load_sample(split: str) -> ArraySource:
    arrays = _sample()
    sizes = {part: len(arrays[f"{part}_labels"]) for part in ("train", "test")}
    chosen = select(split, sizes, SAMPLE)
    images = np.concatenate([arrays[f"{part}_images"][rows] for part, rows in chosen])
    labels = np.concatenate([arrays[f"{part}_labels"][rows] for part, rows in chosen])
    name = f"{SAMPLE}, split {split}"
    return ArraySource(name, images[..., None], labels.astype(np.int64), SAMPLE_CLASSES)


def _load_folder(root: pathlib.Path, split: str) -> FolderSource:
    name = f"{PREFIX}{root}"
    parts = folder.find(root, {match["name"] for match in _parts(split, name)})
    chosen = select(split, {part: len(files) for part, files in parts.items()}, name)
    files = [file for part, rows in chosen for file in parts[part][rows]]
    return FolderSource(f"{name}, split {split}", root, files, folder.class_names(parts))


def _load_tfds(name: str, split: str, data_dir: str | None) -> TfdsSource:
    # Imported here: the embedded set and folders start faster without it.
    tfds: Any = importlib.import_module("tensorflow_datasets")

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        why = str(error).splitlines()[0][:200]  # Of its name, its configuration or its version.
        raise UserError(
            f"There is no TFDS data set {name!r}, nor one of files in {data_dir} ({why})."
        ) from error
    if not builder.info.splits:
        raise UserError(f"{name} is not prepared in {builder.data_path}. {_advice(name, data_dir)}")
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise UserError(f"{name} has no features image and label, only {', '.join(features)}.")
    select(split, {part: info.num_examples for part, info in builder.info.splits.items()}, name)
    try:
        decoders = {"image": tfds.decode.SkipDecoding()}
        rows = builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError:
        kind = builder.info.file_format.value
        raise UserError(
            f"{name} in {builder.data_path} is prepared as {kind}, which cannot be read by row. "
            f"Delete it there. {_advice(name, data_dir)}"
        ) from None
    channels = features["image"].shape[-1] or 3
    label = features["label"]
    classes = tuple(label.int2str(number) for number in range(label.num_classes))
    mark = digest([f"{builder.info.full_name} {split} {len(rows)}".encode()])
    return TfdsSource(f"{name}, split {split}", rows, channels, classes, mark)


def _advice(name: str, data_dir: str | None) -> str:
    where = f" --data_dir={data_dir}" if data_dir else ""
    command = f"tfds build {name} --file_format=array_record{where}"
    return f"Prepare it once (some data sets need TensorFlow for that): {command}"
