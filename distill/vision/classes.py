"""The class indices of an experiment: one list of names for all data that it reads.

The classes of a folder are indexed in the order of their names, so one class more or less shifts
the indices of the rest. A run stores its list, so that later runs index its classes alike.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from absl import logging

from distill.vision.folder import LISTED
from distill.vision.sources import Source
from moshijax.pod import hosts
from moshijax.system.errors import UserError
from moshijax.train.workdir import is_claimed, write_text


FILE = "classes.json"

Names = tuple[str, ...]


def of_run(load: str | None) -> Names | None:
    """The class names that a work directory stores; a file of weights has none."""
    path = pathlib.Path(load or "").expanduser() / FILE
    if load is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): copy the run again.") from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path} is no list of names: copy the run again.")
    return tuple(found)


def keep(workdir: pathlib.Path, names: Names) -> None:
    """Writes a run's names into its directory, or compares them with those it began with."""
    theirs = of_run(str(workdir)) if is_claimed(workdir) else None
    if theirs is not None and theirs != names:
        raise UserError(
            f"the classes of the data are not those that {workdir} began with "
            f"({differences('the run', theirs, 'the data', names)}): restore them, or take another "
            "--workdir."
        )
    if hosts.is_main():
        write_text(workdir / FILE, json.dumps(names, indent=1) + "\n")


def agree(
    runs: Mapping[str, Names],
    train: Source | None,
    sets: Sequence[Source],
    num_classes: int,
    by_labels: bool,
) -> tuple[Names, bool]:
    """The classes of an experiment, and whether the training images' labels are of them.

    They are those of the runs that it loads, else of the training images if their labels teach,
    else of the evaluation images, or of the training images if these have all of them and more.

    Args:
        runs: the names that loaded runs keep, by what they are here.
        train: the training images.
        sets: the evaluation images; they may lack classes.
        num_classes: how many the student tells apart.
        by_labels: whether the labels teach; if not, the training images may be of other things.

    Raises:
        UserError: names differ in a way that would give a class two numbers.
    """
    owner, names = _standard(runs, train, sets, num_classes, by_labels)
    for source in sets:
        if not set(source.class_names) <= set(names):
            raise _refusal(owner, names, source.name, source.class_names)
    if train is None:
        return names, False
    theirs = set(train.class_names)
    if theirs <= set(names):
        return names, True
    if by_labels or (len(theirs) == len(names) and theirs & set(names)):
        raise _refusal(owner, names, train.name, train.class_names)
    logging.warning(
        "%s is of other classes than %s: %s; its labels are not used.",
        train.name, owner, differences("the latter", names, "the former", train.class_names),
    )  # fmt: skip
    return names, False


def _standard(
    runs: Mapping[str, Names],
    train: Source | None,
    sets: Sequence[Source],
    num_classes: int,
    by_labels: bool,
) -> tuple[str, Names]:
    """The owner and the names of the list that indexes all labels."""
    for owner, names in runs.items():
        for other, theirs in runs.items():
            if theirs != names:
                raise _refusal(owner, names, other, theirs)
        return owner, names
    widest = max(sets, key=lambda source: len(source.class_names))
    if train is not None:
        wider = set(widest.class_names) <= set(train.class_names)
        if by_labels or (wider and len(train.class_names) == num_classes):
            return train.name, train.class_names
    return widest.name, widest.class_names


def _refusal(owner: str, names: Names, other: str, theirs: Names) -> UserError:
    return UserError(
        f"{other} has other classes than {owner}: "
        f"{differences('the latter', names, 'the former', theirs)}; give both the same ones, for "
        "they are compared by name."
    )


def differences(owner: str, names: Names, other: str, theirs: Names) -> str:
    """What each of two lists of names has alone."""
    alone = [
        f"only {whose} has {_listed(mine)}"
        for whose, mine in (
            (owner, sorted(set(names) - set(theirs))),
            (other, sorted(set(theirs) - set(names))),
        )
        if mine
    ]
    return ", ".join(alone) or "the same names in another order"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more
