"""How close a student comes to its teacher, and to the labels, over a set of examples.

Batches give sums that are added, and `summarize` divides once at the end, so a mean over a set does
not depend on its batches. Examples outside the mask (padding) count
nowhere, even where they are NaN.

`summarize` returns, each a mean over the examples:

    accuracy, accuracy_top5      the student against the labels
    cross_entropy                of the student against the labels
    ece                          expected calibration error of the student
    teacher_accuracy             the teacher against the labels
    teacher_cross_entropy, teacher_ece    of the teacher
    kl, reverse_kl               KL(teacher || student), KL(student || teacher)
    agreement                    both have the same first choice
    agreement_top5               the teacher's first choice is among the student's first 5
    reverse_agreement_top5       the student's first choice is among the teacher's first 5
    euclidean                    distance of the logits
    entropy, teacher_entropy     of the student's and the teacher's distribution
    count                        examples

Those of the labels are absent where there are none (mixed inputs), those of the teacher
where there is none, those of the first 5 where there are no more classes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from distill import distances


# Guo et al. 2017 (arXiv:1706.04599), section 3.
CALIBRATION_BINS = 15
TOP = 5

Sums = dict[str, Array]
Mask = Bool[Array, "B"] | Float[Array, "B"]


def fidelity_sums(
    student_logits: Float[Array, "B V"],
    teacher_logits: Float[Array, "B V"] | None,
    labels: Int[Array, "B"] | None,
    mask: Mask,
) -> Sums:
    """Sums over the examples in the mask; add those of several batches key by key."""
    mask = mask > 0
    student_logits = _real(student_logits, mask)
    values = {"count": jnp.ones(mask.shape), "entropy": distances.entropy(student_logits)}
    if labels is not None:
        labels = jnp.where(mask, labels, 0)
        values |= _label_values(student_logits, labels)
        if student_logits.shape[1] > TOP:
            values["accuracy_top5"] = distances.in_top(student_logits, labels, TOP)
    if teacher_logits is not None:
        teacher_logits = _real(teacher_logits, mask)
        values["teacher_entropy"] = distances.entropy(teacher_logits)
        values |= _distance_values(student_logits, teacher_logits)
        if labels is not None:
            teacher = _label_values(teacher_logits, labels)
            values |= {f"teacher_{name}": value for name, value in teacher.items()}
    return {name: _masked_sum(value, mask) for name, value in values.items()}


def summarize(sums: Mapping[str, Array | np.ndarray]) -> dict[str, float]:
    """The means, by the names above, of sums over a whole set."""
    sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
    count = float(sums["count"])
    if not count:
        raise ValueError("no example to summarize: the mask left out all of them")
    summary = {name: float(value) / count for name, value in sums.items() if not value.ndim}
    for name in [name for name in sums if name.endswith("calibration")]:
        # |accuracy - confidence| of a bin, weighted by its share of the examples.
        gap = np.abs(sums[name][:, 1] - sums[name][:, 2]).sum()
        summary[name.replace("calibration", "ece")] = float(gap) / count
    return summary | {"count": count}


def cka_sums(
    student_features: Float[Array, "B D"],
    teacher_features: Float[Array, "B E"],
    mask: Mask,
) -> Sums:
    """What `cka` needs of a batch; add those of several batches key by key."""
    mask = mask > 0
    student, teacher = _real(student_features, mask), _real(teacher_features, mask)
    products = {"student": (student, student), "teacher": (teacher, teacher)}
    products["cross"] = student, teacher
    sums = {name: _product(left, right) for name, (left, right) in products.items()}
    sums |= {"student_sum": jnp.sum(student, axis=0), "teacher_sum": jnp.sum(teacher, axis=0)}
    return sums | {"count": jnp.sum(mask, dtype=jnp.float32)}


def cka(sums: Mapping[str, Array | np.ndarray]) -> float:
    """Linear centred kernel alignment, from 0 to 1 (Kornblith et al. 2019, arXiv:1905.00414).

    Equal to 1 for features that differ by a rotation and a scale; NaN where a model gives
    the same features to every example.
    """
    sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
    student = _centred_norm(sums, "student", "student_sum", "student_sum")
    teacher = _centred_norm(sums, "teacher", "teacher_sum", "teacher_sum")
    if not student or not teacher:
        return float("nan")
    return _centred_norm(sums, "cross", "student_sum", "teacher_sum") ** 2 / (student * teacher)


def _centred_norm(sums: Mapping[str, np.ndarray], product: str, left: str, right: str) -> float:
    """The Frobenius norm of a product of centred features; 0 if it is a rounding error."""
    outer = np.outer(sums[left], sums[right]) / sums["count"]
    norm = float(np.linalg.norm(sums[product] - outer))
    return norm if norm > 1e-6 * np.linalg.norm(outer) else 0.0


def _label_values(logits: Array, labels: Array) -> Sums:
    correct = distances.in_top(logits, labels, 1)
    return {
        "accuracy": correct,
        "cross_entropy": distances.cross_entropy(logits, labels),
        "calibration": _calibration(logits, correct),
    }


def _distance_values(student_logits: Array, teacher_logits: Array) -> Sums:
    both = student_logits, teacher_logits
    values = {
        "kl": distances.kl(*both, entropy_clip=0.0),
        "reverse_kl": distances.reverse_kl(*both),
        "euclidean": distances.euclidean(*both),
        "agreement": distances.agreement(*both),
    }
    if student_logits.shape[1] > TOP:
        values["agreement_top5"] = distances.agreement(*both, k=TOP)
        values["reverse_agreement_top5"] = distances.agreement(*reversed(both), k=TOP)
    return values


def _calibration(logits: Array, correct: Bool[Array, "B"]) -> Float[Array, "B bins 3"]:
    """Count, confidence and hit of each example, one-hot over bins; bin m is (m, m + 1] / bins."""
    confidence = jnp.exp(jnp.max(distances.log_probabilities(logits), axis=-1))
    bins = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    rows = jnp.stack([jnp.ones_like(confidence), confidence, correct], axis=-1)
    return jax.nn.one_hot(bins.astype(jnp.int32), CALIBRATION_BINS)[..., None] * rows[:, None]


def _real(rows: Array, mask: Array) -> Array:
    """Rows in f32, with zeros for those outside the mask."""
    return jnp.where(mask[:, None], rows.astype(jnp.float32), 0.0)


def _masked_sum(values: Array, mask: Array) -> Array:
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
    return jnp.sum(jnp.where(mask, values, 0), axis=0, dtype=jnp.float32)


def _product(left: Array, right: Array) -> Array:
    # Centring subtracts numbers of like size: the products must be full f32.
    return jnp.matmul(left.T, right, precision=jax.lax.Precision.HIGHEST)
