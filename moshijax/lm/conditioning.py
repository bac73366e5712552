"""Conditions: known values or vectors as they come, added to each frame or attended to.

Where a condition is absent a learnt vector takes its place. Everything is float32, whatever the
model is (DSM, arXiv:2509.08753, for voices and guidance values).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from moshijax.lm.config import ConditionConfig, MoshiConfig
from moshijax.nn.linear import Linear
from moshijax.system.errors import UserError


class Values(NamedTuple):
    """What a table is asked for: the row of each batch row, and whether it is there."""

    rows: Int[Array, "B"]
    present: Bool[Array, "B"]


class Vectors(NamedTuple):
    """Vectors as they are, and which of them are there."""

    vectors: Float[Array, "B S C"]
    present: Bool[Array, "B S"]


Condition = Values | Vectors


class Conditions(NamedTuple):
    """Prepared conditions: what is added to each frame, and what is attended to."""

    added: Float[Array, "B 1 D"] | None
    source: Float[Array, "B S D"] | None


class Conditioner(nnx.Module):
    """A table of known values, or vectors as they come, projected to the model's width."""

    def __init__(self, config: ConditionConfig, dim: int, *, rngs: nnx.Rngs):
        rows = None if config.num_values is None else config.num_values + 1
        init = nnx.initializers.normal(1.0)
        self.table = None if rows is None else nnx.Param(init(rngs.params(), (rows, config.dim)))
        self.project = Linear(config.dim, dim, use_bias=False, rngs=rngs)
        self.absent = nnx.Param(0.2 * init(rngs.params(), (dim,)))

    def __call__(self, condition: Condition) -> Float[Array, "B S D"]:
        """Projects what is there; elsewhere it gives the learnt vector."""
        if isinstance(condition, Values):
            if self.table is None:
                raise ValueError("a condition of vectors was given values: give it vectors.")
            vectors = self.table[...][condition.rows][:, None]
            present = condition.present[:, None]
        else:
            vectors, present = condition
        absent = self.absent[...][None, None]
        return jnp.where(present[..., None], self.project(vectors), absent)


def read_values(config: ConditionConfig, values: Sequence[str | None]) -> Values:
    """Finds the rows of values by name or by hash; None is absent.

    Raises:
        UserError: a value that the condition does not know.
    """
    number = config.num_values or 0
    rows = []
    for value in values:
        if value is None:
            rows.append(number)
        elif config.values is None:
            rows.append(int(hashlib.sha256(value.encode("utf-8")).hexdigest(), 16) % number)
        elif value in config.values:
            rows.append(config.values.index(value))
        else:
            known = ", ".join(config.values)
            raise UserError(f"condition {config.name}: {value!r} is unknown; known are {known}.")
    present = np.array([value is not None for value in values])
    return Values(jnp.array(rows), jnp.asarray(present))


def sine_positions(length: int, dim: int) -> Float[Array, "S D"]:
    """Cosines, then sines, of positions at rates from 1 to 1 / 10,000."""
    half = dim // 2
    rates = np.exp(np.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = np.arange(length)[:, None] * rates[None]
    return jnp.asarray(np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32))


class Conditioners(nnx.Module):
    """All the conditioners of a model."""

    def __init__(self, config: MoshiConfig, *, rngs: nnx.Rngs):
        self.parts = nnx.Dict(
            {c.name: Conditioner(c, config.dim, rngs=rngs) for c in config.conditions}
        )
        self.config = config

    def __call__(self, conditions: Mapping[str, Condition]) -> Conditions:
        """Projects all conditions; sums the added ones, concatenates those attended to.

        Raises:
            ValueError: a condition is missing or surplus, or an added one spans several frames.
        """
        wanted = {c.name for c in self.config.conditions}
        if set(conditions) != wanted:
            raise ValueError(
                f"conditions: {sorted(conditions)} given, the model has {sorted(wanted)}: "
                "give those."
            )
        added, sources = [], []
        for own in self.config.conditions:
            y = self.parts[own.name](conditions[own.name])
            if own.fuse == "cross":
                sources.append(y)
            elif y.shape[1] == 1:
                added.append(y)
            else:
                raise ValueError(
                    f"condition {own.name}: {y.shape[1]} vectors cannot be added to each "
                    "frame: give one."
                )
        source = jnp.concatenate(sources, axis=1) if sources else None
        if source is not None and self.config.positioned_sources:
            source = source + sine_positions(*source.shape[1:])[None]
        return Conditions(sum(added[1:], added[0]) if added else None, source)
