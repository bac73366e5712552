"""Pictures in folders: PATH/CLASS/FILE, or PATH/SPLIT/CLASS/FILE.

As everywhere in the field, pictures at any depth under a class's folder are of that class.
Hidden files and folders, and what macOS leaves beside files, are no picture and no class.
"""

import functools
import os
import pathlib
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from absl import logging

from moshijax.system.errors import UserError


SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
PREFIX = "folder:"  # of a data set's name
WHOLE = "all"  # the split of a folder that has none
LISTED = 8  # names in one message


class Picture(NamedTuple):
    """A file and its class's name."""

    path: pathlib.Path
    label: str


def path_of(name: str) -> pathlib.Path | None:
    """The folder that a data set's name names; None if it is no folder's."""
    if not name.startswith(PREFIX):
        return None
    if name == PREFIX:
        raise UserError("folder: names no folder; expected folder:PATH.")
    return pathlib.Path(os.path.expanduser(name.removeprefix(PREFIX)))


def find(folder: pathlib.Path, wanted: set[str]) -> dict[str, list[Picture]]:
    """The pictures of each split, in the order of their names.

    Args:
        folder: where they lie.
        wanted: the splits asked for. `all` is PATH/CLASS/FILE, unless a split has that name.

    Raises:
        UserError: there is no such folder, it cannot be read, or it has no pictures.
    """
    if not folder.is_dir():
        raise UserError(f"folder:{folder}: there is no such folder.")
    try:
        return _find(folder, wanted)
    except OSError as error:
        where = f"{error.filename} cannot be read ({error.strerror})"
        raise UserError(f"folder:{folder}: {where}: mend its permissions or its disk.") from error


def _find(folder: pathlib.Path, wanted: set[str]) -> dict[str, list[Picture]]:
    splits = {path.name: _pictures(path) for path in _folders(folder)}
    splits = {name: pictures for name, pictures in splits.items() if pictures}
    # Of PATH/SPLIT/CLASS/FILE one split must be named, even where a stray picture lies higher.
    if splits and (WHOLE in splits or wanted - {WHOLE}):
        return splits
    whole = _pictures(folder)
    if any(picture.path.parent.parent == folder for picture in whole):
        return {WHOLE: whole}
    if splits:
        return splits
    raise UserError(f"folder:{folder} has no images; expected {folder}/[SPLIT/]CLASS/FILE.jpg.")


def class_names(splits: dict[str, list[Picture]]) -> tuple[str, ...]:
    """The classes of all splits, in the order of their names."""
    return tuple(sorted({picture.label for pictures in splits.values() for picture in pictures}))


def _pictures(folder: pathlib.Path) -> list[Picture]:
    """The pictures under each class's folder."""
    pictures = []
    for path in _folders(folder):
        # The same letters may be written in two ways; systems differ in which they keep.
        label = unicodedata.normalize("NFC", path.name)
        found = [Picture(file, label) for file in _walk(path, set())]
        if not found:
            _tell_empty(path)
        pictures += sorted(found)
    return pictures


@functools.cache  # once a folder, however many sets are read of it
def _tell_empty(path: pathlib.Path) -> None:
    logging.warning("%s has no picture: it is no class.", path)


def _walk(folder: pathlib.Path, above: set[str]) -> Iterator[pathlib.Path]:
    """Files with a picture's suffix; a link to a folder above is not followed again."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = pathlib.Path(entry.path)
            if not _is_shown(path):
                continue
            if entry.is_dir():
                yield from _walk(path, above | {real})
            elif path.suffix.lower() in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                yield path


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if _is_shown(path) and path.is_dir())


def _is_shown(path: pathlib.Path) -> bool:
    return not path.name.startswith(".") and path.name != "__MACOSX"
