"""Arrays onto the mesh: where each leaf of a tree lives, by its model's rules."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding
from jaxtyping import ArrayLike, PyTree

from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.shard.mesh import AnyMesh
from moshijax.shard.rules import Leaf, Rules, parameter_spec


Tree = TypeVar("Tree")


def shard_like(tree: PyTree[Leaf], mesh: AnyMesh, rules: Rules) -> PyTree[NamedSharding]:
    """The sharding of each leaf of a state or of frozen arrays (arrays or shapes)."""
    specs = {
        n: parameter_spec(n, tuple(x.shape), mesh, rules) for n, x in named_leaves(tree).items()
    }
    return with_leaves(tree, {name: NamedSharding(mesh, spec) for name, spec in specs.items()})


def shaped(tree: PyTree[Leaf], shardings: PyTree[NamedSharding]) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of arrays, each with its sharding."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def put(array: ArrayLike, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process has whole, or that is spread over the mesh already.

    Each process feeds its own devices: `jax.device_put` would first check that the values of all
    processes are equal.
    """
    spread = isinstance(array, jax.Array) and not array.is_fully_addressable
    if sharding.is_fully_addressable or spread:
        return jax.device_put(array, sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def place(tree: Tree, mesh: AnyMesh, rules: Rules) -> Tree:
    """Puts every leaf where its rule says; shapes get the sharding that the array would have."""
    shardings = shard_like(tree, mesh, rules)
    shapes = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree))
    if shapes or isinstance(mesh, AbstractMesh):
        return shaped(tree, shardings)
    if mesh.is_multi_process:
        return jax.tree.map(put, tree, shardings)
    return jax.device_put(tree, shardings)
