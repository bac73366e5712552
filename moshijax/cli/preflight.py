"""Compiles a config's update for TPU slices that are not there, and says what it would take.

    python -m moshijax.preflight --config configs/distill_imagenet.py --topology v5e:4x8,v4:2x2x4
    python -m moshijax.preflight --config configs/moshi.py --topology v5p:4x4x4 --fit --price 2.1

Memory, collectives, FLOPs, time of a step, days, chip-hours. `--mesh data=4,fsdp=8` and
`--config.key=value` change the config; `--fit` looks for a mesh and for settings that fit and
ranks them; `--price` is that of a chip for an hour. The report is printed, and written to `--out`
as report.json and report.html, anew after every slice.
"""

import json
import math
import os
import pathlib
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from moshijax.cli.flags import run_command
from moshijax.preflight import page, search, tables, topology
from moshijax.preflight.examine import Report, changed, check, examine, kinds
from moshijax.report.tables import as_text
from moshijax.shard import AXES
from moshijax.system import files
from moshijax.system.errors import UserError
from moshijax.system.paths import local_path
from moshijax.train.workdir import write_text


NAMES = ("report.json", "report.html")


def read_mesh(text: str | None) -> dict[str, int]:
    """Config keys of `data=4,fsdp=8`; axes that are not named are 1 wide.

    Raises:
        UserError: another form, an unknown axis, or one that is named twice.
    """
    if not text:
        return {}
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = (word.strip() for word in part.partition("="))
        if axis not in AXES or not re.fullmatch(r"-?[0-9]+", size):
            raise UserError(f"mesh: {part!r} is not AXIS=SIZE with an axis of {', '.join(AXES)}.")
        if axis in sizes:
            raise UserError(f"mesh: {axis} stands twice in {text!r}: give every axis one size.")
        sizes[axis] = int(size)
    return {f"mesh.{axis}": sizes.get(axis, 1) for axis in AXES}


def read_topologies(text: str) -> list[topology.Topology]:
    """The slices of a list with commas, each once.

    Raises:
        UserError: there is none of such a name.
    """
    parts = text.strip().removesuffix(",").split(",")
    return list(dict.fromkeys(map(topology.parse, parts)))


def check_price(price: float | None) -> None:
    """Raises UserError unless it can be a price."""
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price: {price} is no price: give what a chip costs an hour, as in 2.1.")


def check_folder(folder: pathlib.Path) -> None:
    """Makes the folder of the report; raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"--out: no file can be written in {folder} ({error.strerror}): name another folder."
        ) from error
    for name in NAMES:
        files.check_output(folder / name)


def config_name(argv: Sequence[str]) -> str:
    """The config as it was named on the command line, with the keys changed there."""
    found, shown = "", []
    for before, now in zip(["", *argv], [*argv, ""], strict=True):
        if before in ("--config", "-config"):
            found = now
        elif now.lstrip("-").startswith("config="):
            found = now.split("=", 1)[1]
        elif now.lstrip("-").startswith("config."):
            shown.append(now.lstrip("-").removeprefix("config."))
    return " ".join([found, *shown])


def split(
    config: ConfigDict, slices: Sequence[topology.Topology], mesh: Mapping[str, int], fit: bool
) -> tuple[list[topology.Topology], list[str]]:
    """The slices that a config can be laid out on, and what keeps it from the others."""
    possible, refused = [], []
    for slice_ in slices:
        try:
            if fit and not mesh:
                search.candidates(config, slice_)
            else:
                check(changed(config, mesh), slice_)
            possible.append(slice_)
        except UserError as error:
            refused.append(f"{slice_.name}: {error}" if len(slices) > 1 else str(error))
    return possible, refused


def preflight(config: ConfigDict, name: str, folder: pathlib.Path) -> list[Report]:
    """The reports that the flags ask for, told and written as they come.

    Raises:
        UserError: a slice that the config cannot be laid out on; the others are done first.
    """
    settings = flags.FLAGS
    wanted, mesh = read_topologies(settings.topology), read_mesh(settings.mesh)
    check_price(settings.price)
    if settings.compiles < 1:
        raise UserError(f"--compiles: {settings.compiles} is too few: take a number from 1 on.")
    possible, refused = split(config, wanted, mesh, settings.fit)
    if possible:
        topology.check_libtpu()
        check_folder(folder)
        for line in refused:
            say(line)
    reports: list[Report] = []
    for slice_ in possible:
        say(f"{name} on {slice_.name}: compiling")
        try:
            found = _one_slice(config, slice_, mesh, name)
        except UserError as error:
            refused.append(f"{slice_.name}: {error}" if len(wanted) > 1 else str(error))
            continue
        reports += found
        for report in found[:1] if settings.fit else found:
            print(tables.report_text(report), end="\n\n", flush=True)
        write(reports, folder)
    if len(reports) > 1:
        print(as_text(tables.comparison(reports)), end="\n\n")
    if reports:
        print(f"Report: {folder / 'report.html'}", flush=True)
    if refused:
        raise UserError(" ".join(refused))
    return reports


def _one_slice(
    config: ConfigDict, slice_: topology.Topology, mesh: Mapping[str, int], name: str
) -> list[Report]:
    """The reports of a slice, one a kind of batch; with --fit of all that was tried, best first."""
    settings = flags.FLAGS
    if not settings.fit:
        return [
            examine(config, slice_, name=name, kind=kind, changes=mesh, price=settings.price)
            for kind in kinds(changed(config, mesh), slice_)
        ]
    tried = search.rank(
        search.fit(
            config, slice_, mesh, name=name, price=settings.price, limit=settings.compiles, say=say
        )
    )
    # The search is for the first kind of batch; the other kinds are examined with its result.
    best = tried[0].changes
    others = kinds(changed(config, best), slice_)[1:]
    return tried + [
        examine(config, slice_, name=name, kind=kind, changes=best, price=settings.price)
        for kind in others
    ]


def say(line: str) -> None:
    """Progress, beside the report."""
    print(f"preflight: {line}", file=sys.stderr, flush=True)


def write(reports: Sequence[Report], folder: pathlib.Path) -> None:
    """Writes report.json and report.html."""
    rows: list[Any] = [json.loads(report.to_json()) for report in reports]
    write_text(folder / "report.json", json.dumps(rows, indent=1) + "\n")
    write_text(folder / "report.html", page.page(reports))


def run() -> None:
    """The command line."""
    config = config_flags.DEFINE_config_file("config", None, "Experiment file.", lock_config=True)
    flags.DEFINE_string("topology", None, "Slices to compile for, such as v5e:4x8,v5p:4x4x4.")
    flags.DEFINE_string("mesh", None, "Mesh instead of the config's, such as data=4,fsdp=8.")
    flags.DEFINE_bool("fit", False, "Look for what fits, and rank it by time.")
    flags.DEFINE_integer("compiles", 8, "How many compilations --fit may take on each slice.")
    flags.DEFINE_float("price", None, "Price of a chip for an hour.")
    flags.DEFINE_string("out", "runs/preflight", "Where report.json and report.html go.")
    flags.mark_flags_as_required(["config", "topology"])

    def main() -> None:
        try:
            folder = local_path("--out", flags.FLAGS.out)
            preflight(config.value, config_name(sys.argv[1:]), folder)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            say("interrupted.")
            sys.stdout.flush()
            # The compiler may run in another thread, in which an ordinary exit would crash.
            os._exit(128 + signal.SIGINT)

    # Nothing is computed: a TPU of this machine is left to whoever uses it.
    jax.config.update("jax_platforms", "cpu")
    run_command("preflight", main, __doc__ or "")
