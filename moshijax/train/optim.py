"""Optimizers, weight decay, rates and freezing, each a table over parameter names.

The update is `-schedule(t) * (learning_rate * rate * direction + weight_decay * decay * w)`:
decay follows the schedule but not the learning rate, as the published distillation runs
have it. AdamW's `lambda` is therefore `weight_decay / learning_rate`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.shard import match_one
from moshijax.system.errors import UserError
from moshijax.train import settings


Model = TypeVar("Model")
Rows = TypeVar("Rows")
Weights = TypeVar("Weights")
Total = TypeVar("Total")
Metrics = dict[str, jax.Array]
Schedule = Callable[[jax.Array | int], jax.Array]  # Of updates done so far.

KINDS = {
    "adam": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
    "momentum": optax.trace,
    "rmsprop": optax.scale_by_rms,
    "adafactor": optax.scale_by_factored_rms,
}
# Keywords for which optax has no default.
USUAL = {"momentum": {"decay": 0.9}}


def _cosine(t: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.cos(jnp.pi * t))


SHAPES = {
    "cosine": _cosine,
    "linear": lambda t: 1 - t,
    "quadratic": lambda t: (1 - t) ** 2,
    "constant": jnp.ones_like,
}


def make_schedule(
    shape: str, num_steps: int, warmup_steps: int, key: str = "optimizer"
) -> Schedule:
    """A factor in [0, 1]: linear warm-up, then the named shape down to its end.

    Args:
        shape: one of `SHAPES`.
        num_steps: of the whole run.
        warmup_steps: the first of them.
        key: the optimizer's in the config, for the error.

    Raises:
        UserError: an unknown shape, or a warm-up that leaves nothing of the run.
    """
    if shape not in SHAPES:
        raise UserError(f"{key}.schedule: {shape!r} is unknown, take one of {list(SHAPES)}.")
    if not 0 <= warmup_steps < num_steps:
        raise UserError(
            f"{key}.warmup_steps: {warmup_steps} steps of warm-up do not fit a run of "
            f"{num_steps} steps: shorten the warm-up or lengthen the run."
        )

    def schedule(count: jax.Array | int) -> jax.Array:
        warm = jnp.minimum(1.0, (count + 1) / max(warmup_steps, 1))
        t = jnp.clip((count - warmup_steps) / max(num_steps - warmup_steps, 1), 0.0, 1.0)
        return jnp.where(count < warmup_steps, warm, SHAPES[shape](t))

    return schedule


class OptimizerState(NamedTuple):
    """The number of updates done so far, and the moments of the gradients."""

    count: jax.Array
    moments: optax.OptState


class Optimizer(NamedTuple):
    """Pure functions over a model: `init(model)` and `update(grads, state, model)`."""

    transform: optax.GradientTransformation
    frozen: frozenset[str]
    schedule: Schedule
    learning_rate: float

    def trained(self, model: PyTree[jax.Array]) -> dict[str, jax.Array]:
        """The parameters that change, by name."""
        return {n: p for n, p in named_leaves(model).items() if n not in self.frozen}

    def init(self, model: PyTree[jax.Array]) -> OptimizerState:
        """Counter and moments of the parameters that are trained."""
        return OptimizerState(jnp.zeros((), jnp.int32), self.transform.init(self.trained(model)))

    @jax.named_scope("optimizer")
    def update(
        self, grads: Model, state: OptimizerState, model: Model
    ) -> tuple[Model, OptimizerState, Metrics]:
        """One step; also returns the norms of gradients and updates, and the learning rate."""
        gradients, params = self.trained(grads), self.trained(model)
        factor = self.schedule(state.count)
        steps, moments = self.transform.update(gradients, state.moments, params)
        updates = jax.tree.map(lambda step: factor * step, steps)
        changed: PyTree[jax.Array] = optax.apply_updates(params, updates)
        metrics: PyTree[jax.Array] = {
            "grad_norm": optax.tree.norm(gradients),
            "update_norm": optax.tree.norm(updates),
            "learning_rate": self.learning_rate * factor,
        }
        model = with_leaves(model, named_leaves(model) | changed)
        return model, OptimizerState(state.count + 1, moments), metrics


def make(
    config: ConfigDict,
    num_steps: int,
    model: PyTree[jax.Array | jax.ShapeDtypeStruct],
    key: str = "optimizer",
) -> Optimizer:
    """The optimizer of `config` for the parameters of `model` (arrays or shapes).

    Keys of `config`: `learning_rate`, `schedule`, `warmup_steps`, `clip_norm` (None or 0: none),
    `weight_decay`, `options` (keywords by kind), and four tables over parameter names, in each of
    which every parameter matches exactly once: `kinds` (optimizer), `decay` and `rates`
    (factors of weight decay and learning rate), `frozen` (True where nothing changes).

    Raises:
        UserError: a parameter that a table does not match once, an unknown kind, or a number that
            no run can have.
    """
    _check(config, key)
    names = list(named_leaves(model))
    tables = {}
    for what in ("kinds", "decay", "rates", "frozen"):
        rules = _rules(config, what, key)
        tables[what] = {n: match_one(n, rules, f"{key}.{what}") for n in names}
    kinds, rates = tables["kinds"], tables["rates"]
    unknown = sorted(set(kinds.values()) - set(KINDS))
    if unknown:
        raise UserError(f"{key}.kinds: {unknown} is unknown, take one of {list(KINDS)}.")
    frozen = frozenset(n for n in names if tables["frozen"][n])
    transforms = {kind: _transform(config, kind, key) for kind in set(kinds.values())}
    steps = {n: config.learning_rate * rates[n] for n in names}
    decay = {n: config.weight_decay * tables["decay"][n] for n in names}

    def step_and_decay(updates: PyTree[jax.Array], params: PyTree[jax.Array]) -> PyTree[jax.Array]:
        return {n: -steps[n] * u - decay[n] * params[n] for n, u in updates.items()}

    schedule = make_schedule(config.schedule, num_steps, config.warmup_steps, key)
    transform = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.partition(transforms, lambda params: {n: kinds[n] for n in params}),
        optax.stateless(step_and_decay),
    )
    return Optimizer(transform, frozen, schedule, config.learning_rate)


def make_all(
    configs: ConfigDict, num_steps: int, model: PyTree[jax.Array | jax.ShapeDtypeStruct]
) -> dict[str, Optimizer]:
    """The optimizers of a config by name, each with a count and moments of its own."""
    return {n: make(c, num_steps, model, f"optimizers.{n}") for n, c in configs.items()}


def name_for(kind: str, optimizers: Mapping[str, Optimizer]) -> str:
    """The optimizer of a kind of batch: the one that is called like it, else the only one.

    Raises:
        UserError: none is called like it, and there are several.
    """
    if kind in optimizers:
        return kind
    if len(optimizers) == 1:
        return next(iter(optimizers))
    raise UserError(
        f"config.optimizers: {sorted(optimizers)} has none for batches of the kind {kind!r}: name "
        "one after each kind, or have one for all."
    )


def _rules(config: ConfigDict, table: str, key: str) -> list[tuple[str, Any]]:
    """The rows of a table; raises UserError for what is no row, or for a wrong regex."""
    found, rows = config[table], []
    for row in found if isinstance(found, list | tuple) else [found]:
        # A config that was read from JSON has lists in place of tuples.
        if not isinstance(row, list | tuple) or len(row) != 2 or not isinstance(row[0], str):
            raise settings.refusal(row, f"{key}.{table}", "rows of a regex and its value")
        try:
            re.compile(row[0])
        except re.error as error:
            raise UserError(
                f"config.{key}.{table}: {row[0]!r} is no regular expression ({error}): correct it, "
                r"as in 'temporal/.*'; a literal character such as ( is written \(."
            ) from error
        rows.append((row[0], row[1]))
    return rows


def _check(config: ConfigDict, key: str) -> None:
    """Raises UserError for a number that no run can have."""
    most = {"learning_rate": settings.MAX_LEARNING_RATE, "weight_decay": 1.0}
    for name, bound in most.items():
        settings.number(config[name], f"{key}.{name}", bound)
    settings.whole(config.warmup_steps, f"{key}.warmup_steps", 0)
    if config.clip_norm is not None:
        settings.number(config.clip_norm, f"{key}.clip_norm")
    for table in ("decay", "rates"):
        for regex, factor in _rules(config, table, key):
            settings.number(factor, f"{key}.{table}.{regex}")
    for kind, options in config.options.items():
        settings.one_of(kind, f"{key}.options", KINDS)
        for name, found in options.items():
            if isinstance(found, int | float):
                settings.number(float(found), f"{key}.options.{kind}.{name}")


def _transform(config: ConfigDict, kind: str, key: str) -> optax.GradientTransformation:
    """The optimizer of a kind with its keywords."""
    options = config.options.to_dict().get(kind, {})
    try:
        return KINDS[kind](**USUAL.get(kind, {}) | options)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.{key}.options.{kind}: {options} is refused ({error}): give the keywords "
            f"of optax.{KINDS[kind].__name__}."
        ) from error


def accumulate(
    loss: Callable[[Model, Rows, Weights], tuple[jax.Array, Metrics]],
    weigh: Callable[[Rows], Weights],
    model: Model,
    batch: Rows,
    parts: int,
) -> tuple[Model, Metrics]:
    """Gradients and metrics of a batch, computed in pieces, whose number changes neither.

    A loss is a sum over rows divided by a sum of their weights. What it is divided by is known
    from the whole batch, so that the shares of the pieces add up, however uneven they are.

    Args:
        loss: of a model, rows and the weights of all rows: the rows' share of the loss, and of
            the metrics.
        weigh: the weights of rows.
        model: what the gradients are of.
        batch: arrays of rows; row i is in piece i % parts, so that every device has a share of
            each piece among the rows that it holds.
        parts: how many pieces; they divide the rows.
    """
    weights = weigh(batch)

    def share(model: Model, rows: Rows) -> tuple[jax.Array, Metrics]:
        return loss(model, rows, weights)

    gradient = jax.grad(jax.named_scope("loss")(share), has_aux=True)
    if parts == 1:
        return gradient(model, batch)

    def piece(total: Total, rows: Rows) -> tuple[Total, None]:
        return jax.tree.map(jnp.add, total, gradient(model, rows)), None

    def deal(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    pieces = jax.tree.map(deal, batch)
    first = jax.tree.map(lambda x: x[0], pieces)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient, model, first)
    )
    return jax.lax.scan(piece, zeros, pieces)[0]
