import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.lm.depth import _attend_by_sums, attend_few


@pytest.mark.parametrize(("queries", "keys"), [(8, 8), (1, 5)])
def test_sums_of_products_attend_as_matrix_products_do(queries, keys):
    a, b, c = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(a, (3, queries, 2, 4))
    k, v = jax.random.normal(b, (3, keys, 2, 4)), jax.random.normal(c, (3, keys, 2, 4))
    ages = keys - queries + np.arange(queries)[:, None] - np.arange(keys)[None]
    mask = jnp.asarray(ages >= 0)[None]
    want, pull = jax.vjp(lambda q, k, v: attend_few(q, k, v, mask), q, k, v)
    got, pull_by_sums = jax.vjp(lambda q, k, v: _attend_by_sums(q, k, v, mask), q, k, v)
    np.testing.assert_allclose(got, want, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), pull_by_sums(q), pull(q))
