"""Writes the weights of a trained run as a file that others load.

    python -m moshijax.export runs/moshi moshi.safetensors

The newest checkpoint is read; of an average of the parameters where the run has one. A language
model is written as Moshi publishes them, in bfloat16. What is larger than `--part-size` comes in
parts with an index (`moshi.safetensors.index.json`), which this package and transformers read;
Moshi's own loader wants one file, so 0. One process does it, on whatever mesh the run was trained,
and holds of the checkpoint one array at a time.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from moshijax.cli.terminal import complaining, make_parser
from moshijax.convert.parts import GB
from moshijax.shard import abstract_mesh
from moshijax.system.errors import UserError
from moshijax.system.files import check_output
from moshijax.train import restore
from moshijax.train.checkpoints import newest, parameters_of
from moshijax.train.task import find


def export(workdir: pathlib.Path, out: pathlib.Path, part_bytes: float) -> str:
    """Writes the parameters of a run; returns what to say of it.

    Raises:
        UserError: the directory holds no run, or one of an experiment that exports nothing.
    """
    check_output(out)
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no work directory: it has no config.json; check the path")
    try:
        config = ConfigDict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): put the run's config back") from error
    experiment = find(config)(config, abstract_mesh())
    if experiment.export is None:
        raise UserError(f"{workdir} is a run of {config.experiment}, which exports no weights")
    with newest(workdir) as folder:
        what = parameters_of(folder)
        experiment.export(restore.one_by_one(folder, f"{what}/"), out, part_bytes)
        return f"{out}: the {what} of step {folder.name}"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = make_parser("python -m moshijax.export", __doc__)
    made.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR", help="of the run")
    made.add_argument("out", type=pathlib.Path, metavar="OUT", help="safetensors file to write")
    made.add_argument(
        "--part-size",
        type=float,
        default=5.0,
        metavar="GB",
        help="of a file at most; 0: one file (default: %(default)s)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parser().parse_args(argv)
    with complaining("moshijax.export"):
        if not 0 <= args.part_size < math.inf:
            raise UserError(f"--part-size {args.part_size} is no size: give gigabytes, or 0")
        part_bytes = args.part_size * GB or math.inf
        print(export(args.workdir, args.out, part_bytes))
