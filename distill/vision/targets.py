"""Targets, the teachers' logits, that are computed once: per image, or per stored plan.

The view that a fixed teacher has of an image never changes, so one table of logits serves the whole
run. A plan is what teacher and student see in one step, crops and mixup alike; a cache stores plans
with the teacher's logits, and a student that replays them sees the very same pixels.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import ArrayLike, Float, Float64, Int, PyTree

from distill import cache
from distill.vision import views
from distill.vision.data import EvalBatch, EvalBatches, TrainBatch, TrainBatches
from distill.vision.matcher import mixed_images
from distill.vision.resnet import ResNet
from moshijax import shard
from moshijax.pod import hosts


VERSION = 2  # of what the files hold and how it is computed

Logits = dict[str, Float[np.ndarray, "N V"]]  # by teacher


class Predictions(NamedTuple):
    """The logits of all teachers for a global batch, and which rows of the data set these are."""

    index: Int[np.ndarray, "B"]
    mask: Float[np.ndarray, "B"] | None  # of an evaluation batch
    logits: dict[str, Float[np.ndarray, "B V"]]  # by teacher


@runtime_checkable
class Predict(Protocol):
    """Runs the teachers on a global batch, of which each process brings its own rows."""

    def __call__(self, batch: TrainBatch | EvalBatch, batch_size: int) -> Predictions:
        """Predicts the whole batch, in every process; `batch_size` is the global one."""
        ...


def fixed_table(
    path: pathlib.Path,
    facts: cache.Facts,
    data: EvalBatches,
    predict: Predict,
    draws: int,
    rows: np.ndarray | None = None,
) -> Logits:
    """Log of the mean probability that each teacher gives each image over `draws` views.

    Args:
        path: the file that the table is kept in.
        facts: what the table depends on; they are stored beside it.
        data: evaluation batches with the teachers' views of all images.
        predict: runs the teachers.
        draws: how many views of each image are averaged.
        rows: of each batch, those that this process reads; None: all.

    Raises:
        UserError: the table that is there is damaged, or was made of something else.
    """
    if path.exists():
        return cache.load(path, facts)
    total: dict[str, Float64[np.ndarray, "N V"]] = {}
    jobs = tqdm.tqdm(range(draws * data.num_batches), desc="fixed targets", disable=None)
    for job in jobs:
        draw, number = divmod(job, data.num_batches)
        batch = data.batch(number, rows, draw=draw)
        batch["mix"] = np.float32(1)
        index, mask, found = predict(batch, data.batch_size)
        known = np.asarray(mask) > 0
        for name, logits in found.items():
            shape = (len(data.source), logits.shape[1])
            table = total.setdefault(name, np.zeros(shape, np.float64))
            table[index[known]] += _softmax(logits[known])
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
    """Training batches with each image's own logits from a table."""

    def __init__(self, batches: TrainBatches, table: Logits) -> None:
        self.batches, self.table = batches, table
        self.batch_size, self.reader = batches.batch_size, batches.reader

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> TrainBatch:
        """The batch with `teacher_logits`."""
        batch = self.batches.batch(step, order, rows)
        logits = {name: table[batch["index"]] for name, table in self.table.items()}
        return batch | {"teacher_logits": logits}


def plan_rows(plan: views.Plan, rows: np.ndarray) -> views.Plan:
    """Some rows of a plan."""
    pick = [views.View(view.box[rows], view.flip[rows]) for view in (plan.student, plan.teacher)]
    return views.Plan(plan.index[rows], *pick, plan.mix)


class CachedTargets:
    """Training batches that replay stored plans with their logits, in rounds.

    Args:
        plans: views of images, with the teachers' logits beside them.
        batches: renders plans for the student.
    """

    def __init__(self, plans: cache.Plans, batches: TrainBatches) -> None:
        self.plans, self.batches = plans, batches
        self.batch_size, self.reader = batches.batch_size, batches.reader

    def fill(
        self, teacher_batches: TrainBatches, predict: Predict, rows: np.ndarray | None = None
    ) -> None:
        """Computes the logits of plans that are not stored yet; this process renders `rows`."""
        rows = np.arange(self.batch_size) if rows is None else rows
        for number in tqdm.tqdm(self.plans.missing, desc="cached targets", disable=None):
            plan = teacher_batches.plan(number + 1)
            index, _, logits = predict(
                teacher_batches.render(plan_rows(plan, rows)), self.batch_size
            )
            # A corrupt image was replaced: the student is to see the same one.
            plan = plan._replace(index=np.asarray(index, np.int64))
            named = {f"logits/{name}": value for name, value in logits.items()}
            if hosts.is_main():
                self.plans.save(number, views.to_arrays(plan) | named)
        hosts.broadcast("")  # All of them are written by now.

    def batch(self, step: int, order: int, rows: np.ndarray | None) -> TrainBatch:
        """The step's plan, rendered for the student, with `teacher_logits`."""
        arrays = self.plans.of_step(step, order)
        rows = np.arange(self.batch_size) if rows is None else rows
        batch = self.batches.render(plan_rows(views.from_arrays(arrays), rows))
        logits = {n.removeprefix("logits/"): a[rows] for n, a in arrays.items() if "/" in n}
        return batch | {"teacher_logits": logits}


def make_predict(teachers: Mapping[str, ResNet], keys: Mapping[str, str], mesh: Mesh) -> Predict:
    """A jitted forward pass of the teachers, each on the images of its own view key."""
    replicated = NamedSharding(mesh, P())

    @functools.partial(jax.jit, out_shardings=replicated)
    def forward(
        teachers: Mapping[str, ResNet], batch: PyTree[ArrayLike]
    ) -> tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]:
        mixed = mixed_images(batch["images"], batch["mix"])
        logits = {name: teacher(mixed[keys[name]])[0] for name, teacher in teachers.items()}
        return batch["index"], batch.get("mask"), logits

    def predict(batch: TrainBatch | EvalBatch, batch_size: int) -> Predictions:
        whole = forward(teachers, shard.to_mesh(batch, batch_size, mesh))
        return Predictions(*jax.device_get(whole))

    return predict
