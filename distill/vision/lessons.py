"""What a student is shown, with what its teachers say of it: live, of a table, or of a cache."""

import pathlib
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from distill import cache
from distill.matching import LABELS
from distill.vision import classes, targets, views
from distill.vision.data import EvalBatches, TrainBatches
from distill.vision.sources import Source
from moshijax import shard


KIND = "images"


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


def eval_batches(
    config: ConfigDict, source: Source, models: dict[str, Any], crop: str, mesh: Mesh
) -> EvalBatches:
    """Every image of a source once; batches are filled up to what the mesh divides."""
    data = config.data
    return EvalBatches(
        source,
        models,
        crop=crop,
        batch_size=shard.fill_up(config.evaluation.batch_size, mesh),
        on_corrupt=data.on_corrupt,
        margin=config.evaluation.margin,
        seed=config.seed,
        inception=data.inception,
        channels=data.channels,
        threads=data.threads,
    )


class Lessons:
    """Training batches, whose targets are made once the work directory is the run's own.

    Args:
        config: of the experiment.
        frozen: the teachers, on the mesh.
        source: of the images.
        names: of their classes, which are kept in the work directory.
        mesh: on which the teachers are asked.
        sets: evaluation batches, whose damaged pictures are told at the end too.
    """

    def __init__(
        self,
        config: ConfigDict,
        frozen: dict[str, Any],
        source: Source,
        names: classes.Names,
        mesh: Mesh,
        sets: dict[str, EvalBatches],
    ) -> None:
        self._given = config, frozen, source, mesh
        self._names, self._sets = names, sets
        self._batches: Any = None

    def kind(self, step: int) -> str:
        """The same at every step."""
        del step
        return KIND

    def prepare(self, workdir: pathlib.Path) -> None:
        """Makes fixed or cached targets, unless they are there."""
        classes.keep(workdir, self._names)
        self._batches = _batches(*self._given, workdir)

    def batch(self, step: int, order: int = 0, rows: np.ndarray | None = None) -> dict[str, Any]:
        """These rows of the step's batch."""
        return self._batches.batch(step, order, rows)

    def close(self) -> None:
        """Tells how many pictures were damaged, and ends the threads that read them."""
        opened = [self._batches] if self._batches is not None else []
        readers = [batches.reader for batches in (*self._sets.values(), *opened)]
        for reader in {reader.source.name: reader for reader in readers}.values():
            reader.tell_corrupt()
        for reader in readers:
            reader.close()


def _batches(
    config: ConfigDict, frozen: dict[str, Any], source: Source, mesh: Mesh, workdir: pathlib.Path
) -> TrainBatches | targets.FixedTargets | targets.CachedTargets:
    """Batches with live teachers, with a fixed teacher's table, or out of a cache."""
    student, taught = model_views(config)
    design = views.design_of(config.view)
    if config.loss.distance == LABELS:
        return train_batches(config, source, student)
    if not design.fixed and config.cache.folder is None:
        return train_batches(config, source, student | taught)
    facts = target_facts(config, frozen, source)
    if design.fixed:
        data = eval_batches(config, source, taught, design.teacher, mesh)
        ask = targets.make_ask(frozen, data.keys, mesh)
        path = workdir / "fixed_targets.npz"
        draws = config.fixed_draws or design.ensemble
        rows = shard.local_rows(data.batch_size, mesh)
        table = targets.fixed_table(path, facts | {"draws": draws}, data, ask, draws, rows)
        return targets.FixedTargets(train_batches(config, source, student), table)
    path = pathlib.Path(config.cache.folder).expanduser()
    batches = train_batches(config, source, student)
    cached = targets.CachedTargets(cache.Plans(path, facts, config.cache.num_plans), batches)
    teaching = train_batches(config, source, taught)
    rows = shard.local_rows(config.batch_size, mesh)
    cached.fill(teaching, targets.make_ask(frozen, teaching.keys, mesh), rows)
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
            weights=cache.digest(frozen[name]),
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
