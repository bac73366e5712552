"""Command lines over experiment configs: the flags, and one sentence for a wrong one."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags


def run_experiment(program: str, train: Callable[[ConfigDict, str], Any], usage: str) -> None:
    """Parses `--config FILE[:SWITCHES] --workdir DIR [--config.key=value]` and trains.

    Args:
        program: the command's name, before its error messages.
        train: trains a locked config in a work directory.
        usage: what `--help` begins with.
    """
    config = config_flags.DEFINE_config_file("config", None, "Experiment file.", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and results go.")
    flags.mark_flags_as_required(["config", "workdir"])

    def main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise ValueError(f"surplus argument {argv[1]!r}: flags begin with --.")
        train(config.value, str(workdir.value))

    def parse(argv: list[str]) -> list[str]:
        try:
            return app.parse_flags_with_usage(argv)
        except (AttributeError, KeyError) as error:
            _refuse(program, ValueError(f"unknown config key {error.args[0]}"))
            raise
        except (ValueError, TypeError, OSError) as error:
            _refuse(program, error)
            raise

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv)
        except (ValueError, RuntimeError) as error:
            # JAX's own errors are worth their traceback; sentences of ours stand alone.
            if type(error) not in (ValueError, RuntimeError):
                raise
            _refuse(program, error)

    sys.modules["__main__"].__doc__ = usage
    app.run(guarded, flags_parser=parse)


def _refuse(program: str, error: Exception) -> None:
    message = error.args[0] if error.args else error
    sys.exit(f"{program}: {' '.join(str(message).split())}")
