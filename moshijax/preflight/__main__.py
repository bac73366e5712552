"""Runs the command line of `cli/preflight.py`."""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    launch("moshijax.cli.preflight:run", "preflight: interrupted")


if __name__ == "__main__":
    run()
