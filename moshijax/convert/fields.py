"""The fields of a `config.json`, each checked as it is taken.

A file may hold any JSON at all, or none: no value is used before its type and bounds are checked.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeGuard

from moshijax.system.errors import UserError


MAX_BYTES = 1 << 20  # of a file; a true one has a few thousand
REMEDY = "fetch it anew"
REQUIRED = object()  # in place of a default
# A value of JSON. What an object or a list holds is `object`: it is checked as it is taken.
Json = Mapping[str, object] | Sequence[object] | str | int | float | None


class Fields:
    """The fields of a JSON object.

    Args:
        table: the fields by name.
        where: the file, as errors name it.
        inside: the path of the object in the file, as in `fuser.`; errors put it before a field.
    """

    def __init__(self, table: Mapping[str, object], where: str, inside: str = ""):
        self.table, self.where, self.inside = table, where, inside

    def __contains__(self, name: str) -> bool:
        return name in self.table

    def fail(self, name: str, what: str) -> NoReturn:
        """Raises a UserError about a field."""
        raise UserError(f"{self.where}: {self.inside}{name} {what}.")

    def get(self, name: str, default: object = REQUIRED) -> object:
        """Returns a field as it is."""
        if name in self.table:
            return self.table[name]
        if default is REQUIRED:
            self.fail(name, "is absent, and nothing tells what it would be: add it")
        return default

    def integer(self, name: str, least: int, most: int, default: object = REQUIRED) -> int:
        """Returns a whole number within bounds."""
        value = self.get(name, default)
        if not is_integer(value) or not least <= value <= most:
            self.fail(
                name, f"is {as_json(value)}; it must be a whole number from {least} to {most}"
            )
        return value

    def number(
        self, name: str, least: float | int, most: float | int, default: object = REQUIRED
    ) -> float:
        """Returns a finite number from `least` to `most`."""
        value = self.get(name, default)
        if not is_number(value) or not least <= value <= most:
            self.fail(name, f"is {as_json(value)}; it must be a number from {least:g} to {most:g}")
        return float(value)

    def integers(self, name: str, least: int, most: int, default: object = REQUIRED) -> list[int]:
        """Returns a list of whole numbers within bounds."""
        values = self.get(name, default)
        if not isinstance(values, list):
            self.fail(name, f"is {as_json(values)}; it must be a list of whole numbers")
        for i, value in enumerate(values):
            if not is_integer(value) or not least <= value <= most:
                self.fail(f"{name}[{i}]", _bounds(value, least, most))
        return values

    def texts(self, name: str, default: object = REQUIRED) -> list[str]:
        """Returns a list of texts, each of them once."""
        values = self.get(name, default)
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            self.fail(name, f"is {as_json(values)}; it must be a list of texts")
        if len(set(values)) < len(values):
            self.fail(name, f"is {as_json(values)}, which says something twice")
        return values

    def flag(self, name: str, default: object = REQUIRED) -> bool:
        """Returns true or false; null is false, as it is for Python."""
        value = self.get(name, default)
        if value is not None and not isinstance(value, bool):
            self.fail(name, f"is {as_json(value)}; it must be true or false")
        return bool(value)

    def text(self, name: str, default: object = REQUIRED) -> str:
        """Returns a text."""
        value = self.get(name, default)
        if not isinstance(value, str):
            self.fail(name, f"is {as_json(value)}; it must be a text")
        return value

    def only(self, name: str, known: Json, default: object, of: str) -> None:
        """Refuses all values but the one that these models have.

        Args:
            name: the field.
            known: what it must be.
            default: what it is where it is absent.
            of: whose default that is.
        """
        value = self.get(name, default)
        if type(value) is type(known) and value == known:
            return
        if is_number(value) and is_number(known) and value == known:
            return
        how = as_json(value) if name in self else f"absent, which {of} takes as {as_json(value)}"
        self.fail(name, f"is {how}; only {as_json(known)} is known here")

    def object(self, name: str) -> "Fields":
        """Returns the fields of an object in this one; null or absent has none."""
        value = self.get(name, None)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.fail(name, f"is {as_json(value)}; it must be an object")
        return Fields(value, self.where, f"{self.inside}{name}.")


def _bounds(value: object, least: int, most: int) -> str:
    return f"is {as_json(value)}; it must be a whole number from {least} to {most}"


def read_fields(path: pathlib.Path, most: int = MAX_BYTES) -> Fields:
    """Reads a JSON object in UTF-8, UTF-16 or UTF-32, of at most `most` bytes.

    Raises:
        UserError: there is none.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no plain file"
        raise UserError(f"{path} is {kind}, where a file of JSON is wanted: {REMEDY}.")
    try:
        with path.open("rb") as file:
            content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {REMEDY}.") from error
    if len(content) > most:
        raise UserError(f"{path} has more than {most} bytes, too many for its kind: {REMEDY}.")
    try:
        fields = json.loads(_decode(content), object_pairs_hook=lambda p: _no_repeats(p, path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({as_json(str(error))}): {REMEDY}.") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no JSON object: {REMEDY}.")
    return Fields(fields, str(path))


def _decode(content: bytes) -> str:
    """Text in the encoding that its first bytes tell; without a mark they are UTF-8."""
    return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")


def _no_repeats(pairs: list[tuple[str, object]], path: pathlib.Path) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: {as_json(twice)} is there twice: keep the one that is meant.")
    return table


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of JSON is a number and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def as_json(value: object) -> str:
    """Shows a value of JSON in one short line."""
    try:
        text = " ".join(json.dumps(value, default=str).split())
    except (RecursionError, ValueError):  # Nested too deeply, or of too many digits.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
