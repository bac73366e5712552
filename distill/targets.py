"""Teacher logits that are computed once: per image for fixed views, per plan for cached ones.

A fixed teacher's view of an image never changes, so one table serves the whole run. A cached
plan is what teacher and student saw in one step, mixup included, with the teacher's logits
beside it; students replay the plans and see the very same pixels.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm

from distill import views
from distill.task import mixed_images
from distill.vision.data import EvalBatches, TrainBatches
from moshijax.files import replacing
from moshijax.train.workdir import write_text


GOLDEN = 0.618  # Multiples of it, mod 1, lie far apart.

Logits = dict[str, np.ndarray]  # By teacher: [B, V]
Ask = Callable[[Any, Any], Logits]  # Images by view key (bytes) and mixup share -> logits


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file whole or not at all."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # A zip file breaks in many ways, all of them to be named.
        raise ValueError(
            f"{path} cannot be read ({error}): delete it to have it made again."
        ) from error


def fixed_table(path: pathlib.Path, data: EvalBatches, ask: Ask, draws: int) -> Logits:
    """Log of the mean probability that each teacher gives each image over `draws` views.

    `data` are evaluation batches with the teachers' views; the table is kept in `path`.
    """
    if path.exists():
        return load_arrays(path)
    total: Logits = {}
    jobs = tqdm.tqdm(range(draws * data.num_batches), desc="fixed targets", disable=None)
    for job in jobs:
        draw, number = divmod(job, data.num_batches)
        batch = data.batch(number, None, draw=draw)
        known = batch["mask"] > 0
        for name, logits in ask(batch["images"], np.float32(1)).items():
            shape = (len(data.source), logits.shape[1])
            table = total.setdefault(name, np.zeros(shape, np.float64))
            table[batch["index"][known]] += _softmax(logits[known])
    with np.errstate(divide="ignore"):
        table = {name: np.log(mass / draws).astype(np.float32) for name, mass in total.items()}
    save_arrays(path, table)
    return table


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class FixedTargets:
    """Training batches with each image's own logits out of a table."""

    def __init__(self, batches: TrainBatches, table: Logits) -> None:
        self.batches, self.table = batches, table
        self.batch_size = batches.batch_size

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
        ValueError: the folder is the cache of something else.
    """

    def __init__(
        self, folder: pathlib.Path, facts: Mapping[str, Any], batches: TrainBatches, num_plans: int
    ) -> None:
        self.folder, self.batches, self.num_plans = folder, batches, num_plans
        self.batch_size = batches.batch_size
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "cache.json"
        facts = json.loads(json.dumps(facts))
        theirs = json.loads(path.read_text()) if path.exists() else facts
        odd = [k for k in sorted(facts | theirs) if facts.get(k) != theirs.get(k)]
        if odd:
            changes = "; ".join(f"{k} {theirs.get(k)!r}, not {facts.get(k)!r}" for k in odd)
            raise ValueError(f"{folder} caches another teacher or view ({changes}): take another.")
        write_text(path, json.dumps(facts, indent=1) + "\n")

    def _file(self, number: int) -> pathlib.Path:
        return self.folder / f"{number:07d}.npz"

    def fill(self, teacher_batches: TrainBatches, ask: Ask) -> None:
        """Computes the plans that are not there yet; goes on where it was stopped."""
        missing = [n for n in range(self.num_plans) if not self._file(n).exists()]
        for number in tqdm.tqdm(missing, desc="cached targets", disable=None):
            plan = teacher_batches.plan(number + 1)
            batch = teacher_batches.render(plan)
            # A corrupt image was replaced: the student is to see the same one.
            plan = plan._replace(index=np.asarray(batch["index"], np.int64))
            logits = ask(batch["images"], batch["mix"])
            named = {f"logits/{name}": value for name, value in logits.items()}
            save_arrays(self._file(number), views.to_arrays(plan) | named)

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> dict[str, Any]:
        """The step's plan, rendered for the student, with `teacher_logits`."""
        # Another order begins elsewhere in the same round of plans.
        number = (step - 1 + round(order * GOLDEN * self.num_plans)) % self.num_plans
        arrays = load_arrays(self._file(number))
        rows = np.arange(self.batch_size) if rows is None else rows
        batch = self.batches.render(plan_rows(views.from_arrays(arrays), rows))
        logits = {n.removeprefix("logits/"): a[rows] for n, a in arrays.items() if "/" in n}
        return batch | {"teacher_logits": logits}


def make_ask(teachers: Mapping[str, Any], keys: Mapping[str, str]) -> Ask:
    """A jitted question to the teachers, each of whom looks at its own view key."""

    @jax.jit
    def answer(teachers: Any, images: Any, share: Any) -> Any:
        mixed = mixed_images(images, share)
        return {name: teacher(mixed[keys[name]])[0] for name, teacher in teachers.items()}

    return lambda images, share: jax.device_get(answer(teachers, images, share))
