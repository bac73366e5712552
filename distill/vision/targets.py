"""Teacher logits that are computed once: per image for fixed views, per plan for cached ones.

A fixed teacher's view of an image never changes, so one table serves the whole run. A cached
plan is what teacher and student saw in one step, mixup included, with the teacher's logits
beside it; students replay the plans and see the very same pixels.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distill import cache
from distill.vision import views
from distill.vision.data import EvalBatches, TrainBatches
from distill.vision.matcher import mixed_images
from moshijax import shard
from moshijax.pod import hosts


VERSION = 2  # of what the files hold and how it is computed

Logits = dict[str, np.ndarray]  # By teacher: [B, V]
# A process's rows of a batch with `images` by view key (bytes) and the mixup share `mix`, and the
# batch's size -> the whole batch, with `logits` instead of the images.
Ask = Callable[[Any, int], dict[str, Any]]


def fixed_table(
    path: pathlib.Path,
    facts: cache.Facts,
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
        return cache.load(path, facts)
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
    if hosts.is_main():
        cache.save(path, facts, table)
    hosts.broadcast("")  # It is written by now.
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
        plans: views of images, with the teachers' logits beside them.
        batches: renders plans for the student.
    """

    def __init__(self, plans: cache.Plans, batches: TrainBatches) -> None:
        self.plans, self.batches = plans, batches
        self.batch_size, self.reader = batches.batch_size, batches.reader

    def fill(self, teacher_batches: TrainBatches, ask: Ask, rows: np.ndarray | None = None) -> None:
        """Computes the plans that are not there yet, of which this process renders `rows`."""
        rows = np.arange(self.batch_size) if rows is None else rows
        for number in tqdm.tqdm(self.plans.missing, desc="cached targets", disable=None):
            plan = teacher_batches.plan(number + 1)
            told = ask(teacher_batches.render(plan_rows(plan, rows)), self.batch_size)
            # A corrupt image was replaced: the student is to see the same one.
            plan = plan._replace(index=np.asarray(told["index"], np.int64))
            named = {f"logits/{name}": value for name, value in told["logits"].items()}
            if hosts.is_main():
                self.plans.save(number, views.to_arrays(plan) | named)
        hosts.broadcast("")  # All of them are written by now.

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> dict[str, Any]:
        """The step's plan, rendered for the student, with `teacher_logits`."""
        arrays = self.plans.of_step(step, order)
        rows = np.arange(self.batch_size) if rows is None else rows
        batch = self.batches.render(plan_rows(views.from_arrays(arrays), rows))
        logits = {n.removeprefix("logits/"): a[rows] for n, a in arrays.items() if "/" in n}
        return batch | {"teacher_logits": logits}


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
        return jax.device_get(answer(teachers, shard.to_mesh(batch, batch_size, mesh)))

    return ask
