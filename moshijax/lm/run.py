"""Runs the command line of `commands.py`."""

import sys


def run() -> None:
    """Ends with one line and the exit code 130 when it is interrupted, even while it starts."""
    try:
        # Here, since importing JAX takes seconds.
        from moshijax.lm.commands import main

        main()
    except KeyboardInterrupt:
        print("\nmoshijax.lm.run: interrupted; no sound was written", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
