"""A config becomes a task and its data, and is trained."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from distill import checks, classes, targets, teachers, views
from distill.task import LABELS, DistillTask
from distill.vision import folder
from distill.vision.data import EvalBatches, TrainBatches, view_keys
from distill.vision.sources import Renumbered, Source, load
from moshijax import sharding
from moshijax.errors import UserError
from moshijax.nn.paths import named_leaves
from moshijax.train import loop
from moshijax.train import workdir as workdirs
from moshijax.train.checkpoints import find_steps
from moshijax.train.plan import Plan


class Parts(NamedTuple):
    """All that an experiment reads, opened and checked."""

    names: classes.Names
    task: DistillTask
    source: Source | None  # of training images
    sets: dict[str, EvalBatches]


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


def prepare(config: ConfigDict, train: bool = True) -> Parts:
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
    # Its classes number those of an evaluation too, where it is at hand.
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
        sets[name] = _eval_batches(config, evaluated, student | taught, tested_on.crop)
    if source is not None and labelled:
        source = Renumbered(source, names)
    opened = [train_batches(config, source, student)] if train and source is not None else []
    checks.check_readable(config, [*opened, *sets.values()])
    frozen = {n: teachers.load_model(spec, config.seed) for n, spec in config.teachers.items()}
    eval_keys = next(iter(sets.values())).keys
    task = _make_task(config, frozen, eval_keys, labelled and train)
    return Parts(names, task, source if train else None, sets)


def _at_hand(config: ConfigDict) -> bool:
    """Whether the training images lie in a folder that is there."""
    path = folder.path_of(config.data.name)
    return path is not None and path.is_dir()


def _train_data(
    config: ConfigDict, task: DistillTask, source: Source, workdir: pathlib.Path
) -> Any:
    """Batches with live teachers, with a fixed teacher's table, or out of a cache."""
    student, taught = model_views(config)
    design = views.design_of(config.view)
    if config.loss.distance == LABELS:
        return train_batches(config, source, student)
    if not design.fixed and config.cache.folder is None:
        return train_batches(config, source, student | taught)
    facts = target_facts(config, task.frozen, source)
    if design.fixed:
        data = _eval_batches(config, source, taught, design.teacher)
        ask = targets.make_ask(task.frozen, data.keys)
        path = workdir / "fixed_targets.npz"
        draws = config.fixed_draws or design.ensemble
        table = targets.fixed_table(path, facts | {"draws": draws}, data, ask, draws)
        return targets.FixedTargets(train_batches(config, source, student), table)
    path = pathlib.Path(config.cache.folder).expanduser()
    batches = train_batches(config, source, student)
    cached = targets.CachedTargets(path, facts, batches, config.cache.num_plans)
    teaching = train_batches(config, source, taught)
    cached.fill(teaching, targets.make_ask(task.frozen, teaching.keys))
    return cached


def target_facts(config: ConfigDict, frozen: dict[str, Any], source: Source) -> dict[str, Any]:
    """All that targets depend on, each by its content: the path of a teacher says nothing."""
    data = config.data.to_dict()
    seen = ("channels", "on_corrupt", "margin", "inception")
    models = {}
    for name, spec in config.teachers.items():
        overrides = {k: v for k, v in spec.overrides.to_dict().items() if k != "remat"}
        models[name] = dict(
            preset=spec.preset,
            overrides=overrides,
            resolution=spec.resolution,
            weights=targets.digest(frozen[name]),
        )
    return dict(
        version=targets.VERSION,
        images=source.fingerprint,
        seed=config.seed,
        batch_size=config.batch_size,
        view=config.view,
        mixup=config.mixup,
        data={key: data[key] for key in seen},
        evaluation=dict(batch_size=config.evaluation.batch_size, margin=config.evaluation.margin),
        teachers=models,
    )


def build(
    config: ConfigDict, workdir: pathlib.Path, train: bool = True, parts: Parts | None = None
) -> tuple[DistillTask, Any, dict[str, Any]]:
    """The task, its training batches (None unless `train`) and its evaluation sets.

    Raises:
        UserError: parts of the config do not fit each other, or a file is missing or wrong.
    """
    parts = prepare(config, train) if parts is None else parts
    task, source = parts.task, parts.source
    return task, source and _train_data(config, task, source, workdir), dict(parts.sets)


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
    checks.check(config)
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
    path = workdirs.check(workdir, config)
    parts = prepare(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.evaluation.batch_size, mesh, name="evaluation.batch_size")
    initial = _initial(config, path)
    workdirs.make(path)
    classes.keep(path, parts.names)
    task, train_data, sets = build(config, path, parts=parts)
    try:
        return loop.train(config, task, train_data, sets, workdir, initial)
    finally:
        readers = [data.reader for data in (*sets.values(), train_data)]
        for reader in {reader.source.name: reader for reader in readers}.values():
            reader.tell_corrupt()


def _initial(config: ConfigDict, workdir: pathlib.Path) -> Callable[[Any], dict[str, Any]]:
    """What a student begins with, read at once unless the run has begun."""
    leaves: dict[str, Any] = {}
    if config.student.load is not None and not find_steps(workdir / "checkpoints"):
        model = teachers.load_model(config.student, config.seed)
        leaves = {f"model/{name}": leaf for name, leaf in named_leaves(model).items()}
    # A student is small enough to be whole in every process.
    return lambda mesh: leaves
