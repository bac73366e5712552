"""Function matching: a student, frozen teachers, a distance between their logits.

Beyer et al. 2022 (arXiv:2106.05237), section 3: teachers see exactly the view that the student
sees, and the loss is the distance to them alone, without labels. A `Matcher` knows the modality:
how a batch becomes a view, and a view becomes logits.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree
from ml_collections import ConfigDict

from distill import distances
from moshijax.shard import Rules
from moshijax.system.errors import UserError
from moshijax.train import optim
from moshijax.train.learner import Learner, State


LABELS = "labels"  # The distance of a student that learns without a teacher.
STUDENT = "student"  # The student's name beside those of the teachers.


class Head(NamedTuple):
    """The logits of one output stream, and the weight of each prediction in the loss."""

    logits: Float[Array, "*B V"]  # Rows of the batch come first.
    mask: Bool[Array, "*B"] | None = None  # False: left out of the loss; None: all count.
    weight: float | Float[Array, "*#B"] = 1.0


Heads = Mapping[str, Head]
Model = PyTree[jax.Array]
Shapes = PyTree[jax.ShapeDtypeStruct]
Teachers = Mapping[str, Model]
View = PyTree[jax.Array]  # Rows come first.
Totals = Mapping[str, float | jax.Array]  # Of the weights of a batch, by head.
Metrics = dict[str, jax.Array]


@runtime_checkable
class Matcher(Protocol):
    """What matching has to know of a modality."""

    def view(self, batch: PyTree[ArrayLike], key: jax.Array) -> View:
        """Makes the view that all models see of a whole batch: arrays whose first axis is rows.

        `key` is the step's, for augmentation on the device.
        """
        ...

    def logits(self, name: str, model: Model, view: View) -> Heads:
        """The heads of the student or of the teacher `name` for rows of a view.

        Every model has the same heads. Masks and weights depend on the view alone; those of
        the student's heads are used.
        """
        ...

    def label_losses(
        self, view: View, logits: Mapping[str, Float[Array, "*B V"]]
    ) -> Mapping[str, Float[Array, "*B"]]:
        """The loss of each prediction against its labels, for the heads that have any."""
        ...


class DistillTask:
    """Trains a student that is made by `make(key)`.

    The loss is the weighted mean of the distances over all unmasked predictions of all heads.

    Args:
        config: `loss`, `optimizers`, `average`, `accumulate` and `num_steps` of an experiment.
        matcher: makes views of batches, and logits of views.
        make: makes a student with random weights.
        rules: where the parameters of the student and of the teachers live on the mesh.
        teachers: models by name; they are frozen.
    """

    begin = None  # Nothing is initialised by data.

    def __init__(
        self,
        config: ConfigDict,
        matcher: Matcher,
        make: Callable[[jax.Array], Model],
        rules: Rules,
        teachers: Mapping[str, Model | Shapes],
    ) -> None:
        known = (LABELS, *distances.DISTANCES)
        if config.loss.distance not in known:
            raise UserError(f"loss.distance: {config.loss.distance!r} is unknown, take {known}.")
        if config.loss.distance != LABELS and not teachers:
            raise UserError(
                f"loss.distance: {config.loss.distance!r} needs a teacher: name one under "
                f"`teachers`, or take {LABELS!r}."
            )
        _check_loss(config.loss)
        self.loss_config = config.loss
        self.parts = config.accumulate
        self.matcher = matcher
        self.make = make
        self.rules = rules
        self.frozen = dict(teachers)
        shapes = jax.eval_shape(make, jax.random.key(0))
        self.learner = Learner(config, shapes)

    def init(self, key: jax.Array) -> State:
        """A new student, and its optimizers' first states."""
        return self.learner.begin(self.make(key))

    def update(
        self, kind: str, state: State, frozen: Teachers, batch: PyTree[ArrayLike], key: jax.Array
    ) -> tuple[State, Metrics]:
        """One step on a batch that the matcher understands."""
        grads, metrics = self.gradients(state.model, frozen, self.matcher.view(batch, key))
        state, norms = self.learner.update(kind, state, grads)
        return state, metrics | norms

    def gradients(self, model: Model, frozen: Teachers, view: View) -> tuple[Model, Metrics]:
        """Gradients and metrics of a view; accumulation over pieces changes neither."""

        def loss(model: Model, rows: View, totals: Totals) -> tuple[jax.Array, Metrics]:
            return self.loss(frozen, self.matcher.logits(STUDENT, model, rows), rows, totals)

        def weigh(rows: View) -> Totals:
            # Only the shapes of these logits are used, so XLA removes the forward pass.
            heads = self.matcher.logits(STUDENT, model, rows)
            return {name: _total(head) for name, head in heads.items()}

        return optim.accumulate(loss, weigh, model, view, self.parts)

    def loss(
        self, frozen: Teachers, heads: Heads, rows: View, totals: Totals
    ) -> tuple[jax.Array, Metrics]:
        """The share of these rows in the loss and in the metrics.

        `rows` are a piece of the view and `heads` the student's for it; `totals` are the sums of
        the weights over the whole batch, by head, by which sums over rows are divided.
        """

        def share(values: Mapping[str, jax.Array]) -> jax.Array:
            total = functools.reduce(operator.add, [totals[name] for name in values])
            sums = [_sum(value, heads[name]) for name, value in values.items()]
            return functools.reduce(operator.add, sums) / jnp.where(total > 0, total, 1.0)

        logits = {name: _counted(head.logits, head) for name, head in heads.items()}
        metrics = {"entropy": share({n: distances.entropy(one) for n, one in logits.items()})}
        labelled = self.matcher.label_losses(rows, logits)
        if labelled:
            metrics["label_loss"] = share(labelled)
        if self.loss_config.distance == LABELS:
            if not labelled:
                raise ValueError(f"distance {LABELS!r}: the matcher has no labels")
            return metrics["label_loss"], metrics | {"loss": metrics["label_loss"]}
        taught = self.taught(frozen, rows, heads)
        distance = distances.DISTANCES[self.loss_config.distance]
        values = {n: _distance(distance, self.loss_config, logits[n], taught[n]) for n in heads}
        means = {n: distances.combine(one, "logits") for n, one in taught.items()}
        metrics["teacher_entropy"] = share({n: distances.entropy(x) for n, x in means.items()})
        if len(heads) > 1:
            metrics |= {f"{name}_distance": share({name: values[name]}) for name in heads}
        value = share(values)
        return value, metrics | {"loss": value, "distance": value}

    @jax.named_scope("teachers")
    def taught(self, frozen: Teachers, rows: View, heads: Heads) -> dict[str, list[jax.Array]]:
        """The logits of all teachers, for each of the student's heads."""
        found = {name: self.matcher.logits(name, model, rows) for name, model in frozen.items()}
        for name, told in found.items():
            if set(told) != set(heads):
                raise ValueError(
                    f"teacher {name} has the heads {sorted(told)}, the student {sorted(heads)}"
                )
        return {
            name: [
                jax.lax.stop_gradient(_counted(told[name].logits, head)) for told in found.values()
            ]
            for name, head in heads.items()
        }


def _distance(
    distance: distances.Distance, config: ConfigDict, logits: jax.Array, taught: list[jax.Array]
) -> jax.Array:
    return distances.distance_to_teachers(
        distance,
        logits,
        taught,
        config.combine,
        temperature=config.temperature,
        **config.options.to_dict(),
    )


def _check_loss(config: ConfigDict) -> None:
    """Evaluates the distance on shapes, so that it checks its own options.

    Raises:
        UserError: an option that the distance does not have, or a value that it refuses.
    """
    distance = distances.DISTANCES.get(config.distance, distances.kl)
    logits = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    try:
        jax.eval_shape(lambda x: _distance(distance, config, x, [x]), logits)
    except (TypeError, ValueError) as error:
        raise UserError(f"loss: {' '.join(str(error).split())}.") from error


def _counted(logits: jax.Array, head: Head) -> jax.Array:
    """Logits with zeros where masked: neither value nor gradient is NaN there."""
    return logits if head.mask is None else jnp.where(head.mask[..., None], logits, 0.0)


def _sum(values: jax.Array, head: Head) -> jax.Array:
    """The weighted sum of the unmasked values."""
    values = values if head.mask is None else jnp.where(head.mask, values, 0.0)
    return jnp.sum(head.weight * values)


def _total(head: Head) -> float | jax.Array:
    """The sum of the weights of the unmasked predictions."""
    shape = head.logits.shape[:-1]
    if head.mask is None and isinstance(head.weight, int | float):
        return float(head.weight) * math.prod(shape)
    return _sum(jnp.ones(shape), head)
