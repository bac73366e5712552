"""Runs the command line of `vision/comparison.py`."""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    launch("distill.vision.comparison:run", "quickstart: interrupted")


if __name__ == "__main__":
    run()
