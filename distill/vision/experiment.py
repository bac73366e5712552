"""The experiment of a config: a student, its teachers, their views of images."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from distill.matching import LABELS, DistillTask
from distill.vision import checks, classes, folder, teachers, views
from distill.vision.data import EvalBatches, view_keys
from distill.vision.matcher import VisionMatcher
from distill.vision.measure import Fidelity
from distill.vision.resnet import ResNet
from distill.vision.rules import RULES
from distill.vision.sources import Renumbered, Source, load
from distill.vision.train_data import (
    KIND,
    DistillData,
    eval_batches,
    model_views,
    train_batches,
)
from moshijax import shard
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError
from moshijax.train.evaluators import sums_over
from moshijax.train.task import Experiment


# Keys of the config that trade speed for memory, the fastest values first.
CHOICES = {"student.overrides.remat": (False, True), "accumulate": (1, 2, 4, 8)}


class Parts(NamedTuple):
    """All that an experiment reads, opened and checked."""

    names: classes.Names
    task: DistillTask
    fidelity: Fidelity
    source: Source | None  # of training images
    sets: dict[str, EvalBatches]


def make(config: ConfigDict, mesh: shard.AnyMesh) -> Experiment:
    """The experiment of a config: on an abstract mesh its shapes alone.

    Raises:
        UserError: parts of the config do not fit each other, or a file is missing or wrong.
    """
    checks.check(config)
    experiment = Experiment(
        task=_make_task(config, _shapes_of_teachers(config), labelled=True),
        batches={KIND: batch_shapes(config)},
        unit=KIND,
        counts={KIND: {KIND: config.batch_size}},
        choices=CHOICES,
    )
    if isinstance(mesh, AbstractMesh):
        return experiment
    parts = prepare(config, mesh)
    source = parts.source
    if source is None:
        raise UserError(f"config.data: {config.data.name!r} has no images to train on.")
    return dataclasses.replace(
        experiment,
        task=parts.task,
        train_data=DistillData(config, parts.task.frozen, source, parts.names, mesh, parts.sets),
        evaluators=sums_over(parts.fidelity, parts.sets, mesh),
        initial=functools.partial(_initial, config),
    )


def prepare(config: ConfigDict, mesh: Mesh, train: bool = True) -> Parts:
    """Opens and checks all that a config names; writes and compiles nothing but random teachers.

    Raises:
        UserError: parts of the config do not fit each other, or a file is missing or wrong.
    """
    checks.check(config)
    matching, design = config.loss.distance != LABELS, views.design_of(config.view)
    if matching and design.fixed and config.mixup:
        raise UserError(
            f"mixup: {config.view} computes each image's targets once, so images cannot be "
            "mixed: set mixup to 0, or take a consistent view."
        )
    data, tested_on = config.data, config.evaluation
    tested = {n: load(tested_on.name, x, data.data_dir) for n, x in tested_on.sets.items()}
    # An evaluation too is indexed by the training images' classes, where their folder exists.
    named = train or _at_hand(config)
    source = load(data.name, data.train, data.data_dir) if named else None
    runs = {key: classes.of_run(spec.load) for key, spec in checks.models_of(config).items()}
    names, labelled = classes.agree(
        {key: names for key, names in runs.items() if names is not None},
        source,
        list(tested.values()),
        teachers.model_config(config.student).num_classes,
        train and not matching,
    )
    student, taught = model_views(config)
    sets = {}
    for name, evaluated in tested.items():
        checks.check_classes(config, len(names), evaluated)
        evaluated = Renumbered(evaluated, names)
        sets[name] = eval_batches(config, evaluated, student | taught, tested_on.crop, mesh)
    if source is not None and labelled:
        source = Renumbered(source, names)
    opened = [train_batches(config, source, student)] if train and source is not None else []
    checks.check_readable(config, [*opened, *sets.values()])
    loaded = {n: teachers.load_model(spec, config.seed) for n, spec in config.teachers.items()}
    frozen = shard.place(loaded, mesh, RULES)
    task = _make_task(config, frozen, labelled and train)
    measured = Fidelity(next(iter(sets.values())).keys, config.loss.combine)
    return Parts(names, task, measured, source if train else None, sets)


def _at_hand(config: ConfigDict) -> bool:
    """Whether the training images are in a folder that exists."""
    path = folder.path_of(config.data.name)
    return path is not None and path.is_dir()


def _make_task(config: ConfigDict, frozen: dict[str, ResNet], labelled: bool) -> DistillTask:
    student, taught = model_views(config)
    keys = view_keys(views.design_of(config.view), student | taught)
    matcher = VisionMatcher(keys, config.loss.label_smoothing, labelled)
    make = functools.partial(teachers.make_model, config.student)
    return DistillTask(config, matcher, make, RULES, frozen)


def _shapes_of_teachers(config: ConfigDict) -> dict[str, ResNet]:
    return {
        name: jax.eval_shape(functools.partial(teachers.make_model, spec), jax.random.key(0))
        for name, spec in config.teachers.items()
    }


def batch_shapes(config: ConfigDict) -> dict[str, PyTree[jax.ShapeDtypeStruct]]:
    """The shapes of a training batch."""
    student, taught = model_views(config)
    design, size = views.design_of(config.view), config.batch_size
    matching = config.loss.distance != LABELS
    live = matching and not design.fixed and config.cache.folder is None
    models = student | taught if live else student
    channels = config.data.channels or teachers.model_config(config.student).in_channels
    resolutions = {k: models[n][1] for n, k in view_keys(design, models).items()}
    batch: dict[str, PyTree[jax.ShapeDtypeStruct]] = {
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
            name: jax.ShapeDtypeStruct((size, teachers.model_config(spec).num_classes), np.float32)
            for name, spec in config.teachers.items()
        }
    return batch


def _initial(config: ConfigDict) -> dict[str, jax.Array]:
    """What a student begins with; it is small enough to be whole in every process."""
    if config.student.load is None:
        return {}
    model = teachers.load_model(config.student, config.seed)
    return {f"model/{name}": leaf for name, leaf in named_leaves(model).items()}
