"""Trains a distillation experiment.

    python -m distill --config configs/distill_vision.py:tiny --workdir runs/tiny

Switches follow the config's colon; single keys are changed by `--config.batch_size=256`.
The same command resumes a run that was stopped, and says so when it is done.
"""

from distill.experiment import run as run_config
from moshijax.commands import run_experiment


def run() -> None:
    """The command line."""
    run_experiment("distill", run_config, __doc__ or "")


if __name__ == "__main__":
    run()
