import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from distill.vision import views
from moshijax.system.errors import UserError


BATCH = 32
SIZES = np.random.default_rng(0).integers(60, 400, (BATCH, 2))


def sample(design="same/ic", rows=None, **changes):
    rows = np.arange(BATCH) if rows is None else np.asarray(rows)
    options = {"seed": 3, "order": 0, "step": 7, "resolution": 128, "mixup": 1.0, **changes}
    sizes = options.pop("sizes", SIZES)
    return views.sample_plan(
        design, batch_size=BATCH, rows=rows, index=rows + 100, sizes=sizes[rows], **options
    )


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("design", views.DESIGNS)
def test_a_row_is_planned_alike_whoever_holds_it(design):
    whole = sample(design)
    rows = np.array([30, 2, 17])
    part = sample(design, rows)
    assert part.mix == whole.mix
    np.testing.assert_array_equal(part.index, whole.index[rows])
    for some, every in ((part.student, whole.student), (part.teacher, whole.teacher)):
        np.testing.assert_array_equal(some.box, every.box[rows])
        np.testing.assert_array_equal(some.flip, every.flip[rows])


@pytest.mark.parametrize("inception", ["tf", "rrc"])
def test_a_row_is_planned_alike_beside_rows_that_need_many_attempts(inception):
    strips = SIZES.copy()
    strips[::2] = [20, 390]
    alone = sample(rows=np.array([5]), sizes=strips, inception=inception)
    beside = sample(sizes=strips, inception=inception)
    np.testing.assert_array_equal(alone.student.box[0], beside.student.box[5])


@pytest.mark.parametrize("change", [{"seed": 4}, {"order": 1}, {"step": 8}])
def test_another_seed_order_or_step_is_another_plan(change):
    plan, other = sample(), sample(**change)
    assert equal(plan, sample())
    assert np.any(plan.student.box != other.student.box, axis=1).all()
    assert np.any(plan.student.flip != other.student.flip)
    assert plan.mix != other.mix


def test_designs_tie_the_two_views_as_the_paper_does():
    for name, design in views.DESIGNS.items():
        plan, later = sample(name), sample(name, step=8)
        kind = name.split("/")[0]
        assert equal(plan.student, plan.teacher) == (kind == "same" or name == "fix/rs")
        assert design.fixed == (kind == "fix")
        if name in ("fix/rs", "fix/cc"):
            assert equal(plan.teacher, later.teacher)
            assert not plan.teacher.flip.any()
        if name != "fix/rs":
            assert not equal(plan.student, later.student)
    assert views.DESIGNS["fix/ic_ens"].ensemble == 1000


def test_independent_views_flip_and_crop_independently():
    plans = [sample("ind/rc", step=step) for step in range(50)]
    student = np.concatenate([plan.student.flip for plan in plans])
    teacher = np.concatenate([plan.teacher.flip for plan in plans])
    assert abs(np.mean(student) - 0.5) < 0.05
    assert abs(np.mean(student == teacher) - 0.5) < 0.05


def test_mixup_is_one_folded_coefficient_a_step():
    shares = np.array([sample("same/rc", [0], step=step).mix for step in range(2000)])
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    assert abs(shares.mean() - 0.75) < 0.015  # uniform on [1/2, 1] for Beta(1, 1)
    assert sample(mixup=0.0).mix == 1
    assert sample(mixup=0.1).mix != sample(mixup=0.5).mix


def test_mixup_keeps_no_row_out_of_the_plan():
    assert equal(sample(mixup=0.0).student, sample(mixup=1.0).student)


def test_a_plan_survives_a_file():
    plan = sample("ind/ic")
    file = io.BytesIO()
    np.savez(file, **views.to_arrays(plan))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        restored = views.from_arrays(arrays)
    assert equal(plan, restored)
    dtypes = [np.asarray(leaf).dtype for leaf in jax.tree.leaves(restored)]
    assert dtypes == [np.int64, np.float32, bool, np.float32, bool, np.float32]


def test_a_stored_plan_with_gaps_is_an_error():
    arrays = views.to_arrays(sample())
    del arrays["teacher_box"], arrays["mix"]
    with pytest.raises(UserError, match="lacks the arrays teacher_box, mix"):
        views.from_arrays(arrays)


def test_evaluation_draws_are_numbered():
    def draw(number, batch=0):
        return views.sample_view(
            "ic",
            seed=0,
            draw=number,
            batch=batch,
            batch_size=BATCH,
            rows=np.arange(BATCH),
            sizes=SIZES,
            resolution=128,
        )

    assert equal(draw(1), draw(1))
    assert not equal(draw(1), draw(2))
    assert not equal(draw(1), draw(1, batch=1))


def test_bytes_become_floats_from_minus_one_to_one():
    pixels = jnp.array([0, 255, 51], jnp.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(views.to_float(pixels).ravel(), [-1, 1, -0.6], atol=1e-6)


def test_mixup_blends_with_the_row_before_over_the_shards():
    images = np.random.default_rng(0).normal(size=(8, 2, 3, 1)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    placed = jax.device_put(images, sharding)
    mixed = jax.jit(views.mix, out_shardings=sharding)(placed, jnp.float32(0.7))
    before = images[[7, 0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_allclose(mixed, 0.7 * images + 0.3 * before, atol=1e-6)
    assert np.array_equal(views.mix(jnp.asarray(images), jnp.float32(1)), images)


def test_bad_designs_and_coefficients_are_named():
    with pytest.raises(ValueError, match="Unknown view design 'same/xx'; choose one of fix/rs"):
        sample("same/xx")
    with pytest.raises(ValueError, match=r"mixup must be 0 .* not -0.5"):
        sample(mixup=-0.5)
