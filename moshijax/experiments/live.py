"""The live step of a language model as a task, so that preflight can plan it on a pod slice.

    python -m moshijax.preflight --config configs/moshi_live.py:batch=64 --topology v5e:2x4,v6e:2x4

Nothing is trained: the model is frozen, the state is that of the sessions, a step is a frame.
"""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from moshijax import shard
from moshijax.lm.generate import LiveState, Settings, init_state, step
from moshijax.lm.moshi import Moshi, cast
from moshijax.lm.rules import RULES
from moshijax.nn.transformer import unstack
from moshijax.train import settings
from moshijax.train.lm import frame_flops, model_config
from moshijax.train.task import Experiment


class LiveTask:
    """Generates one frame for every row.

    Args:
        config: `model`, `compute_dtype` and `batch_size`.
    """

    begin = None  # Nothing is initialised by data.

    def __init__(self, config: ConfigDict) -> None:
        self.rules = RULES
        self.model_config = model_config(config.model)
        self.dtype = settings.dtype(config.compute_dtype, "compute_dtype")
        self.rows = settings.whole(config.batch_size, "batch_size", 1)
        self.frozen = jax.eval_shape(self.make, jax.random.key(0))

    def make(self, key: jax.Array) -> Moshi:
        """A random model in the type that it runs in."""
        # Layer by layer: a scan over layers would copy the caches of all of them each frame.
        return unstack(cast(Moshi(self.model_config, rngs=nnx.Rngs(key)), self.dtype))

    def init(self, key: jax.Array) -> LiveState:
        """The state of all sessions before their first frame."""
        return init_state(self.make(key), self.rows)

    def update(
        self,
        kind: str,
        state: LiveState,
        frozen: Moshi,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
    ) -> tuple[LiveState, dict[str, jax.Array]]:
        """One frame of every session; `batch` holds the users' `codes` [B, K_user]."""
        del kind
        frame, state = step(frozen, state, batch["codes"], Settings(), key)
        return state, {"codes": frame.codes}


def make(config: ConfigDict, mesh: shard.AnyMesh) -> Experiment:
    """What is planned: the task, and the shapes of what the users say in a frame."""
    del mesh  # Nothing is read.
    task = LiveTask(config)
    rows, codebooks = config.batch_size, task.model_config.num_user_codebooks
    # A session so long that its window is full: a query sees all of it.
    flops = rows * frame_flops(task.model_config, 100 * task.model_config.context)
    return Experiment(
        task=task,
        batches={"frame": {"codes": jax.ShapeDtypeStruct((rows, codebooks), np.int32)}},
        unit="frames",
        counts={"frame": {"frames": rows}},
        model_flops=lambda _: flops,
    )
