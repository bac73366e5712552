"""Command lines over experiment configs: the flags, and one sentence for a wrong one."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from moshijax import hosts, interrupts, libtpu, supervisor
from moshijax.terminal import is_sentence, sentence
from moshijax.train import notes
from moshijax.train.trace import parse_steps


def run_experiment(program: str, train: Callable[[ConfigDict, str], Any], usage: str) -> None:
    """Parses `--config FILE[:SWITCHES] --workdir DIR [--config.key=value]` and trains.

    With an environment or flags of many processes it joins them first. The exit code is 0 for a
    run that is done, 1 for an error, `hosts.EXIT_STOPPED` and `hosts.EXIT_PEER_LOST`.

    Args:
        program: the command's name, before its error messages.
        train: trains a locked config in a work directory.
        usage: what `--help` begins with.
    """
    config = config_flags.DEFINE_config_file("config", None, "Experiment file.", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and results go.")
    flags.mark_flags_as_required(["config", "workdir"])
    profile = flags.DEFINE_string("profile", None, "Steps to trace, as in steps=10..12.")
    _define_host_flags()

    def main() -> None:
        if profile.value is not None:
            parse_steps(profile.value, config.value.num_steps)  # Refused before all else.
            with config.value.unlocked():
                config.value.profile = profile.value
        notes.hush()
        join(program)
        libtpu.hush()
        interrupts.watch(program)
        train(config.value, str(workdir.value))

    run_command(program, main, usage)


def run_command(program: str, main: Callable[[], Any], usage: str) -> None:
    """Parses the flags that are defined and runs; what is wrong with them is told in a sentence.

    Args:
        program: the command's name, before its error messages.
        main: what it does.
        usage: what `--help` begins with.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            # An error in a config file comes with its traceback; its last line says what it is.
            line = str(error).strip().splitlines()[-1]
            _refuse(program, ValueError(line.removeprefix("ValueError: ")))
        except (AttributeError, KeyError) as error:
            if isinstance(error, AttributeError) and error.name == "get_config":
                remedy = "name an experiment, such as configs/moshi.py"
                _refuse(program, ValueError(f"--config: that file has no get_config(): {remedy}."))
            _refuse(program, ValueError(f"unknown config key {error.args[0]}"))
        except (ValueError, TypeError, OSError) as error:
            _refuse(program, error)

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1:
                raise ValueError(f"surplus argument {argv[1]!r}: flags begin with --.")
            main()
        except hosts.Stopped:
            hosts.leave(hosts.EXIT_STOPPED)
        except KeyboardInterrupt:
            hosts.leave(128 + signal.SIGINT)
        except Exception as error:
            # Subclasses of RuntimeError are JAX's own.
            if is_sentence(error) or type(error) is RuntimeError:
                _refuse(program, error)
            _fail(error)
        hosts.leave(0)

    sys.modules["__main__"].__doc__ = usage
    app.run(guarded, flags_parser=parse)


def _define_host_flags() -> None:
    flags.DEFINE_string("coordinator", None, "Address HOST:PORT of process 0, if there are many.")
    flags.DEFINE_integer("num_processes", None, "How many processes the run has.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_integer("peer_timeout", 100, "Seconds of silence after which one is lost.")
    flags.DEFINE_integer("start_timeout", 300, "Seconds in which all of them must come.")


def join(program: str) -> None:
    """Joins the run's other processes, if there are any, under a parent that watches."""
    settings = flags.FLAGS
    given = hosts.Place(settings.coordinator, settings.num_processes, settings.process_id)
    # JAX sets this when it is imported on a host with TPUs, unless JAX_PLATFORMS says otherwise.
    on_tpu = str(jax.config.values["jax_platforms"] or "").startswith("tpu")
    place = hosts.find_place(given, os.environ, on_tpu)
    for name in ("peer_timeout", "start_timeout"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}: {getattr(settings, name)} is not a number of seconds.")
    if place is None:
        return
    if not supervisor.watched():
        sys.exit(supervisor.supervise(program, settings.peer_timeout, settings.start_timeout))
    supervisor.end_with_parent()
    hosts.start(place, settings.peer_timeout, settings.start_timeout)


def _fail(error: Exception) -> NoReturn:
    """Ends after an error that nobody foresaw, with its traceback.

    When a peer dies, a step in flight may fail before JAX has noticed why. So an error of the
    runtime waits for that, and only then counts as this process's own.
    """
    traceback.print_exception(error)
    sys.stderr.flush()
    if isinstance(error, jax.errors.JaxRuntimeError) and jax.distributed.is_initialized():
        time.sleep(flags.FLAGS.peer_timeout + 10)
    hosts.leave(1)


def _refuse(program: str, error: Exception) -> NoReturn:
    print(f"{program}: {sentence(error)}", file=sys.stderr)
    hosts.leave(1)
