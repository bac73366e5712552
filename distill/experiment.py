"""A config becomes a task and its data, and is trained."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from distill import targets, teachers, views
from distill.task import LABELS, DistillTask
from distill.vision.data import EvalBatches, TrainBatches, view_keys
from distill.vision.sources import Source, load
from moshijax.nn.paths import named_leaves
from moshijax.train import loop
from moshijax.train.plan import Plan
from moshijax.train.workdir import check as check_workdir


def model_views(config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """Role and resolution of the student and of every teacher, as the data wants them."""
    student = {"student": ("student", config.student.resolution)}
    return student, {n: ("teacher", spec.resolution) for n, spec in config.teachers.items()}


def train_batches(config: ConfigDict, source: Source, models: dict[str, Any]) -> TrainBatches:
    """The batches of an experiment as these models see them."""
    data = config.data
    return TrainBatches(
        source,
        models,
        design=config.view,
        batch_size=config.batch_size,
        seed=config.seed,
        mixup=config.mixup,
        on_corrupt=data.on_corrupt,
        margin=data.margin,
        inception=data.inception,
        channels=data.channels,
        threads=data.threads,
    )


def _eval_batches(
    config: ConfigDict, source: Source, models: dict[str, Any], crop: str
) -> EvalBatches:
    data = config.data
    return EvalBatches(
        source,
        models,
        crop=crop,
        batch_size=config.evaluation.batch_size,
        on_corrupt=data.on_corrupt,
        margin=config.evaluation.margin,
        seed=config.seed,
        inception=data.inception,
        channels=data.channels,
        threads=data.threads,
    )


def _check_classes(config: ConfigDict, known: dict[str, int], source: Source) -> None:
    """Every model of an experiment speaks of the classes that it is evaluated on."""
    for name, num_classes in known.items():
        if num_classes != source.num_classes:
            raise ValueError(
                f"{name}: {num_classes} classes do not fit the {source.num_classes} of "
                f"{source.name}: set overrides.num_classes."
            )


def _train_data(
    config: ConfigDict, task: DistillTask, source: Source, workdir: pathlib.Path
) -> Any:
    """Batches with live teachers, with a fixed teacher's table, or out of a cache."""
    student, taught = model_views(config)
    design = views.design_of(config.view)
    if config.loss.distance == LABELS:
        return train_batches(config, source, student)
    if design.fixed:
        if config.mixup:
            raise ValueError(
                f"mixup: {config.view} computes each image's targets once, so images cannot be "
                "mixed: set mixup to 0, or take a consistent view."
            )
        data = _eval_batches(config, source, taught, design.teacher)
        ask = targets.make_ask(task.frozen, data.keys)
        path = workdir / "fixed_targets.npz"
        table = targets.fixed_table(path, data, ask, config.fixed_draws or design.ensemble)
        return targets.FixedTargets(train_batches(config, source, student), table)
    if config.cache.folder is None:
        return train_batches(config, source, student | taught)
    names = ("seed", "batch_size", "data", "view", "mixup", "teachers")
    facts = {key: value for key, value in config.to_dict().items() if key in names}
    folder = pathlib.Path(config.cache.folder)
    cached = targets.CachedTargets(
        folder, facts, train_batches(config, source, student), config.cache.num_plans
    )
    teaching = train_batches(config, source, taught)
    cached.fill(teaching, targets.make_ask(task.frozen, teaching.keys))
    return cached


def build(
    config: ConfigDict, workdir: pathlib.Path, train: bool = True
) -> tuple[DistillTask, Any, dict[str, Any]]:
    """The task, its training batches (None unless `train`) and its evaluation sets.

    Raises:
        ValueError: parts of the config do not fit each other, or a file is missing or wrong.
    """
    student, taught = model_views(config)
    sets = {
        name: _eval_batches(
            config,
            load(config.evaluation.name, split, config.data.data_dir),
            student | taught,
            config.evaluation.crop,
        )
        for name, split in config.evaluation.sets.items()
    }
    specs = {"student": config.student, **config.teachers}
    known = {name: teachers.model_config(spec).num_classes for name, spec in specs.items()}
    for data in sets.values():
        _check_classes(config, known, data.source)
    frozen = {n: teachers.load_model(spec, config.seed) for n, spec in config.teachers.items()}
    source = load(config.data.name, config.data.train, config.data.data_dir) if train else None
    if source and config.loss.distance == LABELS:
        _check_classes(config, {"student": known["student"]}, source)
    eval_keys = next(iter(sets.values())).keys
    labelled = source is not None and source.num_classes == known["student"]
    task = _make_task(config, frozen, eval_keys, labelled)
    return task, source and _train_data(config, task, source, workdir), sets


def _make_task(
    config: ConfigDict, frozen: dict[str, Any], eval_keys: dict[str, str], labelled: bool
) -> DistillTask:
    student, taught = model_views(config)
    return DistillTask(
        config,
        make=functools.partial(teachers.make_model, config.student),
        teachers=frozen,
        keys=view_keys(views.design_of(config.view), student | taught),
        eval_keys=eval_keys,
        labelled=labelled,
    )


def plan(config: ConfigDict) -> Plan:
    """The task with its teachers' shapes, and the shapes of its training batches."""
    student, taught = model_views(config)
    specs = {name: teachers.model_config(spec) for name, spec in config.teachers.items()}
    frozen = {
        name: jax.eval_shape(functools.partial(teachers.make_model, spec), jax.random.key(0))
        for name, spec in config.teachers.items()
    }
    design, size = views.design_of(config.view), config.batch_size
    matching = config.loss.distance != LABELS
    live = matching and not design.fixed and config.cache.folder is None
    models = student | taught if live else student
    channels = config.data.channels or teachers.model_config(config.student).in_channels
    resolutions = {k: models[n][1] for n, k in view_keys(design, models).items()}
    batch: dict[str, Any] = {
        "images": {
            key: jax.ShapeDtypeStruct((size, side, side, channels), np.uint8)
            for key, side in resolutions.items()
        },
        "index": jax.ShapeDtypeStruct((size,), np.int32),
        "label": jax.ShapeDtypeStruct((size,), np.int32),
        "mix": jax.ShapeDtypeStruct((), np.float32),
    }
    if matching and not live:
        batch["teacher_logits"] = {
            name: jax.ShapeDtypeStruct((size, spec.num_classes), np.float32)
            for name, spec in specs.items()
        }
    task = _make_task(config, frozen, {}, labelled=True)
    choices = {"student.overrides.remat": (False, True), "accumulate": (1, 2, 4, 8)}
    return Plan(task, batch, {"images": size}, choices)


def run(config: ConfigDict, workdir: str) -> Any:
    """Trains a config in its work directory, from where it stands; returns the state."""
    path = check_workdir(workdir, config)
    task, train_data, sets = build(config, path)

    def initial(mesh: Any) -> dict[str, Any]:
        del mesh  # A student is small enough to be whole in every process.
        if config.student.load is None:
            return {}
        leaves = named_leaves(teachers.load_model(config.student, config.seed))
        return {f"model/{name}": leaf for name, leaf in leaves.items()}

    return loop.train(config, task, train_data, sets, workdir, initial)
