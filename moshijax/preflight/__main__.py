"""Runs the command line of `commands.py`."""

from moshijax.terminal import launch


def run() -> None:
    """The command line."""
    launch("moshijax.preflight.commands:run", "preflight: interrupted")


if __name__ == "__main__":
    run()
