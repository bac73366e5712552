"""Teachers' logits in files, each stored with all that they were computed from.

A file or folder belongs to one set of facts: weights, data, views, seeds. It is refused where any
of them has changed, so that a student never learns from stale targets.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from jaxtyping import PyTree

from distill import npz
from moshijax.nn.paths import named_leaves
from moshijax.pod import hosts
from moshijax.system.errors import UserError
from moshijax.train.workdir import write_text


GOLDEN = 0.618  # Multiples of the golden ratio, mod 1, are spread evenly over [0, 1).
FACTS = "facts"  # the name of the array that holds the facts, as JSON

Facts = Mapping[str, object]  # of what JSON can hold


def digest(model: PyTree[jax.Array]) -> str:
    """A hash of a model's weights: names, types, shapes and values."""
    result = hashlib.sha256()
    for name, leaf in sorted(named_leaves(model).items()):
        array = np.asarray(hosts.gather(leaf))
        result.update(f"{name} {array.dtype} {array.shape}".encode())
        result.update(array.tobytes())
    return result.hexdigest()[:32]


def _check_facts(path: pathlib.Path, theirs: object, facts: Facts) -> None:
    """Refuses targets whose facts differ from these.

    Raises:
        UserError: names each fact that differs, with both values.
    """
    theirs = theirs if isinstance(theirs, dict) else {}
    theirs, ours = _flat(theirs), _flat(json.loads(json.dumps(facts)))
    odd = [k for k in sorted(ours | theirs) if ours.get(k) != theirs.get(k)]
    if odd:
        changes = "; ".join(f"{k} {theirs.get(k)!r}, not {ours.get(k)!r}" for k in odd)
        raise UserError(
            f"{path} caches another teacher or view ({changes}): take another, or delete it to "
            "have it made again."
        )


def _flat(facts: dict[str, object]) -> dict[str, object]:
    return traverse_util.flatten_dict(facts, sep=".")


def save(path: pathlib.Path, facts: Facts, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays with the facts that they were computed from."""
    npz.save(path, {**arrays, FACTS: np.array(json.dumps(facts))})


def load(path: pathlib.Path, facts: Facts) -> dict[str, np.ndarray]:
    """Reads arrays that were computed from these facts.

    Raises:
        UserError: the file is damaged, or its facts are others.
    """
    arrays = npz.read_stored(path)
    _check_facts(path, _facts_of(arrays.pop(FACTS, None)), facts)
    return arrays


def _facts_of(array: np.ndarray | None) -> object:
    return None if array is None or array.dtype.kind != "U" else json.loads(str(array))


class Plans:
    """A folder of numbered plans, each with the teachers' logits for it.

    A plan is what teacher and student see in one step: data, view, augmentation.

    Args:
        folder: holds one file a plan, and the facts in `cache.json`.
        facts: all that the plans and logits depend on.
        num_plans: how many plans there are; step n replays plan (n - 1) mod num_plans.

    Raises:
        UserError: the folder, or a file in it, is damaged or the cache of something else.
    """

    def __init__(self, folder: pathlib.Path, facts: Facts, num_plans: int) -> None:
        self.folder, self.facts, self.num_plans = folder, facts, num_plans
        path = folder / "cache.json"
        if path.exists():
            _check_facts(folder, _json(path), facts)
        self.missing = [n for n in range(num_plans) if not self._file(n).exists()]
        for number in sorted(set(range(num_plans)) - set(self.missing)):
            self._check(number)
        found = num_plans - len(self.missing)
        logging.info("%d of %d plans are in %s.", found, num_plans, folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(facts, indent=1) + "\n")

    def _file(self, number: int) -> pathlib.Path:
        return self.folder / f"{number:07d}.npz"

    def _check(self, number: int) -> None:
        """Refuses a damaged or foreign plan before training begins; reads its headers and facts."""
        path = self._file(number)
        facts = npz.read_arrays(path, [FACTS] if FACTS in npz.read_headers(path) else [])
        _check_facts(path, _facts_of(facts.get(FACTS)), self.facts)

    def save(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a plan."""
        save(self._file(number), self.facts, arrays)

    def of_step(self, step: int, order: int) -> dict[str, np.ndarray]:
        """The plan that a step replays.

        `order` counts the rollbacks of a run: each begins elsewhere in the round of plans.
        """
        number = (step - 1 + round(order * GOLDEN * self.num_plans)) % self.num_plans
        return load(self._file(number), self.facts)


def _json(path: pathlib.Path) -> object:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete {path.parent}.") from error
