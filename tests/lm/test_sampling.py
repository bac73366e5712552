import jax
import jax.numpy as jnp
import numpy as np

from moshijax.lm.sampling import Sampling, penalize, sample


LOGITS = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
draw = jax.jit(jax.vmap(sample, in_axes=(None, None, 0)), static_argnums=())
KEYS = jax.random.split(jax.random.key(0), 4000)


def shares(sampling):
    codes = np.asarray(draw(LOGITS, sampling, KEYS))[:, 0]
    return np.bincount(codes, minlength=4) / len(codes)


def test_all_codes_are_drawn_by_their_probability():
    np.testing.assert_allclose(shares(Sampling(1.0, 0)), [0.4, 0.3, 0.2, 0.1], atol=0.03)


def test_temperature_sharpens():
    want = np.array([0.4, 0.3, 0.2, 0.1]) ** 2
    np.testing.assert_allclose(shares(Sampling(0.5, 0)), want / want.sum(), atol=0.03)


def test_top_k_leaves_the_likeliest():
    np.testing.assert_allclose(shares(Sampling(1.0, 2)), [4 / 7, 3 / 7, 0, 0], atol=0.03)


def test_top_p_leaves_what_reaches_the_share():
    np.testing.assert_allclose(shares(Sampling(1.0, 0, 0.6)), [4 / 7, 3 / 7, 0, 0], atol=0.03)
    assert shares(Sampling(1.0, 0, 0.3))[0] == 1


def test_no_temperature_takes_the_likeliest():
    assert shares(Sampling(0.0, 3))[0] == 1


def test_rows_may_have_settings_of_their_own():
    logits = jnp.tile(LOGITS, (2, 1))
    codes = np.asarray(draw(logits, Sampling(jnp.array([0.0, 1.0]), 4), KEYS))
    assert (codes[:, 0] == 0).all()
    assert len(np.unique(codes[:, 1])) == 4


def test_penalty_lowers_recent_codes_whatever_their_sign():
    logits = jnp.array([[2.0, -2.0, 1.0, -1.0]])
    lowered = penalize(logits, jnp.array([[0, 1, 1, -2]]), 2.0)
    np.testing.assert_allclose(lowered, [[1.0, -4.0, 1.0, -1.0]])
    np.testing.assert_allclose(penalize(logits, jnp.array([[0, 1]]), 1.0), logits)
