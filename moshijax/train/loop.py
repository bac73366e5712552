"""The one training loop. It owns time and files; a task owns the mathematics."""

import functools
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import ArrayLike, PyTree
from ml_collections import ConfigDict

from moshijax import shard
from moshijax.data.batches import TrainData
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.pod import hosts, interrupts
from moshijax.system.errors import UserError
from moshijax.train import flops, notes, settings, workdir
from moshijax.train.checkpoints import Checkpoints, find_steps
from moshijax.train.evaluators import evaluate
from moshijax.train.feed import read_ahead
from moshijax.train.log import Log
from moshijax.train.program import Program, all_finite, place
from moshijax.train.stopwatch import Stopwatch
from moshijax.train.task import Experiment, Make, Metrics, find
from moshijax.train.trace import Trace
from moshijax.train.workdir import DataOrder


class NonFiniteError(Exception):
    """The loss, a norm, or a state about to be saved, is not finite."""


def due(step: int, every: int, last: int) -> bool:
    """Whether something done every so many steps (0: only at the end) is to be done now."""
    return step == last or (every > 0 and step % every == 0)


class Done(NamedTuple):
    """One step that was asked for."""

    kind: str
    metrics: Metrics  # Perhaps still being computed on the devices.


def _means(pending: Sequence[Done], kinds: Sequence[str]) -> dict[str, float]:
    """Means over the steps since the last report; of several kinds, named `kind/metric`."""
    rows = jax.device_get([done.metrics for done in pending])
    means = {}
    for kind in kinds:
        own = [row for row, done in zip(rows, pending, strict=True) if done.kind == kind]
        prefix = f"{kind}/" if len(kinds) > 1 else ""
        for name in sorted(own[0] if own else (), key=lambda name: (name != "loss", name)):
            means[prefix + name] = float(np.mean([row[name] for row in own]))
            # The loss may be finite while its gradient is not.
            if (name == "loss" or "norm" in name) and not np.isfinite(means[prefix + name]):
                raise NonFiniteError
    return means


class Run:
    """One run: what it computes, what it reads, what it keeps."""

    def __init__(
        self,
        config: ConfigDict,
        experiment: Experiment,
        program: Program,
        train_data: TrainData,
        mesh: Mesh,
        folder: pathlib.Path,
        initial: Mapping[str, jax.Array] | None,
    ) -> None:
        self.config, self.experiment, self.program = config, experiment, program
        self.train_data, self.mesh = train_data, mesh
        self.initial = initial  # Leaves by name; None: not read, since there is a checkpoint.
        self.key = jax.random.key(config.seed)
        self.num_rows = {kind: experiment.num_rows(kind) for kind in experiment.batches}
        self.rows = {k: shard.local_rows(n, mesh) for k, n in self.num_rows.items()}
        self.folder, self.claimed = folder, False
        self.trace = Trace(config.profile, config.num_steps, folder)
        self.order = DataOrder(folder)
        self.checkpoints = Checkpoints(folder, config.keep_checkpoints)
        self.log = Log(folder, config.num_steps, experiment.unit)
        # The MFU at one step a second, by kind of batch; known from its first batch on.
        self.share_of_peak: dict[str, float] = {}

    def start(self) -> tuple[PyTree[jax.Array], int]:
        """The newest checkpoint, else a fresh state."""
        found = self.checkpoints.restore(self.program.shapes, self.program.shardings)
        state, step = found or (self.fresh(), 0)
        self.log.start(step)
        if meant := workdir.changes(self.folder, self.config):
            self.log.event(step, f"changed: {meant}.")
        if found:
            done = step >= self.config.num_steps
            self.log.event(step, "this run is done already." if done else "resumed.")
        if self.trace.missed(step):
            self.log.event(step, f"no trace: {self.config.profile} is past, take later steps.")
        return state, step

    def fresh(self) -> PyTree[jax.Array]:
        """The state at step 0, with leaves that were read or that the first batch initialises."""
        initial, self.initial = self.initial, None
        if initial is None:
            initial = self.experiment.initial()
        state = self.program.init(self.key)
        leaves = named_leaves(state)
        placed = {n: shard.put(x, leaves[n].sharding) for n, x in initial.items()}
        state = with_leaves(state, leaves | placed)
        if self.program.begin is None:
            return state
        batch = self.to_mesh(*self.read(1))
        return self.program.begin(state, self.program.frozen, batch, self.step_key(0))

    def read(self, step: int) -> tuple[str, PyTree[ArrayLike]]:
        """Kind of a step's batch, and the rows of it that this process feeds."""
        kind = self.train_data.kind(step)
        return kind, self.train_data.batch(step, self.order.at(step), self.rows[kind])

    def to_mesh(self, kind: str, batch: PyTree[ArrayLike]) -> PyTree[jax.Array]:
        """The global batch of what every process has read."""
        return shard.to_mesh(batch, self.num_rows[kind], self.mesh)

    def batches(self, first: int) -> Generator[tuple[str, PyTree[jax.Array]]]:
        """Kind and batch of every step from `first` on, on the mesh."""
        last, depth = self.config.num_steps, self.config.read_ahead
        with closing(read_ahead(self.read, first, last, depth)) as batches:
            for kind, batch in batches:
                yield kind, self.to_mesh(kind, batch)

    def step_key(self, step: int) -> jax.Array:
        """Randomness of one step: a function of seed, data order and step alone."""
        return jax.random.fold_in(jax.random.fold_in(self.key, self.order.at(step)), step)

    def measure(self, kind: str, batch: PyTree[jax.Array | jax.ShapeDtypeStruct]) -> None:
        """Finds the model's own FLOPs of a kind once, to report the share of the devices' peak."""
        if kind not in self.share_of_peak:
            program, work = self.program, self.experiment.model_flops(kind)
            if work is None:
                update = functools.partial(self.experiment.task.update, kind)
                work = flops.own_flops(update, program.shapes, program.frozen, batch, self.key)
            peak = flops.peak_flops(self.mesh.devices.flatten())
            self.share_of_peak[kind] = work / peak

    def claim(self) -> None:
        """Claims the work directory for this config, once: a first step has been computed."""
        if not self.claimed:
            workdir.claim(self.folder, self.config)
            self.claimed = True

    def save(self, step: int, state: PyTree[jax.Array]) -> None:
        """Saves the state; raises NonFiniteError if not all of it is finite."""
        if not all_finite(state):
            raise NonFiniteError
        self.claim()
        self.checkpoints.save(step, state)

    def report(self, step: int, pending: Sequence[Done], rate: float, seconds: float) -> None:
        """Logs the means of the steps just done and how many were done a second."""
        means = _means(pending, list(self.experiment.batches))
        if np.isfinite(rate):
            means["mfu"] = float(np.mean([self.share_of_peak[d.kind] for d in pending])) * rate
        rows = float(np.mean([self.num_rows[done.kind] for done in pending]))
        self.log.train(step, means, rows * rate, seconds)

    def evaluate(self, step: int, state: PyTree[jax.Array]) -> None:
        """Logs the values of the evaluators that are due."""
        later = () if step == self.config.num_steps else self.config.final_sets
        due_now = {n: e for n, e in self.experiment.evaluators.items() if n not in later}
        key = jax.random.fold_in(self.key, step)
        values = evaluate(due_now, state, self.program.frozen, key, self.mesh)
        self.log.evaluation(step, values)

    def stretch(self, stop: Callable[[], bool]) -> PyTree[jax.Array]:
        """Trains to the last step; raises Stopped or NonFiniteError where it ends before."""
        config, program, last = self.config, self.program, self.config.num_steps
        state, step = self.start()
        pending, watch = [], Stopwatch()
        with closing(self.batches(step + 1)) as batches:
            while step < last and not stop():
                step, (kind, batch) = step + 1, next(batches)
                self.measure(kind, batch)
                with self.trace.step(step, state):
                    key = self.step_key(step)
                    state, metrics = program.update[kind](state, program.frozen, batch, key)
                pending.append(Done(kind, metrics))
                # The host stays at most two batches ahead of the device.
                jax.block_until_ready(pending[max(len(pending) - 3, 0)].metrics)
                if not self.claimed:
                    jax.block_until_ready(metrics)
                    self.claim()
                watch.step()
                self.log.advance()
                if due(step, config.log_every, last):
                    jax.block_until_ready(metrics)
                    self.report(step, pending, *watch.lap())
                    pending = []
                with watch.paused():
                    if self.trace.done(step, state):
                        self.log.event(step, f"trace written to {self.trace.folder.parent}.")
                    if due(step, config.checkpoint_every, last):
                        self.save(step, state)
                    if due(step, config.eval_every, last):
                        self.evaluate(step, state)
        if step < last:
            self.save(step, state)
            self.checkpoints.settle()
            self.log.event(step, "stopped as asked and saved: the same command goes on from here.")
            raise hosts.Stopped
        return state

    def roll_back(self) -> None:
        """Makes the next stretch begin at the newest checkpoint with another data order.

        Raises:
            UserError: that was done `max_rollbacks` times already.
        """
        step, done, limit = (
            self.checkpoints.newest(),
            self.order.rollbacks,
            self.config.max_rollbacks,
        )
        if done >= limit:
            raise UserError(
                f"the loss or a gradient is not finite after step {step}, also after {done} other "
                f"data orders (max_rollbacks={limit}): lower the learning rate or clip gradients "
                "harder."
            )
        self.trace.close()
        self.order.renew(step)
        self.log.event(
            step,
            f"the loss or a gradient is not finite: going back to step {step} with another "
            f"data order ({done + 1} of at most {limit}).",
        )


def train(config: ConfigDict, make: Make, folder: str) -> PyTree[jax.Array]:
    """Trains to `config.num_steps` from where this directory's run stands; returns the state.

    A run begins at its newest checkpoint, else at a fresh state. All that it will read is opened
    and checked by `make` first; the directory is the run's own from its first step on.

    Raises:
        UserError: a value of the config is one that no run can have, a batch does not fit the
            mesh, the directory is another config's, cannot be used or is in use, its checkpoints
            are damaged, or the loss was not finite more often than `config.max_rollbacks`.
        Stopped: SIGTERM or SIGINT came to any of the run's processes; the state is saved.
    """
    settings.check(config)
    mesh = shard.make_mesh(config.mesh)
    shard.check_batch_size(config.batch_size, mesh)
    path = workdir.check(folder, config)
    experiment = make(config, mesh)
    train_data = experiment.train_data
    if train_data is None:
        raise UserError(
            f"config.experiment: {config.experiment!r} is for preflight: nothing trains."
        )
    for kind in experiment.batches:
        shard.check_batch_size(experiment.num_rows(kind), mesh, name=f"batch of {kind}")
    # Read before anything is compiled: the file may not be there.
    initial = None if find_steps(path / "checkpoints") else experiment.initial()
    with ExitStack() as open_:
        open_.enter_context(workdir.locked(path))
        open_.enter_context(notes.kept(path))
        asked = open_.enter_context(interrupts.requests())
        open_.callback(train_data.close)
        train_data.prepare(path)
        program = place(experiment, mesh, config.seed, config.vmem_kib)
        run = Run(config, experiment, program, train_data, mesh, path, initial)
        for part in (run.checkpoints, run.log, closing(run.trace)):
            open_.enter_context(part)
        stop = hosts.agreed(asked)
        if hosts.is_main():
            for line in program.undivided():
                logging.warning("%s", line)
        while True:
            try:
                return run.stretch(stop)
            except NonFiniteError:
                run.roll_back()


def run(config: ConfigDict, folder: str) -> PyTree[jax.Array]:
    """Trains the experiment that a config names in its work directory."""
    return train(config, find(config), folder)
