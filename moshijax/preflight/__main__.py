"""Compiles a config's update for TPU slices that are not there, and says what it would take.

    python -m moshijax.preflight --config configs/distill_imagenet.py --topology v5e:4x8,v4:2x2x4

Memory, collectives, FLOPs, time of a step, days, chip-hours. `--mesh data=4,fsdp=8` and
`--config.key=value` change the config; `--fit` looks for a mesh and for settings that fit and
ranks them; `--price` is that of a chip for an hour. The report is printed, and written to `--out`
as report.json and report.html.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from moshijax.commands import run_command
from moshijax.paths import local_path
from moshijax.preflight import page, search, tables, topology
from moshijax.preflight.examine import Report, examine
from moshijax.sharding import AXES
from moshijax.train.workdir import write_text


def read_mesh(text: str | None) -> dict[str, int]:
    """Config keys of `data=4,fsdp=8`; axes that are not named are 1 wide.

    Raises:
        ValueError: another form, or an unknown axis.
    """
    if not text:
        return {}
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or not size.removeprefix("-").isdigit():
            raise ValueError(f"mesh: {part!r} is not AXIS=SIZE with an axis of {', '.join(AXES)}.")
        sizes[axis] = int(size)
    return {f"mesh.{axis}": size for axis, size in sizes.items()}


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


def preflight(config: ConfigDict, name: str) -> list[Report]:
    """The reports that the flags ask for, told as they come."""
    settings = flags.FLAGS
    wanted = [topology.parse(part) for part in settings.topology.split(",")]
    topology.check_libtpu()
    mesh = read_mesh(settings.mesh)
    reports: list[Report] = []
    for slice_ in wanted:
        say(f"{name} on {slice_.name}: compiling")
        if settings.fit:
            tried = search.fit(
                config, slice_, mesh, name=name, price=settings.price, limit=settings.compiles,
                say=say,
            )  # fmt: skip
            reports += search.rank(tried)
            if reports[-len(tried) :]:
                print(tables.report_text(reports[-len(tried)]), end="\n\n", flush=True)
        else:
            one = examine(config, slice_, name=name, changes=mesh, price=settings.price)
            reports.append(one)
            print(tables.report_text(one), end="\n\n", flush=True)
    return reports


def say(line: str) -> None:
    """Progress, beside the report."""
    print(f"preflight: {line}", file=sys.stderr, flush=True)


def write(reports: Sequence[Report], folder: pathlib.Path) -> None:
    """Writes report.json and report.html."""
    folder.mkdir(parents=True, exist_ok=True)
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
        folder = local_path("--out", flags.FLAGS.out)
        reports = preflight(config.value, config_name(sys.argv[1:]))
        if len(reports) > 1:
            print(tables.as_text(tables.comparison(reports)), end="\n\n")
        write(reports, folder)
        print(f"Report: {folder / 'report.html'}")

    # Nothing is computed here, least of all on a TPU that somebody is using.
    jax.config.update("jax_platforms", "cpu")
    run_command("preflight", main, __doc__ or "")


if __name__ == "__main__":
    run()
