"""Runs the command line of `commands.py`."""

from moshijax.terminal import launch


def run() -> None:
    """The command line."""
    launch("moshijax.codec.commands:main", "moshijax.codec: interrupted; nothing was written")


if __name__ == "__main__":
    run()
