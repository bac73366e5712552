"""Runs the command line of `cli/codec.py`."""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    launch("moshijax.cli.codec:main", "moshijax.codec: interrupted; nothing was written")


if __name__ == "__main__":
    run()
