"""The toy run as a command, one process of many: what the tests of hosts start.

A fault comes from TOY_FAULT="PROCESS:STEP:KIND" (kill, stop, error or nan).
"""

import os
import signal

import jax

from moshijax.commands import run_experiment
from moshijax.train import loop, workdir
from tests.train.toy import ToyData, ToyEval, ToyTask


jax.config.update("jax_default_matmul_precision", "highest")
workdir.SHARED_WITHIN = 1  # One disk needs no patience.


class FaultyData(ToyData):
    """Fails in one process while it reads one step."""

    def batch(self, step, order=0, rows=None):
        process, at, kind = os.environ.get("TOY_FAULT", "-1:0:none").split(":")
        batch = super().batch(step, order, rows)
        if jax.process_index() == int(process) and step == int(at):
            if kind == "error":
                raise ValueError("row 7 of x is corrupt")
            if kind == "nan" and order == 0:
                batch["x"][0] = float("nan")
            if kind in ("kill", "stop"):
                os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        return batch


def train(config, folder):
    data, sets = FaultyData(config.batch_size), {"test": ToyEval(config.batch_size)}
    return loop.train(config, ToyTask(config), data, sets, folder)


if __name__ == "__main__":
    run_experiment("toy", train, __doc__)
