"""Trains a distillation experiment.

    python -m distill --config configs/distill_vision.py:tiny --workdir runs/tiny

Switches follow the config's colon; single keys are changed by `--config.batch_size=256`.
The same command resumes a run that was stopped, and says so when it is done.
"""

import sys

from moshijax.system.launch import hand_over, launch


COMMANDS = {"evaluate": "distill.evaluate:run", "quickstart": "distill.quickstart:run"}


def run() -> None:
    """The command line, also `distill evaluate` and `distill quickstart`."""
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        hand_over("distill", COMMANDS)
    else:
        launch(
            "moshijax.cli.flags:run_experiment", "distill: interrupted", "distill", __doc__ or ""
        )


if __name__ == "__main__":
    run()
