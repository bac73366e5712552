import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.kernels.attend import attend
from moshijax.kernels.cache import WRITE, KVCache, attend_filled, extend


pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("length", [1, 3])
def test_rewriting_a_cache_is_writing_into_it(length):
    rng = np.random.default_rng(0)
    slots = 3 + length
    state = KVCache(
        jnp.zeros((2, 2, 4, slots)), jnp.zeros((2, 2, slots, 4)), jnp.array([0, 5], jnp.int32)
    )
    for _ in range(4):
        k, v = jnp.asarray(rng.standard_normal((2, 2, length, 2, 4)), jnp.float32)
        written, positions = extend(state, k, v)
        rewritten = WRITE.bodies["rewrite"](state, k, v, positions)
        for a, b in zip(written, rewritten, strict=True):
            np.testing.assert_array_equal(a, b)
        state = written


def test_only_a_tpu_rewrites_a_cache():
    def lower(slots, platform):
        one = jnp.zeros((1, 1, 2, 4))
        cache = KVCache(jnp.zeros((1, 2, 4, slots)), jnp.zeros((1, 2, slots, 4)), jnp.zeros(1, int))
        return (
            jax.jit(extend).trace(cache, one, one).lower(lowering_platforms=(platform,)).as_text()
        )

    for size in (100, 3000):
        assert "scatter" not in lower(size, "tpu")
        assert "scatter" in lower(size, "cpu")
        assert "scatter" in lower(size, "cuda")


@pytest.mark.parametrize("ends", [(0, 3), (150, 20), (299, 299), (700, 5)])
def test_reading_the_filled_part_is_reading_all(ends):
    keys = jax.random.split(jax.random.key(3), 2)
    k, v = jax.random.normal(keys[0], (2, 2, 4, 300)), jax.random.normal(keys[1], (2, 2, 300, 4))
    state = KVCache(k, v, jnp.array(ends))
    written = jnp.arange(300)[None] < state.end[:, None]
    q = jax.random.normal(jax.random.key(4), (2, 1, 2, 4))
    y = attend_filled(q, state, written[:, None] | (state.end == 0)[:, None, None])
    for row, end in enumerate(ends):
        stop = min(end, 300) or 300
        part = KVCache(k[row:, ..., :stop], v[row:, :, :stop], state.end[row:])
        if end:
            want = attend(q[row:], part.k, part.v, jnp.ones((1, 1, stop), bool))
            np.testing.assert_allclose(y[row], want[0], atol=1e-6)
