"""The one training loop. It owns time and files; a task owns the mathematics."""

import pathlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from moshijax import hosts, interrupts, sharding
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.train import flops, notes, settings, workdir
from moshijax.train.checkpoints import Checkpoints
from moshijax.train.feed import EvalData, TrainData, read_ahead
from moshijax.train.log import Log
from moshijax.train.program import Program, Task, all_finite, evaluate, model_flops, place
from moshijax.train.trace import Trace
from moshijax.train.workdir import DataOrder


# Makes arrays by name, placed on the mesh or whole in every process.
Initial = Callable[[Mesh], Mapping[str, Any]]


class NonFiniteError(Exception):
    """The loss, a norm, or a state about to be saved, is not finite."""


def due(step: int, every: int, last: int) -> bool:
    """Whether something done every so many steps (0: only at the end) is to be done now."""
    return step == last or (every > 0 and step % every == 0)


def _means(pending: list[Any]) -> dict[str, float]:
    """Means over the steps since the last report; waits for them."""
    rows = jax.device_get(pending)
    names = sorted(rows[0], key=lambda name: (name != "loss", name))
    means = {name: float(np.mean([row[name] for row in rows])) for name in names}
    # A loss may be finite that no gradient leads away from.
    if not all(np.isfinite(x) for name, x in means.items() if name == "loss" or "norm" in name):
        raise NonFiniteError
    return means


class Stopwatch:
    """Times steps, without what is not training and without the first, which compiles."""

    def __init__(self) -> None:
        self._began = self._counted_from = time.perf_counter()
        self._steps = -1

    def step(self) -> None:
        """One more step was asked for."""
        self._steps += 1
        if not self._steps:
            self._counted_from = time.perf_counter()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leaves out what happens inside."""
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start
        self._counted_from += time.perf_counter() - start

    def lap(self) -> tuple[float, float]:
        """Steps a second (nan before two steps), and all seconds, since the last lap."""
        now = time.perf_counter()
        rate = self._steps / (now - self._counted_from) if self._steps > 0 else float("nan")
        seconds = now - self._began
        self._began = self._counted_from = now
        self._steps = 0
        return rate, seconds


class Run:
    """One run: what it computes, what it reads, what it keeps."""

    def __init__(
        self,
        config: ConfigDict,
        task: Task,
        program: Program,
        train_data: TrainData,
        eval_data: Mapping[str, EvalData],
        folder: pathlib.Path,
        initial: Initial,
    ) -> None:
        self.config, self.task, self.program = config, task, program
        self.train_data, self.eval_data = train_data, eval_data
        self.initial = initial
        self.key = jax.random.key(config.seed)
        self.rows = sharding.local_rows(config.batch_size, program.mesh)
        self.folder, self.claimed = folder, False
        self.trace = Trace(config.profile, config.num_steps, folder)
        self.order = DataOrder(folder)
        self.checkpoints = Checkpoints(folder, config.keep_checkpoints)
        self.log = Log(folder, config.num_steps, task.unit)
        self.share_of_peak = 0.0  # Of one step a second; known after the first batch.

    def start(self) -> tuple[Any, int]:
        """The newest checkpoint, else a fresh state with the arrays given."""
        found = self.checkpoints.restore(self.program.shapes, self.program.shardings)
        state, step = found or (self.fresh(), 0)
        self.log.start(step)
        if found:
            done = step >= self.config.num_steps
            self.log.event(step, "this run is done already." if done else "resumed.")
        if self.trace.missed(step):
            self.log.event(step, f"no trace: {self.config.profile} is past, take later steps.")
        return state, step

    def fresh(self) -> Any:
        """The state at step 0."""
        given = self.initial(self.program.mesh)  # Before anything is compiled: it may be no file.
        state = self.program.init(self.key)
        leaves = named_leaves(state)
        placed = {n: sharding.put(x, leaves[n].sharding) for n, x in given.items()}
        return with_leaves(state, leaves | placed)

    def batches(self, first: int) -> Iterator[Any]:
        """The batch of every step from `first` on, on the mesh."""
        config = self.config

        def read(step: int) -> Any:
            return self.train_data.batch(step, self.order.at(step), self.rows)

        for batch in read_ahead(read, first, config.num_steps, config.read_ahead):
            yield sharding.to_mesh(batch, config.batch_size, self.program.mesh)

    def step_key(self, step: int) -> jax.Array:
        """Randomness of one step: a function of seed, data order and step alone."""
        return jax.random.fold_in(jax.random.fold_in(self.key, self.order.at(step)), step)

    def measure(self, batch: Any) -> None:
        """Counts the model's FLOPs of a step once, to report the share of the devices' peak."""
        if not self.share_of_peak:
            program = self.program
            given = program.shapes, program.frozen, batch, self.key
            work = model_flops(self.task, batch, lambda: flops.jaxpr_of(self.task.update, *given))
            self.share_of_peak = work / flops.peak_flops(program.mesh.devices.flatten())

    def claim(self) -> None:
        """Makes the work directory this config's: what can fail at the start did not."""
        if not self.claimed:
            workdir.claim(self.folder, self.config)
            self.claimed = True

    def save(self, step: int, state: Any) -> None:
        """Saves a state that can be gone on from."""
        if not all_finite(state):
            raise NonFiniteError
        self.claim()
        self.checkpoints.save(step, state)

    def report(self, step: int, pending: list[Any], rate: float, seconds: float) -> None:
        """Logs the means of the steps just done and how many were done a second."""
        means = _means(pending)
        if np.isfinite(rate):
            means["mfu"] = self.share_of_peak * rate
        self.log.train(step, means, self.config.batch_size * rate, seconds)

    def evaluate(self, step: int, state: Any) -> None:
        """Logs the metrics of the sets that are due."""
        later = () if step == self.config.num_steps else self.config.final_sets
        sets = {name: data for name, data in self.eval_data.items() if name not in later}
        self.log.evaluation(step, evaluate(self.task, self.program, state, sets))

    def stretch(self, stop: Callable[[], bool]) -> Any:
        """Steps to the end; Stopped or NonFiniteError end it before."""
        config, program, last = self.config, self.program, self.config.num_steps
        state, step = self.start()
        batches, pending, watch = self.batches(step + 1), [], Stopwatch()
        while step < last and not stop():
            step, batch = step + 1, next(batches)
            self.measure(batch)
            with self.trace.step(step, state):
                state, metrics = program.update(state, program.frozen, batch, self.step_key(step))
            pending.append(metrics)
            # The host stays at most two batches ahead of the device.
            jax.block_until_ready(pending[max(len(pending) - 3, 0)])
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
            RuntimeError: that was done `max_rollbacks` times already.
        """
        step, done, limit = (
            self.checkpoints.newest(),
            self.order.rollbacks,
            self.config.max_rollbacks,
        )
        if done >= limit:
            raise RuntimeError(
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


def train(
    config: ConfigDict,
    task: Task,
    train_data: TrainData,
    eval_data: Mapping[str, EvalData],
    folder: str,
    initial: Initial = lambda mesh: {},
) -> Any:
    """Trains to `config.num_steps` from where this directory's run stands; returns the state.

    A run begins at its newest checkpoint, else at a fresh state, in which what `initial` makes
    for the mesh takes the place of the leaves of these names.

    Raises:
        ValueError: the directory is another config's, the batch does not fit the mesh, or a value
            of the config is one that no run can have.
        RuntimeError: the loss was not finite more often than `config.max_rollbacks`.
        UserError: the directory cannot be used, or is in use, or its checkpoints are damaged.
        Stopped: SIGTERM or SIGINT came to any of the run's processes; the state is saved.
    """
    settings.check(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, mesh)
    for data in eval_data.values():
        sharding.check_batch_size(data.batch_size, mesh, name="evaluation.batch_size")
    path = workdir.check(folder, config)
    with ExitStack() as open_:
        open_.enter_context(workdir.locked(path))
        open_.enter_context(notes.kept(path))
        asked = open_.enter_context(interrupts.requests())
        program = place(task, mesh, config.seed, config.vmem_kib)
        run = Run(config, task, program, train_data, eval_data, path, initial)
        for part in (run.checkpoints, run.log, closing(run.trace)):
            open_.enter_context(part)
        stop = hosts.agreed(asked)
        if hosts.first():
            for line in program.undivided():
                logging.warning("%s", line)
        while True:
            try:
                return run.stretch(stop)
            except NonFiniteError:
                run.roll_back()
