"""A linear regression as a task, small enough to compile in a blink."""

import functools
import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from moshijax.train import optim
from moshijax.train.evaluators import sums_over
from moshijax.train.task import Experiment


RULES = ((r"head/kernel", P("tensor", "fsdp")), (r"head/bias|norm/\w+", P(None)))
OPTIMIZER = dict(
    learning_rate=0.05,
    schedule="cosine",
    warmup_steps=2,
    clip_norm=1.0,
    weight_decay=1e-3,
    options=dict(adam=dict(b2=0.99)),
    kinds=((".*", "adam"),),
    decay=(("kernel", 1.0), ("bias", 0.0)),
    rates=((".*", 1.0),),
    frozen=((".*", False),),
)


def config(**changes):
    """The config of a short run."""
    base = dict(
        seed=0,
        num_steps=12,
        batch_size=16,
        accumulate=1,
        mesh=dict(data=-1),
        log_every=2,
        eval_every=6,
        final_sets=(),
        checkpoint_every=3,
        keep_checkpoints=2,
        read_ahead=2,
        vmem_kib=0,
        max_rollbacks=2,
        profile=None,
        change=(),
        average=None,
        optimizers=dict(model=OPTIMIZER),
    )
    return ConfigDict(base | changes)


class State(NamedTuple):
    """A model and its optimizer's state."""

    model: dict
    optimizer: object


class ToyTask:
    """Finds the matrix behind noisy pairs."""

    begin = None

    def __init__(self, config):
        self.rules = RULES
        self.frozen = {"norm": {"scale": jnp.full(4, 2.0)}}
        self.parts = config.accumulate
        shapes = jax.eval_shape(self.model, jax.random.key(0))
        self.optimizer = optim.make(config.optimizers.model, config.num_steps, shapes)

    def model(self, key):
        return {"head": {"kernel": jax.random.normal(key, (4, 8)), "bias": jnp.zeros(8)}}

    def init(self, key):
        model = self.model(key)
        return State(model, self.optimizer.init(model))

    def update(self, kind, state, frozen, batch, key):
        def loss(model, rows, count):
            scaled = rows["x"] * frozen["norm"]["scale"][None]
            y = scaled @ model["head"]["kernel"] + model["head"]["bias"][None]
            value = jnp.sum((y - rows["y"]) ** 2) / count
            return value, {"loss": value}

        noise = jax.random.normal(key, batch["x"].shape)
        rows = {"x": batch["x"] + 0.01 * noise, "y": batch["y"]}
        grads, metrics = optim.accumulate(
            loss, lambda rows: rows["y"].size, state.model, rows, self.parts
        )
        model, optimizer, norms = self.optimizer.update(grads, state.optimizer, state.model)
        return State(model, optimizer), metrics | norms

    def evaluate(self, state, frozen, batch):
        scaled = batch["x"] * frozen["norm"]["scale"][None]
        y = scaled @ state.model["head"]["kernel"] + state.model["head"]["bias"][None]
        error = jnp.mean((y - batch["y"]) ** 2, axis=1)
        # A padded row may hold anything.
        valid = batch["mask"] > 0
        return {"error": jnp.sum(jnp.where(valid, error, 0.0)), "count": jnp.sum(valid)}

    def summarize(self, sums):
        return {"loss": float(sums["error"] / sums["count"])}


class ToyData:
    """Pairs as a function of step and order; can poison a step or raise a signal in it."""

    num_batches = 2

    def __init__(self, batch_size=16, poisoned=(), interrupted_at=0):
        self.batch_size = batch_size
        self.poisoned = poisoned
        self.interrupted_at = interrupted_at

    def pairs(self, seed, rows):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((self.batch_size, 4), np.float32)
        y = x @ np.arange(32, dtype=np.float32).reshape(4, 8) / 16
        return {"x": x[rows], "y": y[rows]}

    def close(self):
        pass

    def batch(self, step, order=0, rows=None):
        if step == self.interrupted_at:
            signal.raise_signal(signal.SIGTERM)
        batch = self.pairs((step, order), slice(None) if rows is None else rows)
        if (step, order) in self.poisoned:
            batch["x"][0] = np.nan
        return batch

    def kind(self, step):
        return "pairs"

    def prepare(self, workdir):
        pass


class ToyEval(ToyData):
    """Two batches, of which the second is half padding."""

    def batch(self, i, rows=None):
        rows = np.arange(self.batch_size) if rows is None else rows
        batch = self.pairs((i, 99), rows)
        batch["mask"] = np.float32((rows < 8) | (i == 0))
        batch["x"][batch["mask"] == 0] = np.nan
        return batch


def make_with(data, sets, initial=None, task=None):
    """The experiment over given data."""

    def make(config, mesh):
        made, rows = (task or ToyTask)(config), config.batch_size
        shapes = {
            name: jax.ShapeDtypeStruct((rows, n), np.float32) for name, n in (("x", 4), ("y", 8))
        }
        return Experiment(
            task=made,
            batches={"pairs": shapes},
            unit="pairs",
            train_data=data,
            evaluators=sums_over(made, sets, mesh),
            initial=functools.partial(initial, mesh) if initial else dict,
        )

    return make
