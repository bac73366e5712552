"""A stack of residual layers under AdamW, as small as a test wants it: an experiment module."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from moshijax.nn.rules import RULES
from moshijax.train import optim
from moshijax.train.task import Experiment


class State(NamedTuple):
    """A model and its optimizer's state."""

    model: dict
    optimizer: object


class StackTask:
    """Makes a stack of layers repeat what it is shown."""

    rules = RULES
    frozen = ()
    begin = None

    def __init__(self, config):
        self.config = config
        shapes = jax.eval_shape(self.model, jax.random.key(0))
        self.optimizer = optim.make(config.optimizer, config.num_steps, shapes)

    def model(self, key):
        L, D, F = self.config.layers, self.config.dim, self.config.mlp_dim
        up, down = jax.random.split(key)
        return {
            "up": {"kernel": jax.random.normal(up, (L, D, F))},
            "down": {"kernel": jax.random.normal(down, (L, F, D))},
        }

    def init(self, key):
        model = self.model(key)
        return State(model, self.optimizer.init(model))

    def update(self, kind, state, frozen, batch, key):
        def layer(x, kernels):
            up, down = (kernel.astype(jnp.bfloat16) for kernel in kernels)
            return x + jax.nn.relu(x @ up) @ down, None

        def loss(model, rows, count):
            body = jax.checkpoint(layer) if self.config.remat == "full" else layer
            x = rows["x"].astype(jnp.bfloat16)
            y, _ = jax.lax.scan(body, x, (model["up"]["kernel"], model["down"]["kernel"]))
            value = jnp.sum((y.astype(jnp.float32) - rows["x"]) ** 2) / count
            return value, {"loss": value}

        parts = self.config.accumulate
        grads, metrics = optim.accumulate(
            loss, lambda rows: rows["x"].size, state.model, batch, parts
        )
        model, optimizer, norms = self.optimizer.update(grads, state.optimizer, state.model)
        return State(model, optimizer), metrics | norms


OPTIMIZER = dict(
    learning_rate=1e-3,
    schedule="cosine",
    warmup_steps=2,
    clip_norm=1.0,
    weight_decay=0.1,
    options=dict(adam=dict(b2=0.95)),
    kinds=((".*", "adam"),),
    decay=((".*", 1.0),),
    rates=((".*", 1.0),),
    frozen=((".*", False),),
)


# What a run also reads of a config, and preflight checks.
LOOP = (
    *("log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "read_ahead"),
    "max_rollbacks",
)


def make(config, mesh):
    shape = (config.batch_size, config.length, config.dim)
    return Experiment(
        task=StackTask(config),
        batches={"rows": {"x": jax.ShapeDtypeStruct(shape, np.float32)}},
        unit="rows",
        counts={"rows": {"rows": config.batch_size, "tokens": config.batch_size * config.length}},
        choices={"remat": ("none", "full"), "accumulate": (1, 2, 4)},
    )


def get_config(arg=None):
    config = ConfigDict(
        dict(
            experiment="tests.preflight.stack",
            seed=0,
            vmem_kib=0,
            num_steps=1000,
            batch_size=64,
            accumulate=1,
            final_sets=(),
            **dict.fromkeys(LOOP, 1),
            mesh=dict(data=1, fsdp=-1, tensor=1),
            layers=8,
            dim=1024,
            mlp_dim=4096,
            length=256,
            remat="full",
            optimizer=OPTIMIZER,
        )
    )
    if arg == "without":
        del config.experiment
    return config
