"""Training of a language model on windows of codes: Helium, and Moshi's next-frame prediction."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from moshijax import shard
from moshijax.convert.lm import abstract_lm, load_lm, save_lm
from moshijax.convert.lm.config import to_moshi
from moshijax.convert.tables import few
from moshijax.data import windows
from moshijax.lm.config import MoshiConfig
from moshijax.lm.moshi import keeps_type
from moshijax.lm.rules import RULES
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.nn.transformer import REMAT
from moshijax.pod import hosts
from moshijax.system.errors import UserError
from moshijax.system.files import replacing
from moshijax.train import settings
from moshijax.train.checkpoints import is_run, load_parameters
from moshijax.train.evaluators import Evaluator, sums_over
from moshijax.train.lm import LMTask, preset_of
from moshijax.train.task import Experiment


# Keys of the config that trade speed for memory, the fastest values first.
CHOICES = {
    "model.overrides.remat": tuple(reversed(REMAT)),
    "accumulate": (1, 2, 4, 8, 16),
    "loss.chunk_frames": (4096, 1024, 512, 256, 128),
}


def make(config: ConfigDict, mesh: shard.AnyMesh) -> Experiment:
    """The experiment of a config: on an abstract mesh its shapes alone.

    Raises:
        UserError: a value that no run can have, or data or weights that do not fit the model.
    """
    settings.check(config)
    task, length = LMTask(config), settings.whole(config.data.length, "data.length", 1)
    rows, model = config.batch_size, task.model_config
    kind = "audio" if model.num_codebooks else "text"
    shape = jax.ShapeDtypeStruct((rows, model.num_streams, length), np.int32)
    flops = task.model_flops({"codes": shape})
    experiment = Experiment(
        task=task,
        batches={kind: {"codes": shape}},
        unit="windows",
        counts={kind: {"windows": rows, "frames": rows * length}},
        choices=CHOICES,
        model_flops=lambda _: flops,
        export=functools.partial(export, model),
    )
    if isinstance(mesh, AbstractMesh):
        return experiment
    return dataclasses.replace(
        experiment,
        initial=functools.partial(initial_leaves, config.model, model, mesh),
        train_data=windows.TrainWindows(
            windows.load(config.data.train, length, model, "data.train"),
            kind=kind,
            batch_size=rows,
            length=length,
            seed=config.seed,
        ),
        evaluators=_evaluators(config, task, mesh),
    )


def _evaluators(config: ConfigDict, task: LMTask, mesh: Mesh) -> dict[str, Evaluator]:
    """One for each set of windows; what does not fill a batch of the mesh is masked."""
    rows, length = shard.fill_up(config.evaluation.batch_size, mesh), config.data.length
    model = task.model_config
    sets = {
        name: windows.EvalWindows(
            windows.load(files, length, model, f"evaluation.sets.{name}"),
            batch_size=rows,
            length=length,
        )
        for name, files in config.evaluation.sets.items()
    }
    return sums_over(task, sets, mesh)


def initial_leaves(spec: ConfigDict, config: MoshiConfig, mesh: Mesh) -> dict[str, jax.Array]:
    """Parameters to begin with, by name, on the mesh: of a file, or of a run's work directory.

    Helium's are Moshi's temporal transformer; what the loaded model lacks altogether, such as
    audio streams, stays random.

    Args:
        spec: the config's `model`: of it `load`, `load_preset` and `preset`.
        config: the architecture that is trained.
        mesh: onto which the arrays are read.

    Raises:
        UserError: nothing is there, or an array of both has another shape here.
    """
    if spec.load is None:
        return {}
    folder = pathlib.Path(spec.load)
    if is_run(folder) or (folder.is_dir() and not any(folder.glob("*.safetensors"))):
        leaves = load_parameters(spec.load, mesh, RULES)
    else:
        source = config if spec.load_preset is None else preset_of(spec, "load_preset")
        leaves = named_leaves(load_lm(spec.load, source, dtype=jnp.float32, mesh=mesh))
    shapes = named_leaves(abstract_lm(config))
    other = sorted(n for n in leaves.keys() & shapes.keys() if leaves[n].shape != shapes[n].shape)
    if other:
        name = other[0]
        raise UserError(
            f"model.load: {name} of {spec.load} is {list(leaves[name].shape)}, the model's is "
            f"{list(shapes[name].shape)} ({len(other)} such arrays): load a model of the same "
            "sizes, or change model.preset and model.overrides to them."
        )
    if not leaves.keys() & shapes.keys():
        raise UserError(f"model.load: {spec.load} has none of the arrays of {spec.preset}.")
    for verb, names in (
        ("stays random, since it is not in", shapes.keys() - leaves.keys()),
        ("is not read, since the model lacks it, of", leaves.keys() - shapes.keys()),
    ):
        if names and hosts.is_main():
            logging.warning("model.load: %s %s %s.", few(sorted(names)), verb, spec.load)
    return {f"model/{n}": leaves[n] for n in leaves.keys() & shapes.keys()}


def export(
    config: MoshiConfig,
    leaves: Iterator[tuple[str, jax.Array]],
    path: pathlib.Path,
    part_bytes: float,
) -> None:
    """Writes parameters as Moshi publishes them, in bfloat16; config.json too, if there is none.

    Args:
        config: the architecture.
        leaves: names and parameters, one after the other.
        path: the file, or what its parts and their index are named after.
        part_bytes: the size of a part; what fits one part is one file.
    """
    halves = {n: x if keeps_type(n) else x.astype(jnp.bfloat16) for n, x in leaves}
    model = with_leaves(abstract_lm(config), halves)
    save_lm(model, path, dtype=jnp.bfloat16, part_bytes=part_bytes)
    beside = path.with_name("config.json")
    if not beside.exists():
        with replacing(beside, "w") as file:
            file.write(json.dumps(to_moshi(config), indent=2) + "\n")
