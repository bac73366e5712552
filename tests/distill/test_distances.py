import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy import testing

from distill import distances
from distill.distances import DISTANCES, combine


CLASSES = 7
LOGITS = hnp.arrays(np.float32, (3, CLASSES), elements=st.floats(-30, 30, width=32))
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 5.0])


@jax.jit
def measure(student, teacher, temperature):
    """Of every distance: the values, and the gradient of their sum for the student."""

    def total(student, distance):
        values = distance(student, teacher, temperature=temperature)
        return jnp.sum(values), values

    results = {}
    for name, distance in DISTANCES.items():
        (_, values), grad = jax.value_and_grad(total, has_aux=True)(student, distance)
        results[name] = values, grad
    return results


def value_and_grad(name, student, teacher, temperature):
    return measure(student, teacher, temperature)[name]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def reference(name, student, teacher, temperature):
    """The same distances, written in float64 from their definitions over probabilities."""
    student, teacher = (np.asarray(x, np.float64) for x in (student, teacher))
    q, p = (np.exp(x / temperature) for x in (student, teacher))
    q, p = q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)

    def kl(a, b):
        return np.sum(a * np.log(a / b), -1)

    middle = (p + q) / 2
    choice = np.eye(student.shape[-1])[teacher.argmax(-1)]
    euclidean = np.linalg.norm(student - teacher, axis=-1)
    return {
        "kl": lambda: temperature**2 * kl(p, q),
        "reverse_kl": lambda: temperature**2 * kl(q, p),
        "jsd": lambda: temperature**2 * (kl(p, middle) + kl(q, middle)) / 2,
        "skew_kl": lambda: temperature**2 * kl(p, 0.1 * p + 0.9 * q),
        "skew_reverse_kl": lambda: temperature**2 * kl(q, 0.1 * q + 0.9 * p),
        "total_variation": lambda: temperature * np.abs(p - q).sum(-1) / 2,
        "hard": lambda: -temperature * np.sum(choice * np.log(q), -1),
        "euclidean": lambda: euclidean,
        "l2": lambda: euclidean**2,
        "logsoftmax_euclidean": lambda: temperature * np.linalg.norm(np.log(p / q), axis=-1),
    }[name]()


@hypothesis.given(student=LOGITS, teacher=LOGITS, temperature=TEMPERATURES)
def test_distances_are_their_definitions(student, teacher, temperature):
    for name, (values, grad) in measure(student, teacher, temperature).items():
        expected = reference(name, student, teacher, temperature)
        testing.assert_allclose(
            values, expected, rtol=2e-4, atol=1e-5 * temperature**2, err_msg=name
        )
        assert np.all(np.isfinite(grad)), name
        assert np.all(np.asarray(values) >= -1e-5), name


@pytest.mark.parametrize("name", DISTANCES)
def test_gradient_is_that_of_finite_differences(name):
    student, teacher, temperature, step = normal(0, 3, CLASSES), normal(1, 3, CLASSES), 2.0, 1e-6
    _, grad = value_and_grad(name, student, teacher, temperature)
    for index in np.ndindex(*student.shape):
        shift = np.zeros(student.shape)
        shift[index] = step
        up = reference(name, np.asarray(student) + shift, teacher, temperature).sum()
        down = reference(name, np.asarray(student) - shift, teacher, temperature).sum()
        testing.assert_allclose(grad[index], (up - down) / (2 * step), atol=2e-6)


@hypothesis.given(student=LOGITS, teacher=LOGITS, shift=st.floats(-10, 10, width=32))
def test_adding_a_constant_to_all_logits_changes_no_distance_of_probabilities(
    student, teacher, shift
):
    before, after = (measure(x, teacher, 2.0) for x in (student, student + np.float32(shift)))
    for name in set(DISTANCES) - {"l2", "euclidean"}:
        # Logits of 40 are rounded at 2e-6.
        testing.assert_allclose(after[name][0], before[name][0], rtol=1e-3, atol=1e-4, err_msg=name)


@hypothesis.given(student=LOGITS, order=st.permutations(range(CLASSES)))
def test_the_order_of_classes_does_not_matter(student, order):
    teacher = normal(0, 3, CLASSES) * 10  # No ties: `hard` would choose another class.
    order = np.asarray(order)
    before = measure(student, teacher, 1.0)
    after = measure(student[:, order], teacher[:, order], 1.0)
    for name, (values, grad) in before.items():
        testing.assert_allclose(after[name][0], values, rtol=1e-4, atol=1e-5, err_msg=name)
        testing.assert_allclose(after[name][1], grad[:, order], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", [n for n in DISTANCES if n != "hard"])
def test_equal_models_have_no_distance_and_no_gradient(name):
    logits = normal(2, 3, CLASSES) * 5
    values, grad = value_and_grad(name, logits, logits, 2.0)
    testing.assert_allclose(values, 0, atol=1e-5)
    testing.assert_allclose(grad, 0, atol=1e-5)


def test_any_batch_axes_give_one_value_each():
    student, teacher = normal(3, 3, CLASSES), normal(4, 3, CLASSES)
    deep = measure(student[:, None], teacher[:, None], 1.0)
    for name, (values, _) in measure(student, teacher, 1.0).items():
        assert deep[name][0].shape == (3, 1)
        testing.assert_allclose(deep[name][0][:, 0], values, rtol=1e-6)


def test_one_example_needs_no_batch_axis():
    student, teacher = normal(3, 3, CLASSES), normal(4, 3, CLASSES)
    values = distances.kl(student, teacher)
    testing.assert_allclose(distances.kl(student[1], teacher[1]), values[1], rtol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_bfloat16_is_computed_in_float32(name):
    student, teacher = (normal(s, 3, CLASSES).astype(jnp.bfloat16) for s in (5, 6))
    values, _ = value_and_grad(name, student, teacher, 2.0)
    wide, _ = value_and_grad(name, student.astype(jnp.float32), teacher.astype(jnp.float32), 2.0)
    assert values.dtype == jnp.float32
    testing.assert_array_equal(values, wide)


def test_kl_of_a_known_pair():
    # p = (1/2, 1/2), q = (1/4, 3/4): KL(p || q) = log(4/3) / 2.
    student, teacher = jnp.log(jnp.array([[1.0, 3.0]])), jnp.zeros((1, 2))
    testing.assert_allclose(distances.kl(student, teacher), math.log(4 / 3) / 2, rtol=1e-5)
    backward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    testing.assert_allclose(distances.reverse_kl(student, teacher), backward, rtol=1e-5)
    testing.assert_allclose(distances.total_variation(student, teacher), 0.25, rtol=1e-6)
    testing.assert_allclose(distances.hard(student, teacher), math.log(4), rtol=1e-6)
    testing.assert_allclose(distances.l2(student, teacher), math.log(3) ** 2, rtol=1e-6)


def test_temperature_squared_keeps_the_gradient_of_kl_flat():
    student, teacher = normal(0, 3, CLASSES), normal(1, 3, CLASSES)

    def norm(temperature):
        _, grad = value_and_grad("kl", student, teacher, temperature)
        return float(jnp.sqrt(jnp.mean(jnp.sum(grad**2, -1))))

    norms = [norm(t) for t in (1.0, 2.0, 5.0, 10.0)]
    testing.assert_allclose(norms, norms[0], rtol=0.15)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_keeps_its_gradient_at_high_temperature(name):
    student, teacher = normal(0, 3, CLASSES), normal(1, 3, CLASSES)
    _, warm = value_and_grad(name, student, teacher, 10.0)
    _, hot = value_and_grad(name, student, teacher, 40.0)
    testing.assert_allclose(jnp.linalg.norm(hot), jnp.linalg.norm(warm), rtol=0.1)
    assert jnp.linalg.norm(warm) > 0.1


def test_entropy_clip_moves_the_value_and_not_the_gradient():
    teacher = normal(1, CLASSES) * 20

    def clipped(student):
        values = jnp.stack(
            [distances.kl(student, teacher, entropy_clip=c) for c in (0.0, 1e-8, 0.1)]
        )
        return values, values

    grads, values = jax.jit(jax.jacrev(clipped, has_aux=True))(normal(0, CLASSES))
    assert values[2] > values[0] + 1e-4
    assert abs(values[1] - values[0]) < 1e-5
    testing.assert_array_equal(grads, jnp.stack([grads[0]] * 3))


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
@pytest.mark.parametrize("temperature", [0.5, 10.0])
def test_excluded_classes_leave_values_and_gradients_finite(name, masked, temperature):
    student, teacher = normal(0, 3, CLASSES), normal(1, 3, CLASSES)
    hidden = jnp.arange(CLASSES) >= CLASSES - 2
    if masked != "teacher":
        student = jnp.where(hidden[None], -jnp.inf, student)
    if masked != "student":
        teacher = jnp.where(hidden[None], -jnp.inf, teacher)
    values, grad = value_and_grad(name, student, teacher, temperature)
    assert np.all(np.isfinite(values))
    assert np.all(np.isfinite(grad))
    if masked != "teacher":
        testing.assert_array_equal(grad[:, -2:], 0)
    if masked == "both":
        cut, cut_grad = value_and_grad(name, student[:, :-2], teacher[:, :-2], temperature)
        testing.assert_allclose(values, cut, rtol=1e-5)
        testing.assert_allclose(grad[:, :-2], cut_grad, atol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_an_example_whose_classes_are_all_excluded_stays_finite(name):
    student = normal(0, 3, CLASSES).at[1].set(-jnp.inf)
    values, grad = value_and_grad(name, student, normal(1, 3, CLASSES), 1.0)
    assert np.all(np.isfinite(values))
    testing.assert_array_equal(grad[1], 0)


@pytest.mark.parametrize("name", [n for n in DISTANCES if n not in ("l2", "euclidean")])
@pytest.mark.parametrize("size", [1e4, 1e15, 3e38])
def test_huge_logits_do_not_become_nan(name, size):
    student = size * jnp.array(
        [[1.0, -1.0, 0.0, 1.0, 0, 0, 0], [0.5, 0.5, -0.5, 0, 0, 0, 0], [0] * 7]
    )
    teacher = size * jnp.array(
        [[-1.0, 1.0, 0.0, 1.0, 0, 0, 0], [1.0, 0.0, 1.0, 0, 0, 0, 0], [1] + [0] * 6]
    )
    values, grad = value_and_grad(name, student, teacher, 0.5)
    assert not np.any(np.isnan(values))
    assert np.all(np.isfinite(grad))


def test_garbage_logits_are_not_hidden():
    student = normal(0, 3, CLASSES).at[1, 2].set(jnp.nan)
    for name, (values, _) in measure(student, normal(1, 3, CLASSES), 1.0).items():
        testing.assert_array_equal(np.isnan(values), [False, True, False], err_msg=name)


def test_jsd_ends_are_its_limits():
    student, teacher = normal(0, 4, CLASSES), normal(1, 4, CLASSES)
    for beta, end in ((1e-3, 0.0), (1 - 1e-3, 1.0)):
        near = distances.jsd(student, teacher, beta=beta) / (beta * (1 - beta))
        testing.assert_allclose(near, distances.jsd(student, teacher, beta=end), rtol=2e-2)
    testing.assert_array_equal(
        distances.jsd(student, teacher, beta=0.0), distances.kl(student, teacher)
    )
    # beta weighs the teacher, in the mixture and in the sum.
    p, q = (np.asarray(jax.nn.softmax(x), np.float64) for x in (teacher, student))
    middle = 0.2 * p + 0.8 * q
    parts = 0.2 * p * np.log(p / middle) + 0.8 * q * np.log(q / middle)
    testing.assert_allclose(
        distances.jsd(student, teacher, beta=0.2), parts.sum(-1), rtol=1e-4, atol=1e-6
    )


def test_hard_smoothing_spreads_over_the_classes_in_use():
    logits = jnp.array([[0.0, 0.0, 0.0, -jnp.inf]])
    smoothed = distances.hard(logits, logits, smoothing=0.3)
    testing.assert_allclose(smoothed, math.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: distances.kl(x, x, temperature=0.0), "temperature is 0.0"),
        (lambda x: distances.jsd(x, x, beta=1.5), "beta is 1.5"),
        (lambda x: distances.skew_kl(x, x, skew=1.0), "skew is 1.0"),
        (lambda x: distances.hard(x, x, smoothing=1.0), "smoothing is 1.0"),
        (lambda x: combine([x], "mean"), "by 'mean'"),
    ],
)
def test_settings_out_of_range_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.zeros((1, 3)))


def test_temperature_may_be_an_array():
    student, teacher = normal(0, 2, CLASSES), normal(1, 2, CLASSES)
    traced = jax.jit(lambda t: distances.kl(student, teacher, temperature=t))(jnp.float32(3.0))
    testing.assert_allclose(traced, distances.kl(student, teacher, temperature=3.0), rtol=1e-6)
