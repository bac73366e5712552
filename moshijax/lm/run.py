"""Runs the command line of `cli/lm.py`."""

from moshijax.system.launch import launch


def run() -> None:
    """The command line."""
    # On a line of its own: there may be text on the last.
    launch("moshijax.cli.lm:main", "\nmoshijax.lm.run: interrupted; no sound was written")


if __name__ == "__main__":
    run()
