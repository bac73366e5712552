"""Trains an experiment of a config, such as a language model.

    python -m moshijax.train --config configs/moshi.py:tiny --workdir runs/tiny

Switches follow the config's colon; single keys are changed by `--config.batch_size=256`.
The same command resumes a run that was stopped, and says so when it is done.
"""

import importlib
from typing import Any

from ml_collections import ConfigDict

from moshijax.commands import run_experiment


def train(config: ConfigDict, workdir: str) -> Any:
    """Runs the experiment that the config names."""
    return importlib.import_module(config.experiment).run(config, workdir)


if __name__ == "__main__":
    run_experiment("moshijax.train", train, __doc__ or "")
