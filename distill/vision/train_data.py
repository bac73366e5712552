"""Training data of a distillation: batches of views, with the teachers' logits where precomputed.

A teacher is run in each step; or, where its view of an image never changes, its logits are a table;
or they lie beside stored plans in a cache.
"""

import pathlib

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from distill import cache
from distill.matching import LABELS
from distill.vision import classes, targets, views
from distill.vision.data import EvalBatches, Models, ModelView, TrainBatch, TrainBatches
from distill.vision.resnet import ResNet
from distill.vision.sources import Source
from moshijax import shard


KIND = "images"

Batches = TrainBatches | targets.FixedTargets | targets.CachedTargets


def model_views(config: ConfigDict) -> tuple[dict[str, ModelView], dict[str, ModelView]]:
    """Role and resolution of the student, and of every teacher, by name."""
    student = {"student": ("student", config.student.resolution)}
    return student, {n: ("teacher", spec.resolution) for n, spec in config.teachers.items()}


def train_batches(config: ConfigDict, source: Source, models: Models) -> TrainBatches:
    """The training batches of an experiment, with a view for each of these models."""
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
    config: ConfigDict, source: Source, models: Models, crop: str, mesh: Mesh
) -> EvalBatches:
    """Every image of a source once; the batch size is rounded up to what divides over the mesh."""
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


class DistillData:
    """Training batches; targets are computed once the work directory is claimed.

    Args:
        config: of the experiment.
        frozen: the teachers, on the mesh.
        source: the training images.
        names: of the classes, which are written into the work directory.
        mesh: where the teachers are run to compute targets.
        sets: evaluation batches, whose corrupt images are counted in the log at the end, too.
    """

    def __init__(
        self,
        config: ConfigDict,
        frozen: dict[str, ResNet],
        source: Source,
        names: classes.Names,
        mesh: Mesh,
        sets: dict[str, EvalBatches],
    ) -> None:
        self._parts = config, frozen, source, mesh
        self._names, self._sets = names, sets
        self._batches: Batches | None = None

    def kind(self, step: int) -> str:
        """The same at every step."""
        del step
        return KIND

    def prepare(self, workdir: pathlib.Path) -> None:
        """Computes fixed or cached targets, unless they are stored already."""
        classes.keep(workdir, self._names)
        self._batches = _batches(*self._parts, workdir)

    def batch(self, step: int, order: int = 0, rows: np.ndarray | None = None) -> TrainBatch:
        """These rows of the step's batch."""
        if self._batches is None:
            raise ValueError("prepare() comes before the first batch")
        return self._batches.batch(step, order, rows)

    def close(self) -> None:
        """Logs how many images were corrupt, and ends the threads that read them."""
        opened = [self._batches] if self._batches is not None else []
        readers = [batches.reader for batches in (*self._sets.values(), *opened)]
        for reader in {reader.source.name: reader for reader in readers}.values():
            reader.tell_corrupt()
        for reader in readers:
            reader.close()


def _batches(
    config: ConfigDict, frozen: dict[str, ResNet], source: Source, mesh: Mesh, workdir: pathlib.Path
) -> Batches:
    """Batches for teachers that run in each step, with a fixed teacher's table, or of a cache."""
    student, taught = model_views(config)
    design = views.design_of(config.view)
    if config.loss.distance == LABELS:
        return train_batches(config, source, student)
    if not design.fixed and config.cache.folder is None:
        return train_batches(config, source, student | taught)
    facts = target_facts(config, frozen, source)
    if design.fixed:
        data = eval_batches(config, source, taught, design.teacher, mesh)
        predict = targets.make_predict(frozen, data.keys, mesh)
        path = workdir / "fixed_targets.npz"
        draws = config.fixed_draws or design.ensemble
        rows = shard.local_rows(data.batch_size, mesh)
        table = targets.fixed_table(path, facts | {"draws": draws}, data, predict, draws, rows)
        return targets.FixedTargets(train_batches(config, source, student), table)
    path = pathlib.Path(config.cache.folder).expanduser()
    batches = train_batches(config, source, student)
    cached = targets.CachedTargets(cache.Plans(path, facts, config.cache.num_plans), batches)
    teaching = train_batches(config, source, taught)
    rows = shard.local_rows(config.batch_size, mesh)
    cached.fill(teaching, targets.make_predict(frozen, teaching.keys, mesh), rows)
    return cached


def target_facts(
    config: ConfigDict, frozen: dict[str, ResNet], source: Source
) -> dict[str, object]:
    """All that targets depend on; of a teacher its weights, for a path may come to hold others."""
    data = config.data.to_dict()
    keys = ("channels", "on_corrupt", "margin", "inception")
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
        data={key: data[key] for key in keys},
        evaluation=dict(batch_size=config.evaluation.batch_size, margin=config.evaluation.margin),
        teachers=models,
    )
