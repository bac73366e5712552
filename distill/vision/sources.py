"""Labelled images by row: the embedded set, a folder, or any TFDS name."""

import functools
import importlib
import importlib.resources
import pathlib
import re
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8


SAMPLE = "fashion_mnist_sample"
FOLDER = "folder:"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
PART = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Row(NamedTuple):
    """An encoded file or pixels [H, W, C], and its class."""

    image: bytes | UInt8[np.ndarray, "H W C"]
    label: int


@runtime_checkable
class Source(Protocol):
    """Random access to labelled images."""

    name: str
    channels: int
    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


class ArraySource:
    """Images that lie in memory as pixels."""

    def __init__(
        self,
        name: str,
        images: UInt8[np.ndarray, "n H W C"],
        labels: Int[np.ndarray, " n"],
        num_classes: int,
    ):
        self.name = name
        self.images = images
        self.labels = labels
        self.num_classes = num_classes
        self.channels = images.shape[3]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Row:
        return Row(self.images[index], int(self.labels[index]))


class FolderSource:
    """Files of a folder with one sub-folder for each class, in the order of their names."""

    def __init__(self, name: str, files: list[tuple[pathlib.Path, int]], num_classes: int):
        self.name = name
        self.files = files
        self.num_classes = num_classes
        self.channels = 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Row:
        path, label = self.files[index]
        return Row(path.read_bytes(), label)


class TfdsSource:
    """A prepared TFDS data set, read without TensorFlow."""

    def __init__(self, name: str, rows, channels: int, num_classes: int):
        self.name = name
        self.rows = rows
        self.channels = channels
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        return Row(row["image"], int(row["label"]))


def load(name: str, split: str, data_dir: str | None = None) -> Source:
    """Opens a split in TFDS notation, such as "train[90%:]" or "train[:500]+test".

    `name` is "fashion_mnist_sample" (embedded), "folder:PATH" (PATH/CLASS/FILE is the split
    "all", PATH/SPLIT/CLASS/FILE has named splits) or a data set prepared by TFDS.
    """
    if name == SAMPLE:
        return _load_sample(split)
    if name.startswith(FOLDER):
        return _load_folder(pathlib.Path(name.removeprefix(FOLDER)), split)
    return _load_tfds(name, split, data_dir)


def select(split: str, sizes: dict[str, int], name: str) -> list[tuple[str, slice]]:
    """Resolves a split to its parts and slices of these, in the order written."""
    chosen = []
    for text in split.split("+"):
        match = PART.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"Split {split!r} of {name} is not of the form train[10%:500]+test.")
        part = match["name"]
        if part not in sizes:
            raise ValueError(f"{name} has no split {part!r}, only {', '.join(sorted(sizes))}.")
        start = _position(match["start"], 0, sizes[part])
        stop = _position(match["stop"], sizes[part], sizes[part])
        if start >= stop:
            raise ValueError(f"Split {text!r} of {name} is empty: {part} has {sizes[part]} rows.")
        chosen.append((part, slice(start, stop)))
    return chosen


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
    return ArraySource(name, images[..., None], labels.astype(np.int64), num_classes=10)


def _load_folder(folder: pathlib.Path, split: str) -> FolderSource:
    name = f"{FOLDER}{folder}"
    if not folder.is_dir():
        raise ValueError(f"{name}: there is no such folder.")
    parts = {"all": _files(folder, "*")}
    if not parts["all"]:
        parts = {f.name: _files(f, "*") for f in sorted(folder.iterdir()) if f.is_dir()}
    classes = sorted({path.parent.name for files in parts.values() for path in files})
    if not classes:
        raise ValueError(f"{name} has no images; expected {folder}/[SPLIT/]CLASS/FILE.jpg.")
    chosen = select(split, {part: len(files) for part, files in parts.items()}, name)
    paths = [path for part, rows in chosen for path in parts[part][rows]]
    files = [(path, classes.index(path.parent.name)) for path in paths]
    return FolderSource(f"{name}, split {split}", files, len(classes))


def _files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return sorted(p for p in folder.glob(f"{pattern}/*") if p.suffix.lower() in SUFFIXES)


def _load_tfds(name: str, split: str, data_dir: str | None) -> TfdsSource:
    # Imported here: the embedded set and folders start faster without it.
    tfds: Any = importlib.import_module("tensorflow_datasets")

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"There is no TFDS data set {name!r}, nor one of files in {data_dir}."
        ) from None
    if not builder.info.splits:
        raise ValueError(
            f"{name} is not prepared in {builder.data_path}. {_advice(name, data_dir)}"
        )
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise ValueError(f"{name} has no features image and label, only {', '.join(features)}.")
    select(split, {part: info.num_examples for part, info in builder.info.splits.items()}, name)
    try:
        decoders = {"image": tfds.decode.SkipDecoding()}
        rows = builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError:
        kind = builder.info.file_format.value
        raise ValueError(
            f"{name} in {builder.data_path} is prepared as {kind}, which cannot be read by row. "
            f"Delete it there. {_advice(name, data_dir)}"
        ) from None
    channels = features["image"].shape[-1] or 3
    classes = features["label"].num_classes
    return TfdsSource(f"{name}, split {split}", rows, channels, classes)


def _advice(name: str, data_dir: str | None) -> str:
    where = f" --data_dir={data_dir}" if data_dir else ""
    command = f"tfds build {name} --file_format=array_record{where}"
    return f"Prepare it once (some data sets need TensorFlow for that): {command}"
