"""Command lines over experiment configs: the flags, and one sentence for a wrong one."""

import ast
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

from moshijax.cli import config_files, flags_help
from moshijax.cli.terminal import is_sentence, sentence
from moshijax.pod import hosts, interrupts, supervisor
from moshijax.system import libtpu
from moshijax.system.errors import UserError
from moshijax.system.paths import local_path
from moshijax.train import notes
from moshijax.train.trace import parse_steps


def train_experiment(config: ConfigDict, workdir: str) -> object:
    """Runs the experiment that a config names."""
    # Imported here: orbax takes seconds to import, and wrong flags are refused before.
    from moshijax.train.loop import run

    return run(config, workdir)


def run_experiment(
    program: str,
    usage: str,
    train: Callable[[ConfigDict, str], object] = train_experiment,
) -> None:
    """Parses `--config FILE[:SWITCHES] --workdir DIR [--config.key=value]` and trains.

    With an environment or flags of many processes it joins them first. The exit code is 0 for a
    run that is done, 1 for an error, `hosts.EXIT_STOPPED` and `hosts.EXIT_PEER_LOST`.

    Args:
        program: the command's name, before its error messages.
        usage: what `--help` begins with.
        train: trains a locked config in a work directory.
    """
    config = config_flags.DEFINE_config_file("config", None, "Experiment FILE[:SWITCHES].")
    workdir = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and results go.")
    flags.mark_flags_as_required(["config", "workdir"])
    profile = flags.DEFINE_string("profile", None, "Steps to trace, as in steps=10..12.")
    change = flags.DEFINE_multi_string(
        "change", [], "KEY=VALUE of the config, changed in a run that has begun."
    )
    _define_host_flags()

    def main() -> None:
        _apply(change.value, config.value)
        folder = local_path("--workdir", str(workdir.value))
        if profile.value is not None:
            parse_steps(profile.value, config.value.num_steps)  # Refused before all else.
            with config.value.unlocked():
                config.value.profile = profile.value
        notes.hush()
        join(program)
        libtpu.hush()
        interrupts.watch(program)
        train(config.value, str(folder))

    run_command(program, main, usage)


def _apply(changes: Sequence[str], config: ConfigDict) -> None:
    """Sets keys of a config, and records in it that they may differ from the run's.

    Raises:
        UserError: there is no such key, or the value is of another type.
    """
    flat = config.to_dict()
    for text in changes:
        key, equals, value = text.partition("=")
        now: Any = flat
        for part in key.split("."):
            now = now.get(part, KeyError) if isinstance(now, dict) else KeyError
        if not equals or now is KeyError or isinstance(now, dict):
            raise UserError(f"--change {text}: give a key of the config and a value, as in seed=1.")
        try:
            found = value if isinstance(now, str) else ast.literal_eval(value)
            config.update_from_flattened_dict({key: found})
        except (ValueError, SyntaxError, TypeError) as error:
            raise UserError(f"--change {text}: {value!r} cannot replace {now!r}.") from error
    with config.unlocked():
        config.change = tuple(changes)


def run_command(program: str, main: Callable[[], object], usage: str) -> None:
    """Parses the flags that are defined and runs; what is wrong with them is told in a sentence.

    Args:
        program: the command's name, before its error messages.
        main: what it does.
        usage: what `--help` begins with.
    """

    def parse(argv: list[str]) -> list[str]:
        if text := flags_help.asked(argv, usage):
            print(text)
            hosts.leave(0)
        if "config" in flags.FLAGS:
            flags.FLAGS["config"].parser = config_files.Parser()
        try:
            return flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
            _refuse(program, UserError(flags_help.complaint(error, usage)))

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1:
                raise UserError(f"surplus argument {argv[1]!r}: flags begin with --.")
            main()
        except hosts.Stopped:
            hosts.leave(hosts.EXIT_STOPPED)
        except KeyboardInterrupt:
            hosts.leave(128 + signal.SIGINT)
        except Exception as error:
            if is_sentence(error):
                _refuse(program, error)
            if missing := config_files.missing_key(error):
                _refuse(program, UserError(missing))
            _fail(program, error)
        hosts.leave(0)

    app.run(guarded, flags_parser=parse)


def _define_host_flags() -> None:
    flags.DEFINE_string("coordinator", None, "Address HOST:PORT of process 0, if there are many.")
    flags.DEFINE_integer("num_processes", None, "How many processes the run has.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_integer("peer_timeout", 100, "Seconds of silence after which one is lost.")
    flags.DEFINE_integer("start_timeout", 300, "Seconds in which all of them must come.")


def join(program: str) -> None:
    """Joins the run's other processes, if there are any, under a parent that watches."""
    settings, place = flags.FLAGS, _place()
    for name in ("peer_timeout", "start_timeout"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name}: {getattr(settings, name)} is not a number of seconds.")
    if place is None:
        return
    if not supervisor.watched():
        sys.exit(supervisor.supervise(program, settings.peer_timeout, settings.start_timeout))
    supervisor.end_with_parent()
    hosts.start(place, settings.peer_timeout, settings.start_timeout)


def _place() -> hosts.Place | None:
    """Where this process stands among those of its run."""
    settings = flags.FLAGS
    given = hosts.Place(settings.coordinator, settings.num_processes, settings.process_id)
    # JAX sets this when it is imported on a host with TPUs, unless JAX_PLATFORMS says otherwise.
    on_tpu = str(jax.config.values["jax_platforms"] or "").startswith("tpu")
    return hosts.find_place(given, os.environ, on_tpu)


def _fail(program: str, error: Exception) -> NoReturn:
    """Ends after an unexpected error, with its traceback and the number of the process.

    When a peer dies, a step in flight may fail before JAX has noticed why. So an error of the
    runtime waits for that, and only then counts as this process's own.
    """
    place = _place() if jax.distributed.is_initialized() else None
    if place is not None:
        # JAX is asked only if it must be: it would wait for the devices of all processes.
        number = jax.process_index() if place.process_id is None else place.process_id
        print(f"{program}: process {number} failed:", file=sys.stderr)
    traceback.print_exception(error)
    sys.stderr.flush()
    if isinstance(error, jax.errors.JaxRuntimeError) and jax.distributed.is_initialized():
        time.sleep(flags.FLAGS.peer_timeout + 10)
    hosts.leave(1)


def _refuse(program: str, error: Exception) -> NoReturn:
    print(f"{program}: {sentence(error)}", file=sys.stderr)
    hosts.leave(1)
