import jax
import jax.numpy as jnp

from distill import cache


def test_digests_are_of_names_types_and_values():
    tree = {"a": jnp.ones(3), "b": jnp.zeros(3)}
    marks = {cache.digest(tree)}
    marks.add(cache.digest({"a": tree["b"], "b": tree["a"]}))
    marks.add(cache.digest(jax.tree.map(lambda x: x.astype(jnp.float16), tree)))
    marks.add(cache.digest(tree | {"a": tree["a"].reshape(3, 1)}))
    assert len(marks) == 4
    assert cache.digest(dict(reversed(tree.items()))) in marks
