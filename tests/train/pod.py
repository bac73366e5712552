"""The toy run as a command, one process of many: what the tests of hosts start.

Faults come from TOY_FAULT="PROCESS:STEP:KIND,...": kill, stop, error, nan, a checkpoint unread.
TOY_LOAD names the work directory whose model it begins with.
"""

import os
import signal
import time

import jax
import numpy as np

from moshijax.cli.flags import run_experiment
from moshijax.pod import supervisor
from moshijax.train import checkpoints, loop
from moshijax.train.checkpoints import load_leaves
from moshijax.train.intact import Damaged
from tests.train.toy import RULES, ToyData, ToyEval, make_with


jax.config.update("jax_default_matmul_precision", "highest")


def fault(step):
    """What is to go wrong in this process at this step."""
    for text in filter(None, os.environ.get("TOY_FAULT", "").split(",")):
        process, at, kind = text.split(":")
        if (jax.process_index(), step) == (int(process), int(at)):
            return kind
    return None


class FaultyCheckpoints(checkpoints.Checkpoints):
    """Cannot read one step in one process, or finds it damaged."""

    def _read(self, step, wanted):
        faults = {"unread": MemoryError("no memory"), "damaged": Damaged("worn out")}
        problem = faults.get(fault(step))
        return (None, problem) if problem else super()._read(step, wanted)


class FaultyData(ToyData):
    """Fails in one process while it reads one step."""

    def batch(self, step, order=0, rows=None):
        batch, kind = super().batch(step, order, rows), fault(step)
        if kind == "error":
            batch["x"] = batch["x"] + np.ones(3)  # Of NumPy itself, as a bug has it.
        if kind == "nan" and order == 0:
            batch["x"][0] = float("nan")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "stop":
            # A scheduler knows the process that it started.
            os.kill(os.getppid() if supervisor.watched() else os.getpid(), signal.SIGTERM)
            time.sleep(1)  # Steps are quicker than signals.
        return batch


def initial(mesh):
    """The model to begin with, on the mesh."""
    leaves = {}
    if "TOY_LOAD" in os.environ:
        leaves = load_leaves(os.environ["TOY_LOAD"], "model", mesh, RULES)
    return {f"model/{name}": leaf for name, leaf in leaves.items()}


def train(config, folder):
    loop.Checkpoints = FaultyCheckpoints
    data, sets = FaultyData(config.batch_size), {"test": ToyEval(config.batch_size)}
    return loop.train(config, make_with(data, sets, initial), folder)


if __name__ == "__main__":
    run_experiment("toy", __doc__, train)
