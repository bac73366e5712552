"""Distances between two models' logits, for training and for measuring.

Beyer et al. 2022 (arXiv:2106.05237) train on `kl` alone; the others are those it is
compared with. All take both logits divided by a temperature and are scaled back by the
power of it that keeps the gradient's size, so that temperature and learning rate are
separate choices. A distance is a value per example, in f32, summed over classes; the mean
over a batch, and the mask of a padded one, are the caller's.

A class whose logit is -inf is excluded: no distance and no gradient is NaN because of it.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


# The log-probability of an excluded class: exp(EXCLUDED) is 0 in f32, the penalty for giving it
# mass is large, and, unlike -inf, no product or difference with it is NaN.
EXCLUDED = -1e4

Logits = Float[Array, "*B V"]
Values = Float[Array, "*B"]
Temperature = float | int | Float[Array, ""]
Distance = Callable[..., Array]


def log_probabilities(logits: Logits, temperature: Temperature = 1.0) -> Logits:
    """The log-softmax of logits / temperature, finite for excluded and for huge logits."""
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature is {temperature}; a distance needs one above 0")
    logits = logits.astype(jnp.float32)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    # The maximum is subtracted before the division: a temperature under 1 could overflow.
    shifted = (logits - jnp.where(jnp.isneginf(top), 0.0, top)) / temperature
    return jax.nn.log_softmax(jnp.where(jnp.isneginf(shifted), EXCLUDED, shifted))


def kl(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Temperature = 1.0,
    entropy_clip: float | int = 1e-8,
) -> Values:
    """KL(teacher || student) times temperature squared: the paper's distance.

    The teacher's probabilities are clipped inside the logarithm of its own entropy only, as
    in the paper's runs; that moves the value by less than 4e-9 a class and no gradient of
    the student. A clip of 0 gives the exact value.
    """
    student = log_probabilities(student_logits, temperature)
    teacher = log_probabilities(teacher_logits, temperature)
    clip = math.log(entropy_clip) if entropy_clip else -math.inf
    return temperature**2 * jnp.sum(jnp.exp(teacher) * (jnp.maximum(teacher, clip) - student), -1)


def reverse_kl(
    student_logits: Logits, teacher_logits: Logits, *, temperature: Temperature = 1.0
) -> Values:
    """KL(student || teacher) times temperature squared."""
    return kl(teacher_logits, student_logits, temperature=temperature, entropy_clip=0.0)


def jsd(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Temperature = 1.0,
    beta: float | int = 0.5,
) -> Values:
    """The generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m).

    p is the teacher, q the student, m = beta p + (1 - beta) q (Agarwal et al. 2023,
    arXiv:2306.13649, equation 1). It vanishes at both ends, where the limits of
    jsd / (beta (1 - beta)) are returned: `kl` at 0 and `reverse_kl` at 1.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; jsd needs one from 0 (kl) to 1 (reverse_kl)")
    if beta in (0, 1):
        end = reverse_kl if beta else kl
        return end(student_logits, teacher_logits, temperature=temperature)
    student = log_probabilities(student_logits, temperature)
    teacher = log_probabilities(teacher_logits, temperature)
    middle = _log_mix(teacher, student, beta)
    parts = beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)
    return temperature**2 * parts


def skew_kl(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Temperature = 1.0,
    skew: float | int = 0.1,
) -> Values:
    """KL(teacher || skew teacher + (1 - skew) student) (Ko et al. 2024, arXiv:2402.03898)."""
    if not 0 <= skew < 1:
        raise ValueError(f"skew is {skew}; it needs one from 0 (plain KL) to below 1")
    student = log_probabilities(student_logits, temperature)
    teacher = log_probabilities(teacher_logits, temperature)
    mixed = _log_mix(teacher, student, skew) if skew else student
    return temperature**2 * _kl(teacher, mixed)


def skew_reverse_kl(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Temperature = 1.0,
    skew: float | int = 0.1,
) -> Values:
    """KL(student || skew student + (1 - skew) teacher)."""
    return skew_kl(teacher_logits, student_logits, temperature=temperature, skew=skew)


def total_variation(
    student_logits: Logits, teacher_logits: Logits, *, temperature: Temperature = 1.0
) -> Values:
    """Half the absolute difference of the probabilities, times temperature."""
    student = jnp.exp(log_probabilities(student_logits, temperature))
    teacher = jnp.exp(log_probabilities(teacher_logits, temperature))
    return temperature * 0.5 * jnp.sum(jnp.abs(teacher - student), axis=-1)


def hard(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: Temperature = 1.0,
    smoothing: float | int = 0.0,
) -> Values:
    """Cross entropy of the student against the teacher's first choice, times temperature."""
    targets = _targets(jnp.argmax(teacher_logits, axis=-1), student_logits, smoothing)
    student = log_probabilities(student_logits, temperature)
    return -temperature * jnp.sum(targets * student, axis=-1)


def l2(student_logits: Logits, teacher_logits: Logits, *, temperature: Temperature = 1.0) -> Values:
    """The squared Euclidean distance of the logits themselves.

    Temperature is here for the common signature: dividing and scaling back cancel.
    """
    del temperature
    return _squared(student_logits, teacher_logits, student_logits, teacher_logits)


def euclidean(
    student_logits: Logits, teacher_logits: Logits, *, temperature: Temperature = 1.0
) -> Values:
    """The Euclidean distance of the logits themselves; temperature cancels as in `l2`."""
    return _root(l2(student_logits, teacher_logits, temperature=temperature))


def logsoftmax_euclidean(
    student_logits: Logits, teacher_logits: Logits, *, temperature: Temperature = 1.0
) -> Values:
    """The Euclidean distance of the log-probabilities, times temperature."""
    student = log_probabilities(student_logits, temperature)
    teacher = log_probabilities(teacher_logits, temperature)
    return temperature * _root(_squared(student, teacher, student_logits, teacher_logits))


DISTANCES: dict[str, Distance] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "hard": hard,
    "euclidean": euclidean,
    "l2": l2,
    "logsoftmax_euclidean": logsoftmax_euclidean,
}


def agreement(student_logits: Logits, teacher_logits: Logits, *, k: int = 1) -> Values:
    """1 where the teacher's first choice is among the student's first k; has no gradient."""
    return in_top(student_logits, jnp.argmax(teacher_logits, axis=-1), k).astype(jnp.float32)


def in_top(logits: Logits, labels: Int[Array, "*B"], k: int) -> Bool[Array, "*B"]:
    """Whether the label is among the k highest logits."""
    if k < 1:
        raise ValueError(f"k is {k}; at least the first choice counts")
    labels = labels[..., None]
    chosen = jnp.take_along_axis(logits, labels, axis=-1)
    # The first of equal logits wins, as in argmax: with a head of zeros every class is
    # equal, and not every label is right. Negated, so that NaN never counts as a hit.
    before = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < labels
    ahead = ~(logits <= chosen) | ((logits == chosen) & before)
    return jnp.sum(ahead, axis=-1) < k


def entropy(logits: Logits) -> Values:
    """The entropy of the distribution that the logits stand for."""
    logs = log_probabilities(logits)
    return -jnp.sum(jnp.exp(logs) * logs, axis=-1)


def cross_entropy(
    logits: Logits, labels: Int[Array, "*B"] | Logits, smoothing: float | int = 0.0
) -> Values:
    """Cross entropy against class numbers, or against the distributions mixup makes of them.

    A class number that does not exist gives NaN, and no gradient.
    """
    targets = _targets(labels, logits, smoothing)
    loss = -jnp.sum(targets * log_probabilities(logits), axis=-1)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return loss
    return jnp.where((labels >= 0) & (labels < logits.shape[-1]), loss, jnp.nan)


def combine(
    teacher_logits: Sequence[Logits], kind: str, *, temperature: Temperature = 1.0
) -> Logits:
    """Several teachers' logits as one: of their mean "logits" or mean "probabilities".

    The paper's ensembles average logits. Probabilities are meant at the temperature: the
    result divided by it is the logarithm of their mean.
    """
    stacked = jnp.stack([logits.astype(jnp.float32) for logits in teacher_logits])
    if kind == "logits":
        return jnp.mean(stacked, axis=0)
    if kind == "probabilities":
        logs = jax.nn.logsumexp(log_probabilities(stacked, temperature), axis=0)
        mean = temperature * (logs - math.log(len(teacher_logits)))
        # What every teacher excludes stays excluded.
        return jnp.where(jnp.all(jnp.isneginf(stacked), axis=0), -jnp.inf, mean)
    raise ValueError(
        f"cannot combine teachers by {kind!r}; use 'logits', 'probabilities' or, of their "
        "distances, 'losses'"
    )


def distance_to_teachers(
    distance: Distance,
    student_logits: Logits,
    teacher_logits: Sequence[Logits],
    kind: str = "logits",
    *,
    temperature: Temperature = 1.0,
    **options: float | int,
) -> Values:
    """The distance to several teachers, joined as in `combine`; options are the distance's.

    "losses" sums one distance per teacher; for `kl` that is the gradient of "probabilities"
    times the number of teachers.
    """
    measure = functools.partial(distance, student_logits, temperature=temperature, **options)
    if kind == "losses":
        return jnp.sum(jnp.stack([measure(teacher) for teacher in teacher_logits]), axis=0)
    return measure(combine(teacher_logits, kind, temperature=temperature))


def _targets(labels: Array, logits: Array, smoothing: float | int) -> Array:
    """Target distributions; smoothing spreads its share evenly over the classes in use."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; it needs one from 0 (none) to below 1")
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    used = ~jnp.isneginf(logits)
    uniform = used / jnp.sum(used, axis=-1, keepdims=True)
    return (1 - smoothing) * labels.astype(jnp.float32) + smoothing * uniform


def _kl(p: Array, q: Array) -> Array:
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def _log_mix(p: Array, q: Array, share: float | int) -> Array:
    """log(share exp(p) + (1 - share) exp(q))."""
    return jnp.logaddexp(p + math.log(share), q + math.log(1 - share))


def _squared(student: Array, teacher: Array, student_logits: Array, teacher_logits: Array) -> Array:
    """The squared distance over the classes that neither model excludes."""
    excluded = jnp.isneginf(student_logits) | jnp.isneginf(teacher_logits)
    student = jnp.where(excluded, 0.0, student.astype(jnp.float32))
    teacher = jnp.where(excluded, 0.0, teacher.astype(jnp.float32))
    return jnp.sum(jnp.square(student - teacher), axis=-1)


def _root(squared: Array) -> Array:
    """The square root, with gradient 0 instead of NaN where both models are equal."""
    equal = squared == 0
    return jnp.where(equal, 0.0, jnp.sqrt(jnp.where(equal, 1.0, squared)))
