"""Runs the command line of `commands.py`."""

from moshijax.terminal import launch


def run() -> None:
    """The command line."""
    launch("moshijax.export.commands:main", "moshijax.export: interrupted; nothing was written")


if __name__ == "__main__":
    run()
