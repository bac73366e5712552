"""Runs the command line of `vision/evaluation.py`."""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    launch("distill.vision.evaluation:run", "evaluate: interrupted")


if __name__ == "__main__":
    run()
