import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.nn.fold import align, fold_frames


def data():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (2, 37, 3)), jax.random.normal(keys[1], (2, 37, 1))


def sums(x, y):
    return {"products": (x * y).sum((0, 1)), "squares": (x**2).sum()}


@pytest.mark.parametrize("chunk_frames", [1, 8, 20, 37, 100])
def test_sums_of_chunks_are_those_of_the_whole(chunk_frames):
    def total(x, y):
        found = fold_frames(sums, (x, y), chunk_frames)
        return found["squares"] + found["products"].sum(), found

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(*data())
    want = sums(*data())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, want)
    x, y = data()
    np.testing.assert_allclose(gradient, 2 * x + y, rtol=1e-5)


def test_chunks_are_as_few_and_as_equal_as_can_be():
    sizes = []

    def noted(x, y):
        sizes.append(x.shape[1])
        return x.sum() + y.sum()

    fold_frames(noted, data(), 20)
    assert set(sizes) == {24}  # 37 frames in two chunks of whole tiles of 8.
    assert [align(n) for n in (1, 8, 9)] == [8, 8, 16]


def test_no_more_than_a_chunk_is_in_the_program():
    def wide(x, y):
        return (x @ jnp.ones((3, 1000))).sum() + y.sum()

    text = jax.jit(jax.grad(lambda x: fold_frames(wide, (x, data()[1]), 8))).lower(data()[0])
    assert "tensor<2x8x1000xf32>" in text.as_text()
    assert "40x1000" not in text.as_text()
    assert "37x1000" not in text.as_text()
