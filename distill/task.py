"""The distillation task: one student, frozen teachers, one distance, one view for all.

Beyer et al. 2022 (arXiv:2106.05237), section 3: teachers see exactly what the student sees,
mixup included, and the loss is their distance alone, without labels.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from distill import distances, fidelity
from distill.vision import views
from moshijax.errors import UserError
from moshijax.train import optim


LABELS = "labels"  # The distance of a student that learns without a teacher.
MIXED = 0.5  # Own share of an evaluation image when it is mixed: as far off the data as it goes.

Classifier = Callable[[jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class State(NamedTuple):
    """A student, its optimizers' states by name, and its average if it has one."""

    model: Any
    optimizers: Any
    average: Any


class DistillTask:
    """Teaches a student that is made by `make(key)`.

    Args:
        config: `loss`, `optimizers`, `average`, `accumulate` and `num_steps` of an experiment.
        make: a random student.
        teachers: classifiers by name; they are frozen.
        keys: which array of a training batch's images each model sees.
        eval_keys: the same for evaluation batches.
        labelled: whether the training images' labels are of the student's classes.
    """

    begin = None  # Nothing is initialised by data.

    def __init__(
        self,
        config: ConfigDict,
        make: Callable[[jax.Array], Any],
        teachers: Mapping[str, Any],
        keys: Mapping[str, str],
        eval_keys: Mapping[str, str],
        labelled: bool = True,
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
        self.make = make
        self.keys, self.eval_keys = dict(keys), dict(eval_keys)
        self.frozen = dict(teachers)
        self.labelled = labelled
        shapes = jax.eval_shape(make, jax.random.key(0))
        self.optimizers = optim.make_all(config.optimizers, config.num_steps, shapes)
        self.decay = optim.average_decay(config.average)

    def init(self, key: jax.Array) -> State:
        """A new student."""
        model = self.make(key)
        states = {name: one.init(model) for name, one in self.optimizers.items()}
        return State(model, states, optim.begin_average(model, self.decay))

    @jax.named_scope("teachers")
    def teacher_logits(self, teachers: Mapping[str, Classifier], images: Any) -> dict[str, Any]:
        """What each teacher says of its view (float images by view key)."""
        return {name: teacher(images[self.keys[name]])[0] for name, teacher in teachers.items()}

    def update(
        self, kind: str, state: State, frozen: Any, batch: Any, key: jax.Array
    ) -> tuple[State, Any]:
        """One step on a batch of `images`, `label`, `mix` and, if cached, `teacher_logits`."""
        del key  # The plan of the views holds all randomness.
        rows = {
            "images": mixed_images(batch["images"], batch["mix"]),
            "label": batch["label"],
            "partner": jnp.roll(batch["label"], 1),
            "mix": jnp.broadcast_to(batch["mix"], batch["label"].shape),
        }
        if "teacher_logits" in batch:
            rows["teacher_logits"] = batch["teacher_logits"]

        def loss(model: Classifier, rows: Any, count: int) -> tuple[jax.Array, dict]:
            logits, _ = model(rows["images"][self.keys["student"]])
            return self.loss(frozen, logits, rows, count)

        grads, metrics = optim.accumulate(loss, _count, state.model, rows, self.parts)
        name = optim.name_for(kind, self.optimizers)
        model, own, norms = self.optimizers[name].update(grads, state.optimizers[name], state.model)
        average = optim.follow(state.average, model, self.decay)
        return State(model, state.optimizers | {name: own}, average), metrics | norms

    def loss(self, frozen: Any, logits: jax.Array, rows: Any, count: int) -> tuple[jax.Array, dict]:
        """The share of these rows in the mean distance of `count`, and what is logged beside it."""
        config = self.loss_config

        def share(values: jax.Array) -> jax.Array:
            return jnp.sum(values) / count

        metrics = {"entropy": share(_entropies(logits))}
        if self.labelled:
            own = distances.cross_entropy(logits, rows["label"], config.label_smoothing)
            other = distances.cross_entropy(logits, rows["partner"], config.label_smoothing)
            metrics["label_loss"] = share(rows["mix"] * own + (1 - rows["mix"]) * other)
        if config.distance == LABELS:
            return metrics["label_loss"], metrics | {"loss": metrics["label_loss"]}
        taught = rows.get("teacher_logits")
        if taught is None:
            taught = jax.lax.stop_gradient(self.teacher_logits(frozen, rows["images"]))
        value = share(
            distances.distance_to_teachers(
                distances.DISTANCES[config.distance],
                logits,
                list(taught.values()),
                config.combine,
                temperature=config.temperature,
                **config.options.to_dict(),
            )
        )
        teacher = distances.combine(list(taught.values()), "logits")
        metrics["teacher_entropy"] = share(_entropies(teacher))
        return value, metrics | {"loss": value, "distance": value}

    def evaluate(self, state: State, frozen: Any, batch: Any) -> dict[str, Any]:
        """Sums of fidelity on clean images and, where there is a teacher, on mixed ones.

        An image is mixed with the row before it in its batch, so that what is measured on mixed
        images depends on the rows of a batch; all else is that of any batches.
        """
        images, mask = batch["images"], batch["mask"]
        share = jnp.full((), MIXED)
        sums = {"clean": self.sums(state, frozen, mixed_images(images, None), batch["label"], mask)}
        if frozen:
            # A mixed image counts only if both of its images do.
            both = mask * jnp.roll(mask, 1)
            sums["mixed"] = self.sums(state, frozen, mixed_images(images, share), None, both)
        return sums

    def sums(self, state: State, frozen: Any, images: Any, labels: Any, mask: Any) -> Any:
        """Sums of fidelity to the combined teachers on float images by view key."""
        logits, _ = optim.averaged(state)(images[self.eval_keys["student"]])
        taught = [teacher(images[self.eval_keys[n]])[0] for n, teacher in frozen.items()]
        kind = "probabilities" if self.loss_config.combine == "losses" else self.loss_config.combine
        teacher = distances.combine(taught, kind) if taught else None
        return fidelity.fidelity_sums(logits, teacher, labels, mask)

    def summarize(self, sums: Any) -> dict[str, float]:
        """Metrics of a whole set; those on mixed images begin with `mixed_`."""
        metrics = fidelity.summarize(sums["clean"])
        if "mixed" in sums and sums["mixed"]["count"]:  # Of a lone image there is no pair.
            mixed = fidelity.summarize(sums["mixed"])
            metrics |= {f"mixed_{name}": value for name, value in mixed.items()}
        return metrics


def _check_loss(config: ConfigDict) -> None:
    """Tries the loss on shapes alone: its functions know best what they take.

    Raises:
        UserError: an option that it has not, or a value that it refuses.
    """
    logits, labels = (
        jax.ShapeDtypeStruct((1, 2), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )

    def both(logits: jax.Array, labels: jax.Array) -> Any:
        matched = distances.distance_to_teachers(
            distances.DISTANCES.get(config.distance, distances.kl),
            logits,
            [logits],
            config.combine,
            temperature=config.temperature,
            **config.options.to_dict(),
        )
        return matched, distances.cross_entropy(logits, labels, config.label_smoothing)

    try:
        jax.eval_shape(both, logits, labels)
    except (TypeError, ValueError) as error:
        raise UserError(f"loss: {' '.join(str(error).split())}.") from error


@jax.named_scope("mixed_images")
def mixed_images(images: Mapping[str, jax.Array], share: jax.Array | None) -> dict[str, jax.Array]:
    """Bytes to [-1, 1], blended with the row before unless `share` is None; all views alike."""
    floats = {name: views.to_float(array) for name, array in images.items()}
    if share is None:
        return floats
    return {name: views.mix(array, share) for name, array in floats.items()}


def _count(rows: Any) -> int:
    return rows["label"].shape[0]


def _entropies(logits: jax.Array) -> jax.Array:
    logs = distances.log_probabilities(logits)
    return -jnp.sum(jnp.exp(logs) * logs, axis=-1)
