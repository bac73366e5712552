import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy import testing

from distill import distances
from distill.distances import agreement, combine, cross_entropy, distance_to_teachers


CLASSES = 7
LOGITS = hnp.arrays(np.float32, (3, CLASSES), elements=st.floats(-30, 30, width=32))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_agreement_counts_the_teachers_choice_among_the_students_first_k():
    student = jnp.array([[5.0, 4.0, 3.0, 2.0]] * 4)
    teacher = jnp.eye(4)
    for k in (1, 2, 3, 4, 9):
        testing.assert_array_equal(agreement(student, teacher, k=k), jnp.arange(4) < k)


@hypothesis.given(
    student=hnp.arrays(np.float32, (4, CLASSES), elements=st.sampled_from([-1.0, 0.0, 2.0])),
    teacher=LOGITS.map(lambda x: np.concatenate([x, x[:1]])),
    k=st.sampled_from([1, 3]),
)
def test_agreement_breaks_ties_like_top_k(student, teacher, k):
    _, best = jax.lax.top_k(jnp.asarray(student), k)
    expected = np.any(np.asarray(best) == teacher.argmax(-1)[:, None], axis=-1)
    testing.assert_array_equal(agreement(jnp.asarray(student), jnp.asarray(teacher), k=k), expected)


def test_nan_never_agrees():
    student = jnp.full((1, 3), jnp.nan)
    testing.assert_array_equal(agreement(student, jnp.eye(3)[:1], k=2), 0.0)


def test_probabilities_of_two_teachers_are_averaged_at_the_temperature():
    teachers = [normal(s, 3, CLASSES) * 10 for s in (0, 1)]
    for temperature in (1.0, 4.0):
        joined = combine(teachers, "probabilities", temperature=temperature)
        expected = sum(jax.nn.softmax(t / temperature) for t in teachers) / 2
        testing.assert_allclose(jax.nn.softmax(joined / temperature), expected, atol=1e-6)
    testing.assert_allclose(combine(teachers, "logits"), sum(teachers) / 2, rtol=1e-6)


def test_mean_of_probabilities_survives_excluded_and_far_classes():
    first = jnp.array([[0.0, -1e4, -jnp.inf, 0.0]])
    second = jnp.array([[-1e4, 0.0, -jnp.inf, -jnp.inf]])
    joined = combine([first, second], "probabilities")
    testing.assert_allclose(jax.nn.softmax(joined), [[0.25, 0.5, 0.0, 0.25]], atol=1e-6)
    assert np.isneginf(joined[0, 2])


def test_sum_of_losses_is_the_mean_of_probabilities_times_the_teachers():
    student, teachers = normal(9, 3, CLASSES), [normal(s, 3, CLASSES) for s in range(3)]

    @jax.jit
    def grads(temperature):
        def loss(student, kind):
            return distance_to_teachers(
                distances.kl, student, teachers, kind, temperature=temperature
            ).sum()

        return {k: jax.grad(loss)(student, k) for k in ("losses", "probabilities", "logits")}

    for temperature in (1.0, 5.0):
        grad = grads(jnp.float32(temperature))
        testing.assert_allclose(grad["losses"], 3 * grad["probabilities"], atol=1e-5)
        assert np.abs(grad["losses"] - 3 * grad["logits"]).max() > 1e-3


@pytest.mark.parametrize("kind", ["logits", "probabilities", "losses"])
def test_one_teacher_is_the_distance_itself(kind):
    student, teacher = normal(0, 2, CLASSES), normal(1, 2, CLASSES)
    values = distance_to_teachers(
        distances.jsd, student, [teacher], kind, temperature=2.0, beta=0.3
    )
    expected = distances.jsd(student, teacher, temperature=2.0, beta=0.3)
    testing.assert_allclose(values, expected, rtol=1e-4)


def test_cross_entropy_of_mixed_labels_is_the_mix_of_cross_entropies():
    logits = normal(0, 3, CLASSES)
    first, second = jnp.array([0, 3, 6]), jnp.array([1, 3, 2])
    soft = 0.7 * jax.nn.one_hot(first, CLASSES) + 0.3 * jax.nn.one_hot(second, CLASSES)
    mixed = 0.7 * cross_entropy(logits, first) + 0.3 * cross_entropy(logits, second)
    testing.assert_allclose(cross_entropy(logits, soft), mixed, rtol=1e-5)
    testing.assert_allclose(
        cross_entropy(logits, first), -jax.nn.log_softmax(logits)[jnp.arange(3), first], rtol=1e-6
    )
    uniform = cross_entropy(logits, jnp.full((3, CLASSES), 1 / CLASSES))
    smoothed = cross_entropy(logits, first, smoothing=0.1)
    testing.assert_allclose(smoothed, 0.9 * cross_entropy(logits, first) + 0.1 * uniform, rtol=1e-5)


def test_a_class_that_does_not_exist_shows_and_teaches_nothing():
    logits = normal(0, 3, CLASSES)
    labels = jnp.array([-1, 2, CLASSES])
    mask = jnp.array([False, True, False])
    testing.assert_array_equal(np.isnan(cross_entropy(logits, labels)), ~mask)

    def loss(logits):
        return jnp.sum(jnp.where(mask, cross_entropy(logits, labels), 0.0))

    grad = jax.grad(loss)(logits)
    testing.assert_array_equal(grad[jnp.array([0, 2])], 0)
    assert np.abs(grad[1]).max() > 0.1
