import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import distances
from distill.fidelity import CALIBRATION_BINS, cka, cka_sums, fidelity_sums, summarize


B, V = 24, 9
sums_of = jax.jit(fidelity_sums)
cka_sums_of = jax.jit(cka_sums)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def example():
    teacher = draw(0, B, V) * 3
    student = teacher + draw(3, B, V) * 4
    labels = jnp.asarray(np.random.default_rng(2).integers(0, V, B))
    return student, teacher, jnp.where(jnp.arange(B) % 3 > 0, jnp.argmax(teacher, -1), labels)


def expected_calibration_error(logits, labels):
    """Guo et al. 2017, equation 3, bin by bin."""
    probabilities = np.asarray(jax.nn.softmax(logits), np.float64)
    confidence, hit = probabilities.max(-1), probabilities.argmax(-1) == np.asarray(labels)
    error = 0.0
    for m in range(CALIBRATION_BINS):
        inside = (confidence > m / CALIBRATION_BINS) & (confidence <= (m + 1) / CALIBRATION_BINS)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


def test_summary_is_the_mean_of_each_definition():
    student, teacher, labels = example()
    summary = summarize(sums_of(student, teacher, labels, jnp.ones(B)))
    q, p = (np.asarray(jax.nn.softmax(x), np.float64) for x in (student, teacher))
    order, teacher_order = (np.argsort(-np.asarray(x), -1) for x in (student, teacher))
    label = np.asarray(labels)[:, None]
    rows = np.arange(B)
    assert summary == pytest.approx(
        {
            "count": B,
            "accuracy": np.mean(order[:, :1] == label),
            "accuracy_top5": np.mean(np.any(order[:, :5] == label, -1)),
            "cross_entropy": -np.log(q[rows, label[:, 0]]).mean(),
            "ece": expected_calibration_error(student, labels),
            "teacher_accuracy": np.mean(teacher_order[:, :1] == label),
            "teacher_cross_entropy": -np.log(p[rows, label[:, 0]]).mean(),
            "teacher_ece": expected_calibration_error(teacher, labels),
            "kl": np.sum(p * np.log(p / q), -1).mean(),
            "reverse_kl": np.sum(q * np.log(q / p), -1).mean(),
            "agreement": np.mean(order[:, 0] == teacher_order[:, 0]),
            "agreement_top5": np.mean(np.any(order[:, :5] == teacher_order[:, :1], -1)),
            "reverse_agreement_top5": np.mean(np.any(teacher_order[:, :5] == order[:, :1], -1)),
            "euclidean": np.linalg.norm(student - teacher, axis=-1).mean(),
            "entropy": -np.sum(q * np.log(q), -1).mean(),
            "teacher_entropy": -np.sum(p * np.log(p), -1).mean(),
        },
        rel=1e-5,
    )
    assert 0.2 < summary["accuracy"] < summary["teacher_accuracy"] < 1
    assert summary["agreement"] < summary["agreement_top5"]
    assert summary["agreement_top5"] != summary["reverse_agreement_top5"]


def test_sums_of_batches_add_up_to_those_of_the_set():
    student, teacher, labels = example()
    whole = sums_of(student, teacher, labels, jnp.ones(B, bool))
    parts = [
        sums_of(student[i : i + 8], teacher[i : i + 8], labels[i : i + 8], jnp.ones(8, bool))
        for i in range(0, B, 8)
    ]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert summarize(added) == pytest.approx(summarize(whole), rel=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(whole)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("kind", [bool, jnp.float32])
def test_garbage_outside_the_mask_does_not_matter(kind):
    student, teacher, labels = example()
    mask = jnp.arange(B) % 4 != 1
    garbage = jnp.where(mask[:, None], 0.0, jnp.nan)
    masked = sums_of(student + garbage, teacher + garbage, jnp.where(mask, labels, -1), mask)
    kept = np.flatnonzero(mask)
    plain = sums_of(student[kept], teacher[kept], labels[kept], jnp.ones(len(kept), kind))
    assert summarize(masked) == pytest.approx(summarize(plain), rel=1e-5)
    features = cka_sums_of(student + garbage, teacher[:, :4] + garbage[:, :4], mask.astype(kind))
    assert cka(features) == pytest.approx(direct_cka(student[kept], teacher[kept, :4]), rel=1e-4)


def test_garbage_inside_the_mask_shows():
    student, teacher, labels = example()
    summary = summarize(sums_of(student.at[3, 2].set(jnp.nan), teacher, labels, jnp.ones(B)))
    for name in ("cross_entropy", "ece", "kl", "reverse_kl", "euclidean", "entropy"):
        assert np.isnan(summary[name]), name
    assert np.isfinite(summary["teacher_ece"])


def test_what_is_not_given_is_not_measured():
    student, teacher, labels = example()
    mixed = summarize(sums_of(student, teacher, None, jnp.ones(B)))
    alone = summarize(sums_of(student, None, labels, jnp.ones(B)))
    both = summarize(sums_of(student, teacher, labels, jnp.ones(B)))
    assert not [name for name in mixed if "accuracy" in name or "ece" in name or "cross" in name]
    assert set(alone) == {
        "count", "accuracy", "accuracy_top5", "cross_entropy", "ece", "entropy"
    }  # fmt: skip
    for part in (mixed, alone):
        assert part == pytest.approx({name: both[name] for name in part}, rel=1e-6)
    assert set(both) == set(mixed) | set(alone) | {
        "teacher_accuracy", "teacher_cross_entropy", "teacher_ece"
    }  # fmt: skip


def test_equal_models_are_faithful():
    student, _, labels = example()
    summary = summarize(sums_of(student, student, labels, jnp.ones(B)))
    assert (summary["kl"], summary["reverse_kl"], summary["euclidean"]) == (0, 0, 0)
    assert (summary["agreement"], summary["teacher_ece"]) == (1, summary["ece"])


def test_calibration_of_a_known_set():
    # Confidence 0.97 in 4 examples, all right; 0.9 in 2, none right: the last two bins.
    confidence = jnp.array([0.97] * 4 + [0.9] * 2)
    logits = jnp.log(jnp.stack([confidence, 1 - confidence], -1))
    labels = jnp.array([0, 0, 0, 0, 1, 1])
    summary = summarize(sums_of(logits, None, labels, jnp.ones(6)))
    assert summary["ece"] == pytest.approx(4 / 6 * 0.03 + 2 / 6 * 0.9, rel=1e-5)


def test_a_head_of_zeros_is_right_once_in_v_and_not_always():
    labels = jnp.arange(B) % V
    summary = summarize(sums_of(jnp.zeros((B, V)), None, labels, jnp.ones(B)))
    assert summary["accuracy"] == pytest.approx(np.mean(np.arange(B) % V == 0))
    assert summary["cross_entropy"] == pytest.approx(np.log(V))
    assert summary["entropy"] == pytest.approx(np.log(V))


def test_nothing_to_summarize_is_said():
    sums = sums_of(jnp.ones((2, V)), None, None, jnp.zeros(2))
    with pytest.raises(ValueError, match="the mask left out all"):
        summarize(sums)


def test_kl_is_that_of_the_distances_without_the_clip():
    student, teacher, _ = example()
    summary = summarize(sums_of(student, teacher, None, jnp.ones(B)))
    expected = distances.kl(student, teacher, entropy_clip=0.0).mean()
    assert summary["kl"] == pytest.approx(float(expected), rel=1e-6)


def direct_cka(x, y):
    """Kornblith et al. 2019, from the Gram matrices of centred features."""
    x, y = (np.asarray(f, np.float64) for f in (x, y))
    k, j = ((f - f.mean(0)) @ (f - f.mean(0)).T for f in (x, y))
    return np.sum(k * j) / np.sqrt(np.sum(k * k) * np.sum(j * j))


def test_cka_of_added_batches_is_exact_over_the_set():
    student = jax.nn.relu(draw(0, B, 5) + 3)  # Far from zero, as pooled features are.
    teacher = jnp.concatenate([student[:, :3] + 0.5 * draw(1, B, 3), 10 * draw(2, B, 4)], -1)
    parts = [
        cka_sums_of(student[i : i + 8], teacher[i : i + 8], jnp.ones(8)) for i in range(0, B, 8)
    ]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    expected = direct_cka(student, teacher)
    assert 0.02 < expected < 0.9
    assert cka(added) == pytest.approx(expected, rel=1e-4)


def test_cka_ignores_rotation_scale_and_shift():
    features = draw(0, B, 5)
    rotation = jnp.linalg.qr(draw(1, 5, 5))[0]
    turned = 7 * features @ rotation + draw(2, 1, 5)
    assert cka(cka_sums_of(features, turned, jnp.ones(B))) == pytest.approx(1, rel=1e-5)
    stretched = features * jnp.array([[10.0, 1, 1, 1, 1]])
    assert cka(cka_sums_of(features, stretched, jnp.ones(B))) < 0.9


def test_cka_of_constant_features_is_nan():
    constant = jnp.full((B, 5), 0.1)
    assert np.isnan(cka(cka_sums_of(draw(0, B, 4), constant, jnp.ones(B))))


@pytest.mark.parametrize("classes", [3, 5, 6])
def test_the_first_five_are_told_of_more_than_five_classes(classes):
    logits = jnp.eye(2, classes)
    labels, mask = jnp.zeros(2, jnp.int32), jnp.ones(2)
    sums = jax.eval_shape(fidelity_sums, logits, logits, labels, mask)
    assert len([name for name in sums if "top5" in name]) == 3 * (classes > 5)
