"""Weights as one table of tensors, whether one file holds them or several with an index.

Where they are cut into parts, `model.safetensors.index.json` beside them tells which part holds
which tensor.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from moshijax.convert import hub
from moshijax.convert.fields import read_fields
from moshijax.convert.foreign import PICKLES, refuse_pickle
from moshijax.convert.hub import HubName
from moshijax.convert.safetensors import Entry, Safetensors, brief
from moshijax.system.errors import UserError


INDEX = ".index.json"
PART = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)\.safetensors")
MAX_INDEX = 100_000_000  # bytes; Moshi's own would have 40 thousand


class Usual(NamedTuple):
    """What is read where only a folder is named."""

    field: str  # of the config.json there, which may name the file
    names: tuple[str, ...]


LANGUAGE_MODEL = Usual("moshi_name", ("model.safetensors",))
CODEC = Usual("mimi_name", ("tokenizer-e351c8d8-checkpoint125.safetensors", "model.safetensors"))
ADAPTERS = Usual("lora_name", ("lora.safetensors",))


class Weights(Mapping[str, np.ndarray]):
    """The tensors of one file or of several, as read-only arrays that are read when touched."""

    def __init__(self, path: pathlib.Path, homes: Mapping[str, Safetensors]):
        self.path = path  # of the file, or of the index
        self._homes = homes
        self._parts = list({id(home): home for home in homes.values()}.values())
        self.entries: dict[str, Entry] = {n: home.entries[n] for n, home in homes.items()}
        self.metadata = {k: text for part in self._parts for k, text in part.metadata.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.home(name)[name]

    def home(self, name: str) -> Safetensors:
        """Returns the file that holds a tensor."""
        if name not in self._homes:
            raise KeyError(f"{self.path} holds no tensor {name}")
        return self._homes[name]

    def release(self) -> None:
        """Drops the pages that were read from memory; a tensor touched again is read again."""
        for part in self._parts:
            part.release()

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


class Folder(NamedTuple):
    """Where files lie beside each other, on this machine or on the hub."""

    place: pathlib.Path | HubName

    def find(self, name: str) -> pathlib.Path | None:
        """Returns the path of a file, fetched if need be; None if nothing is there."""
        if isinstance(self.place, HubName):
            return hub.find(self.place.join(name))
        path = self.place / name
        return path if os.path.lexists(path) else None

    def at(self, name: str, path: pathlib.Path) -> "Folder":
        """Returns the folder at the commit whose file was found at a path."""
        if isinstance(self.place, HubName):
            return Folder(hub.pinned(self.place.join(name), path).split()[0])
        return self

    def __str__(self) -> str:
        return str(self.place)


def open_weights(source: str | os.PathLike[str], usual: Usual = LANGUAGE_MODEL) -> Weights:
    """Opens weights, whole or in parts.

    Args:
        source: a file, an index, one of the parts, or a folder that has them; a path or an `hf://`
            name.
        usual: which file of a folder is meant.

    Raises:
        UserError: nothing is there, or it is damaged or incomplete.
    """
    folder, name = _split(source)
    if name is None:
        folder, name = _choose(folder, usual)
    if part := PART.fullmatch(name):
        index = f"{part['stem']}.safetensors{INDEX}"
        if folder.find(index) is not None:
            name = index
        elif int(part["count"]) > 1:
            raise UserError(
                f"{folder}/{name} is one of {part['count']} parts, and {index} beside it, which "
                "tells what they hold, is missing: fetch it too."
            )
    path = _require(folder, name)
    if name.endswith(INDEX):
        return _open_parts(path, folder.at(name, path))
    file = Safetensors(path)
    return Weights(path, dict.fromkeys(file, file))


def find_beside(source: str | os.PathLike[str], name: str) -> pathlib.Path | None:
    """Returns the path of a file in the folder of some weights, fetched if need be, or None."""
    return _split(source)[0].find(name)


def _split(source: str | os.PathLike[str]) -> tuple[Folder, str | None]:
    """The folder of some weights, and the file in it if one is named."""
    place = hub.parse(source)
    if isinstance(place, HubName):
        refuse_pickle(str(place))
        if not place.path.endswith((".safetensors", ".json")):
            return Folder(place), None
        inside, name = place.split()
        return Folder(inside), name
    return (Folder(place), None) if place.is_dir() else (Folder(place.parent), place.name)


def _choose(folder: Folder, usual: Usual) -> tuple[Folder, str]:
    """The file that a folder is named for: config.json tells, else it has a usual name."""
    named = _named(folder, usual.field)
    if named is not None and named.startswith("hf://"):
        elsewhere, name = _split(named)
        if name is not None:
            return elsewhere, name
    wanted = (named,) if named is not None else usual.names
    for name in wanted:
        for candidate in (name, f"{name}{INDEX}"):
            if folder.find(candidate) is not None:
                return folder, candidate
    if isinstance(folder.place, pathlib.Path):
        found = sorted(
            p.name for p in folder.place.glob("*.safetensors") if not PART.fullmatch(p.name)
        )
        found += sorted(p.name for p in folder.place.glob(f"*.safetensors{INDEX}"))
        if len(found) == 1 and named is None:
            return folder, found[0]
        pickled = [path for path in folder.place.iterdir() if path.suffix in PICKLES]
        if pickled and not found:
            refuse_pickle(str(min(pickled)))
    raise UserError(
        f"{folder} has no {' or '.join(wanted)}, whole or in parts: name the file itself."
    )


def _named(folder: Folder, field: str) -> str | None:
    path = folder.find("config.json")
    if path is None:
        return None
    name = read_fields(path).table.get(field)
    if name is not None and not (isinstance(name, str) and hub.inside(name.removeprefix("hf://"))):
        raise UserError(
            f"{path} has the {field} {brief(name)}, which is no name of a file in its folder: "
            "fetch it anew, or name the file itself."
        )
    return name


def _require(folder: Folder, name: str) -> pathlib.Path:
    if isinstance(folder.place, HubName):
        return hub.fetch(folder.place.join(name))
    return folder.place / name


def _open_parts(path: pathlib.Path, folder: Folder) -> Weights:
    """Opens the parts that an index names; they must hold what it says, and nothing else."""
    held = read_index(path)
    homes: dict[str, Safetensors] = {}
    for file, names in held.items():
        found = folder.find(file)
        if found is None:
            raise UserError(
                f"{path} names the part {brief(file)}, which is not beside it: fetch it too."
            )
        part = Safetensors(found)
        for verb, differing in (
            ("lacks", names - part.keys()),
            ("has besides", part.keys() - names),
        ):
            if differing:
                raise UserError(
                    f"{found} {verb} the tensor {brief(min(differing))}, {len(differing)} in all, "
                    f"by what {path} tells: they are of different versions, so fetch both anew."
                )
        homes |= dict.fromkeys(names, part)
    return Weights(path, homes)


def read_index(path: pathlib.Path) -> dict[str, set[str]]:
    """Reads which tensors each part holds.

    Raises:
        UserError: it is no index, or names a part that does not lie beside it.
    """
    table = read_fields(path, MAX_INDEX).table.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(
            f"{path} has no weight_map that tells which part holds a tensor: fetch it anew, or "
            "name the safetensors file itself."
        )
    held: dict[str, set[str]] = {}
    for name, file in table.items():
        if not isinstance(file, str) or not hub.inside(file) or re.search(r"[/\\:]", file):
            raise UserError(
                f"{path} says that the tensor {brief(name)} is in {brief(file)}, which is no file "
                "beside it: fetch it anew, and from a source that you trust."
            )
        held.setdefault(file, set()).add(name)
    return held
