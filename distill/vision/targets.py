"""Teacher logits that are computed once: per image for fixed views, per plan for cached ones.

A fixed teacher's view of an image never changes, so one table serves the whole run. A cached
plan is what teacher and student saw in one step, mixup included, with the teacher's logits
beside it; students replay the plans and see the very same pixels.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distill import npz
from distill.task import mixed_images
from distill.vision import views
from distill.vision.data import EvalBatches, TrainBatches
from moshijax import hosts, sharding
from moshijax.errors import UserError
from moshijax.nn.paths import named_leaves
from moshijax.train.workdir import write_text


GOLDEN = 0.618  # Multiples of it, mod 1, lie far apart.

FACTS = "facts"  # the array of a file that says what it was made of
VERSION = 2  # of what the files hold and how it is computed

Facts = Mapping[str, Any]
Logits = dict[str, np.ndarray]  # By teacher: [B, V]
# A process's rows of a batch with `images` by view key (bytes) and the mixup share `mix`, and the
# batch's size -> the whole batch, with `logits` instead of the images.
Ask = Callable[[Any, int], dict[str, Any]]


def digest(model: Any) -> str:
    """A short name of a model's weights."""
    result = hashlib.sha256()
    for name, leaf in sorted(named_leaves(model).items()):
        array = np.asarray(hosts.gather(leaf))
        result.update(f"{name} {array.dtype} {array.shape}".encode())
        result.update(array.tobytes())
    return result.hexdigest()[:32]


def _check_facts(path: pathlib.Path, theirs: Any, facts: Facts) -> None:
    """Refuses targets that were made of something else.

    Raises:
        UserError: what they were made of, and what they should be made of.
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


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(facts, sep=".")


def _save(path: pathlib.Path, facts: Facts, arrays: Mapping[str, np.ndarray]) -> None:
    npz.save(path, {**arrays, FACTS: np.array(json.dumps(facts))})


def _load(path: pathlib.Path, facts: Facts) -> dict[str, np.ndarray]:
    """Arrays that were made of these facts.

    Raises:
        UserError: the file is damaged, or made of others.
    """
    arrays = npz.read_stored(path)
    _check_facts(path, _told(arrays.pop(FACTS, None)), facts)
    return arrays


def _told(array: np.ndarray | None) -> Any:
    return None if array is None or array.dtype.kind != "U" else json.loads(str(array))


def fixed_table(
    path: pathlib.Path,
    facts: Facts,
    data: EvalBatches,
    ask: Ask,
    draws: int,
    rows: np.ndarray | None = None,
) -> Logits:
    """Log of the mean probability that each teacher gives each image over `draws` views.

    `data` are evaluation batches with the teachers' views, of which this process reads `rows`; the
    table is kept in `path` with the `facts` that it depends on.

    Raises:
        UserError: the table that is there is damaged, or was made of something else.
    """
    if path.exists():
        return _load(path, facts)
    total: Logits = {}
    jobs = tqdm.tqdm(range(draws * data.num_batches), desc="fixed targets", disable=None)
    for job in jobs:
        draw, number = divmod(job, data.num_batches)
        batch = data.batch(number, rows, draw=draw) | {"mix": np.float32(1)}
        told = ask(batch, data.batch_size)
        known = told["mask"] > 0
        for name, logits in told["logits"].items():
            shape = (len(data.source), logits.shape[1])
            table = total.setdefault(name, np.zeros(shape, np.float64))
            table[told["index"][known]] += _softmax(logits[known])
    with np.errstate(divide="ignore"):
        table = {name: np.log(mass / draws).astype(np.float32) for name, mass in total.items()}
    if hosts.first():
        _save(path, facts, table)
    hosts.tell("")  # It is written by now.
    return table


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class FixedTargets:
    """Training batches with each image's own logits out of a table."""

    def __init__(self, batches: TrainBatches, table: Logits) -> None:
        self.batches, self.table = batches, table
        self.batch_size, self.reader = batches.batch_size, batches.reader

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> dict[str, Any]:
        """The batch with `teacher_logits`."""
        batch = self.batches.batch(step, order, rows)
        logits = {name: table[batch["index"]] for name, table in self.table.items()}
        return batch | {"teacher_logits": logits}


def plan_rows(plan: views.Plan, rows: np.ndarray) -> views.Plan:
    """Some rows of a plan."""
    pick = [views.View(view.box[rows], view.flip[rows]) for view in (plan.student, plan.teacher)]
    return views.Plan(plan.index[rows], *pick, plan.mix)


class CachedTargets:
    """Training batches out of stored plans with their logits, over and over.

    Args:
        folder: where one file a plan is kept, and `cache.json`, which says of what.
        facts: what the plans and logits depend on; another cache's differ.
        batches: renders plans for the student.
        num_plans: how many plans there are; step n replays plan (n - 1) mod num_plans.

    Raises:
        UserError: the folder, or a file in it, is damaged or the cache of something else.
    """

    def __init__(
        self, folder: pathlib.Path, facts: Facts, batches: TrainBatches, num_plans: int
    ) -> None:
        self.folder, self.facts, self.batches, self.num_plans = folder, facts, batches, num_plans
        self.batch_size, self.reader = batches.batch_size, batches.reader
        path = folder / "cache.json"
        if path.exists():
            _check_facts(folder, _json(path), facts)
        self._missing = [n for n in range(num_plans) if not self._file(n).exists()]
        for number in sorted(set(range(num_plans)) - set(self._missing)):
            self._check(number)
        found = num_plans - len(self._missing)
        logging.info("%d of %d plans are in %s.", found, num_plans, folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(facts, indent=1) + "\n")

    def _file(self, number: int) -> pathlib.Path:
        return self.folder / f"{number:07d}.npz"

    def _check(self, number: int) -> None:
        """Refuses a damaged or foreign plan before a step is trained, by its headers alone."""
        path = self._file(number)
        facts = npz.read_arrays(path, [FACTS] if FACTS in npz.read_headers(path) else [])
        _check_facts(path, _told(facts.get(FACTS)), self.facts)

    def fill(self, teacher_batches: TrainBatches, ask: Ask, rows: np.ndarray | None = None) -> None:
        """Computes the plans that are not there yet, of which this process renders `rows`."""
        rows = np.arange(self.batch_size) if rows is None else rows
        for number in tqdm.tqdm(self._missing, desc="cached targets", disable=None):
            plan = teacher_batches.plan(number + 1)
            told = ask(teacher_batches.render(plan_rows(plan, rows)), self.batch_size)
            # A corrupt image was replaced: the student is to see the same one.
            plan = plan._replace(index=np.asarray(told["index"], np.int64))
            named = {f"logits/{name}": value for name, value in told["logits"].items()}
            if hosts.first():
                _save(self._file(number), self.facts, views.to_arrays(plan) | named)
        hosts.tell("")  # All of them are written by now.

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> dict[str, Any]:
        """The step's plan, rendered for the student, with `teacher_logits`."""
        # Another order begins elsewhere in the same round of plans.
        number = (step - 1 + round(order * GOLDEN * self.num_plans)) % self.num_plans
        arrays = _load(self._file(number), self.facts)
        rows = np.arange(self.batch_size) if rows is None else rows
        batch = self.batches.render(plan_rows(views.from_arrays(arrays), rows))
        logits = {n.removeprefix("logits/"): a[rows] for n, a in arrays.items() if "/" in n}
        return batch | {"teacher_logits": logits}


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete {path.parent}.") from error


def make_ask(teachers: Mapping[str, Any], keys: Mapping[str, str], mesh: Mesh) -> Ask:
    """A jitted question to the teachers, each of whom looks at its own view key.

    A batch is spread over the mesh: each process brings its rows of it and gets the whole answer.
    """
    whole = NamedSharding(mesh, P())

    @functools.partial(jax.jit, out_shardings=whole)
    def answer(teachers: Any, batch: Any) -> Any:
        mixed = mixed_images(batch["images"], batch["mix"])
        logits = {name: teacher(mixed[keys[name]])[0] for name, teacher in teachers.items()}
        return batch | {"images": {}, "logits": logits}

    def ask(batch: Any, batch_size: int) -> dict[str, Any]:
        return jax.device_get(answer(teachers, sharding.to_mesh(batch, batch_size, mesh)))

    return ask
