"""Experiment files: found in a folder or in the package, run, and refused in one sentence."""

import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.machinery import PathFinder

from absl import flags
from ml_collections import ConfigDict

from moshijax.system.errors import UserError


PACKAGE = "configs"


class Parser(flags.ArgumentParser):
    """Reads the value of `--config`."""

    def parse(self, argument: str) -> ConfigDict:
        """Returns the locked experiment of FILE[:SWITCHES]."""
        return load(argument).lock()


def published() -> pathlib.Path:
    """The folder of the published experiments: in a wheel within the package, else beside it."""
    package = pathlib.Path(__file__).parent.parent
    inside = package / PACKAGE
    return inside if inside.is_dir() else package.parent / PACKAGE


def experiments(folder: pathlib.Path) -> list[pathlib.Path]:
    """The experiments in a folder; its other files are what they share."""
    return [p for p in sorted(folder.glob("*.py")) if "\ndef get_config(" in p.read_text("utf-8")]


def find(name: str) -> tuple[pathlib.Path, list[str]]:
    """Returns the file of FILE[:SWITCHES], and the switches if there are any.

    A file that does not exist is looked for among the published ones, if it is named like one.

    Raises:
        UserError: there is no such file.
    """
    parts = name.split(":")
    for count in range(1, len(parts) + 1):  # There may be a colon in the path too.
        path = pathlib.Path(":".join(parts[:count]))
        ours = published() / path.name if path.parent == pathlib.Path(PACKAGE) else path
        for file in (path, ours):
            if file.exists() and not file.is_dir():
                return file, [":".join(parts[count:])] if count < len(parts) else []
    files = experiments(published())
    remedy = f"take one of {', '.join(f'{PACKAGE}/{path.name}' for path in files)}"
    if not parts[0]:
        raise UserError(f"--config is empty: {remedy}")
    what = "is a folder" if pathlib.Path(parts[0]).is_dir() else "there is no such file"
    raise UserError(f"--config {parts[0]}: {what}; check the path, or {remedy}")


def load(name: str) -> ConfigDict:
    """Returns the experiment of FILE[:SWITCHES].

    Raises:
        UserError: there is no such file, it fails, or what it gives is no experiment.
    """
    path, switches = find(name)
    with _importing(path):
        try:
            make = _run(path)
            if not callable(make):
                raise UserError(f"there is no get_config(): name one such as {PACKAGE}/moshi.py")
            if switches and not _takes(make, switches):
                raise UserError(f"it has no switches: leave out :{switches[0]}")
            config = make(*switches)
        except (Exception, SystemExit) as error:
            raise UserError(f"--config {name}{_where(error, path)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config {name}: get_config() returns {_called(config)}, which is no experiment: "
            "return an ml_collections.ConfigDict"
        )
    return config


def missing_key(error: Exception) -> str | None:
    """What to say of an error that is a look-up of a key which a config lacks."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or frames[-1].filename != inspect.getfile(ConfigDict):
        return None
    # The text of a KeyError is 'NAME', in quotes, and a suggestion.
    name = error.name if isinstance(error, AttributeError) else str(error.args[0]).split("'")[1]
    return f"the config has no key {name}: take over what {PACKAGE}/loop.py gives experiments"


def _run(path: pathlib.Path) -> object:
    """Runs a file, without writing beside it; returns its `get_config`."""
    module = types.ModuleType(f"{PACKAGE}.{path.stem}")
    module.__file__, module.__package__ = str(path), PACKAGE
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return getattr(module, "get_config", None)


def _takes(function: Callable[..., object], arguments: list[str]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


@contextmanager
def _importing(path: pathlib.Path) -> Generator[None]:
    """Lets a file import its neighbours as `configs.x`, and the published files it lacks.

    The package exists for this file alone: one of that name that belongs to somebody else is
    neither hidden from others nor taken for ours.
    """

    def modules() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == PACKAGE]

    kept = {name: sys.modules.pop(name) for name in modules()}
    try:
        _make_package(path.resolve().parent)
        yield
    finally:
        for name in modules():
            del sys.modules[name]
        sys.modules.update(kept)


def _make_package(folder: pathlib.Path) -> None:
    where = [str(folder.parent)] if folder.name == PACKAGE else sys.path
    spec = PathFinder.find_spec(PACKAGE, where)
    own = list(spec.submodule_search_locations or ()) if spec else []
    if spec and spec.loader and spec.has_location:
        package = importlib.util.module_from_spec(spec)
    else:
        spec, package = None, types.ModuleType(PACKAGE)
    package.__path__ = [*own, str(published())]
    sys.modules[PACKAGE] = package
    if spec and spec.loader:
        spec.loader.exec_module(package)


def _called(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _where(error: BaseException, path: pathlib.Path) -> str:
    """The place and the words of what went wrong in a file."""
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(path):
        return f", line {error.lineno}: {error.msg}"
    if isinstance(error, OSError) and error.filename == str(path):
        return f": {error.strerror}"
    if isinstance(error, UserError):
        return f": {error}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    place = f", line {lines[-1]}" if lines else ""
    return f"{place}: {type(error).__name__}: {error}"
