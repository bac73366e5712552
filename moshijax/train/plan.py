"""What a config would train, told by shapes alone: nothing is read, loaded or computed."""

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from moshijax.train.program import Task


class Plan(NamedTuple):
    """A task whose frozen arrays are shapes, and the shapes of what it is fed."""

    task: Task
    batch: Any  # Shapes of one global batch, scalars included.
    counts: Mapping[str, int]  # What a step goes through: {"images": 4096}.
    # Keys of the config that trade speed for memory and leave what is learned alone: what they
    # may be, the fastest first.
    choices: Mapping[str, Sequence[Any]] = MappingProxyType({})


def make(config: ConfigDict) -> Plan:
    """The plan of a config's experiment module: its function `plan(config)`.

    Raises:
        ValueError: the config names no such module, or parts of it do not fit each other.
    """
    if "experiment" not in config:
        raise ValueError(
            "config.experiment is missing: name the module whose plan(config) says what is "
            "trained, such as 'distill.experiment'."
        )
    name = config.experiment
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"config.experiment: {name!r} cannot be imported ({error}): name a module "
            "that has a function plan(config)."
        ) from error
    if not hasattr(module, "plan"):
        raise ValueError(
            f"config.experiment: {name!r} has no task to plan: give it a function plan(config)."
        )
    return module.plan(config)
