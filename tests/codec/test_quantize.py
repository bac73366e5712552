import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moshijax.codec.quantize import Codebook, SplitQuantizer, freeze_codebooks, nearest
from moshijax.nn.paths import named_leaves, with_leaves


pytestmark = pytest.mark.usefixtures("strict_dtypes")

quantizer = SplitQuantizer(12, 6, 20, 4, rngs=nnx.Rngs(0))
x = jax.random.normal(jax.random.key(1), (2, 7, 12))
quantize = jax.jit(lambda q, x, n: q.quantize(x, n), static_argnums=2)
dequantize = jax.jit(lambda q, codes: q.dequantize(codes))


def test_vectors_of_a_codebook_quantize_to_their_own_numbers():
    codebook = quantizer.semantic.codebooks[0]
    codes = nearest(codebook.vectors()[None], codebook)
    np.testing.assert_array_equal(codes[0], np.arange(20))


def test_nearest_is_nearest_by_euclidean_distance():
    codebook = quantizer.acoustic.codebooks[1]
    points = jax.random.normal(jax.random.key(2), (2, 30, 6))
    distances = np.square(np.asarray(points)[:, :, None] - np.asarray(codebook.vectors())).sum(-1)
    np.testing.assert_array_equal(nearest(points, codebook), distances.argmin(-1))


def test_first_of_equal_entries_wins():
    codebook = Codebook(5, 3, rngs=nnx.Rngs(0))
    same = {name: jnp.ones_like(leaf) for name, leaf in named_leaves(codebook).items()}
    np.testing.assert_array_equal(nearest(jnp.ones((1, 2, 3)), with_leaves(codebook, same)), 0)


def test_vectors_are_means_and_rare_entries_are_not_scaled_up_further():
    codebook = Codebook(3, 2, rngs=nnx.Rngs(0))
    leaves = {
        "embedding_sum": jnp.array([[2.0, 4.0], [1e-6, 0.0], [1e-6, 0.0]]),
        "usage": jnp.array([2.0, 1e-5, 0.0]),
        "initialized": jnp.ones(1),
    }
    vectors = with_leaves(codebook, leaves).vectors()
    np.testing.assert_allclose(vectors, [[1.0, 2.0], [0.1, 0.0], [0.1, 0.0]], rtol=1e-6)


def test_both_parts_quantize_the_same_latent():
    codes = quantize(quantizer, x, 4)
    assert codes.shape == (2, 4, 7)
    np.testing.assert_array_equal(codes[:, :1], quantizer.semantic.quantize(x, 1))
    np.testing.assert_array_equal(codes[:, 1:], quantizer.acoustic.quantize(x, 3))


def test_fewer_codebooks_are_a_prefix():
    codes = quantize(quantizer, x, 4)
    for n in (1, 2, 3):
        np.testing.assert_array_equal(quantize(quantizer, x, n), codes[:, :n])


def test_each_codebook_quantizes_what_the_ones_before_left():
    acoustic = quantizer.acoustic
    codes = acoustic.quantize(x, 3)
    rest = np.asarray(x @ acoustic.project_in.kernel[...])
    total = np.zeros_like(rest)
    for k, codebook in enumerate(acoustic.codebooks):
        distances = np.square((rest - total)[:, :, None] - np.asarray(codebook.vectors())).sum(-1)
        np.testing.assert_array_equal(codes[:, k], distances.argmin(-1))
        total += np.asarray(codebook.vectors())[np.asarray(codes[:, k])]
    want = total @ np.asarray(acoustic.project_out.kernel[...])
    np.testing.assert_allclose(acoustic.dequantize(codes), want, atol=1e-5)


def test_latent_is_the_sum_of_both_parts():
    codes = quantize(quantizer, x, 4)
    want = quantizer.semantic.dequantize(codes[:, :1]) + quantizer.acoustic.dequantize(codes[:, 1:])
    np.testing.assert_allclose(dequantize(quantizer, codes), want, atol=1e-6)
    np.testing.assert_allclose(
        dequantize(quantizer, codes[:, :1]), quantizer.semantic.dequantize(codes[:, :1]), atol=1e-6
    )


def test_frozen_codebooks_give_the_same():
    frozen = freeze_codebooks(quantizer)
    codes = quantize(quantizer, x, 4)
    np.testing.assert_array_equal(quantize(frozen, x, 4), codes)
    np.testing.assert_allclose(dequantize(frozen, codes), dequantize(quantizer, codes), atol=1e-6)


@pytest.mark.parametrize("number", [0, 5])
def test_impossible_number_of_codebooks_is_named(number):
    with pytest.raises(ValueError, match=f"{number} codebooks asked for; this model has 1 to 4"):
        quantizer.quantize(x, number)
    with pytest.raises(ValueError, match=f"{number} codebooks asked for"):
        quantizer.dequantize(jnp.zeros((2, number, 7), int))
