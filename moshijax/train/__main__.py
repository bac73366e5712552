"""Trains an experiment of a config, such as a language model.

    python -m moshijax.train --config configs/moshi.py:tiny --workdir runs/moshi_tiny

Switches follow the config's colon; single keys are changed by `--config.batch_size=256`.
The same command resumes a run that was stopped, and says so when it is done.
"""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    program = "moshijax.train"
    launch("moshijax.cli.flags:run_experiment", f"{program}: interrupted", program, __doc__ or "")


if __name__ == "__main__":
    run()
