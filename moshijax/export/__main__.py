"""Runs the command line of `cli/export.py`."""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    launch("moshijax.cli.export:main", "moshijax.export: interrupted; nothing was written")


if __name__ == "__main__":
    run()
