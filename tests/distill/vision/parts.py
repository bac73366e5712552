"""The parts of a distillation, as the loop has them."""

import jax

from distill.vision import experiment, train_data
from moshijax import shard


def build(config, workdir, train=True):
    """The task, its training batches (None unless `train`) and its sets, on one device."""
    mesh = shard.make_mesh(dict(data=1), jax.devices()[:1])
    parts = experiment.prepare(config, mesh, train)
    if parts.source is None:
        return parts.task, None, parts.sets
    frozen, names = parts.task.frozen, parts.names
    data = train_data.DistillData(config, frozen, parts.source, names, mesh, parts.sets)
    workdir.mkdir(parents=True, exist_ok=True)
    data.prepare(workdir)
    return parts.task, data, parts.sets
