"""Runs the paper's comparison on the embedded images and writes its report.

    python -m distill.quickstart --workdir runs/quickstart

A teacher, then students of one small network: from labels, from a fixed teacher, from a
consistent one, by function matching. Each run resumes where it was stopped.
"""

import concurrent.futures
import importlib.metadata
import os
import pathlib
import platform
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from distill.matching import LABELS
from distill.vision import figures
from distill.vision.matcher import mixed_images
from distill.vision.sources import load
from distill.vision.train_data import model_views, train_batches
from moshijax.cli import config_files
from moshijax.cli.flags import run_command
from moshijax.system.errors import UserError
from moshijax.system.paths import local_path


CONFIG = "configs/distill_vision.py"
ARMS = {
    "labels": "From labels",
    "fixed": "Fixed teacher",
    "consistent": "Consistent teacher",
    "funmatch": "Function matching",
}
SHOWN = 8  # Images of a batch in the report.


def switches(arm: str) -> str:
    """The switches of an arm's config."""
    return f"{'tiny' if TINY.value else 'quickstart'},arm={arm}"


def command(arm: str, workdir: pathlib.Path) -> list[str]:
    """The command that trains one arm."""
    line = [sys.executable, "-m", "distill", "--config", f"{CONFIG}:{switches(arm)}"]
    line += ["--workdir", str(workdir / arm)]
    if arm != "teacher":
        line.append(f"--config.teachers.teacher.load={workdir / 'teacher'}")
    return line


class Runs:
    """The runs that go on now, each a process of its own, which are stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    @contextmanager
    def started(self, line: list[str]) -> Generator[subprocess.Popen[str]]:
        """A process of this command line; it has ended in the end."""
        with self._lock:
            if self._stopped:
                raise concurrent.futures.CancelledError
            # In a session of its own it gets a terminal's Ctrl-C once: from here.
            process = subprocess.Popen(
                line, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            self._running.add(process)
        with process:
            yield process
        with self._lock:
            self._running.remove(process)

    @contextmanager
    def stopped_at_failure(self) -> Generator[None]:
        """When anything fails inside, or a signal comes, the runs save and end; none is begun."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._stopped = True
                for process in self._running:
                    process.terminate()
            raise


def train(arm: str, workdir: pathlib.Path, cores: set[int], runs: Runs) -> None:
    """Trains an arm on these cores in a process of its own, passing its lines on.

    Raises:
        UserError: the run failed; its own message was passed on.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # Of this thread, and of the process it starts.
    with runs.started(command(arm, workdir)) as process:
        for line in process.stderr or ():
            print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise UserError(f"the run of arm {arm!r} in {workdir / arm} failed: see above.")


def train_side_by_side(
    arms: Iterable[str], workdir: pathlib.Path, shares: Sequence[set[int]]
) -> None:
    """Trains arms, as many at a time as there are shares of the cores."""
    runs, free = Runs(), queue.SimpleQueue[set[int]]()
    for share in shares:
        free.put(share)

    def run(arm: str) -> None:
        share = free.get()
        try:
            train(arm, workdir, share, runs)
        finally:
            free.put(share)

    # The pool waits for its threads, hence the inner one; a second signal ends that, hence the
    # outer one.
    with (
        runs.stopped_at_failure(),
        concurrent.futures.ThreadPoolExecutor(len(shares)) as pool,
        runs.stopped_at_failure(),
    ):
        for job in concurrent.futures.as_completed([pool.submit(run, arm) for arm in arms]):
            job.result()


def train_all(workdir: pathlib.Path) -> None:
    """The teacher on all cores, then the students side by side."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    train_side_by_side(["teacher"], workdir, [set(cores)])
    # A small network gains little from a second thread.
    workers = min(len(cores), len(ARMS))
    train_side_by_side(ARMS, workdir, [set(cores[i::workers]) for i in range(workers)])


def sample(arm: str, title: str) -> figures.Sample:
    """The first images of a run's first batch, as student and teacher see them."""
    config = config_files.load(f"{CONFIG}:{switches(arm)}")
    student, taught = model_views(config)
    models = student if config.loss.distance == LABELS else student | taught
    source = load(config.data.name, config.data.train, config.data.data_dir)
    data = train_batches(config, source, models)
    batch = jax.tree.map(jnp.asarray, data.batch(1))
    images = mixed_images(batch["images"], batch["mix"])
    seen = {name: np.asarray(images[key][:SHOWN]) for name, key in data.keys.items()}
    caption = f"view {config.view}"
    return figures.Sample(title, caption, seen["student"], seen.get("teacher"), float(batch["mix"]))


def facts(seconds: float) -> dict[str, str | list[str]]:
    """The machine, the versions, the time, and the commands that repeat the runs."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "Machine": f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}",
        "Versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Time of this invocation": figures.duration(seconds),
        "Commands": ["make quickstart", *(shown(arm) for arm in ("teacher", *ARMS))],
    }


def shown(arm: str) -> str:
    """An arm's command as a person would type it."""
    line = command(arm, pathlib.Path("runs/quickstart"))
    return " ".join(["python", *line[1:]])


def processor() -> str:
    """The processor's name."""
    info = pathlib.Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if "model name" in x] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or "unknown processor"


def main() -> None:
    """Trains what is not trained yet, writes the report, prints the table."""
    start = time.perf_counter()
    workdir = local_path("--workdir", WORKDIR.value)
    train_all(workdir)
    arms = [figures.read_arm(workdir / arm, arm, title) for arm, title in ARMS.items()]
    teacher = figures.read_arm(workdir / "teacher", "teacher", "Teacher")
    samples = [sample(arm, title) for arm, title in ARMS.items()]
    path = workdir / "report.html"
    figures.write_report(path, arms, samples, facts(time.perf_counter() - start), teacher)
    print(figures.format_table(arms, teacher))
    print(f"\nReport: {path}")


def run() -> None:
    """The command line."""
    run_command("quickstart", main, __doc__ or "")


WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where the runs and the report go.")
TINY = flags.DEFINE_bool("tiny", False, "Only show that everything works, in a minute or two.")
