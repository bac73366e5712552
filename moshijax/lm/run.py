"""Runs the command line of `commands.py`."""

from moshijax.terminal import launch


def run() -> None:
    """The command line."""
    # On a line of its own: there may be text on the last.
    launch("moshijax.lm.commands:main", "\nmoshijax.lm.run: interrupted; no sound was written")


if __name__ == "__main__":
    run()
