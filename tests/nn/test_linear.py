import jax
import numpy as np
from flax import nnx

from moshijax.nn.linear import Linear


def test_linear_adds_its_bias():
    linear = Linear(4, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    biased = jax.tree.map(lambda leaf: leaf + 1.0 if leaf.ndim == 1 else leaf, linear)
    np.testing.assert_allclose(biased(x), linear(x) + 1, atol=1e-6)
