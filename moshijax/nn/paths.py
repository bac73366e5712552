"""Models as flat tables from a path such as `encoder/first/kernel` to an array."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from jax.tree_util import KeyPath
from jaxtyping import PyTree


Tree = TypeVar("Tree")


def path_name(path: KeyPath, *below: str) -> str:
    """Joins a path of the tree, and names below it, with slashes."""
    # The array of an nnx variable is a leaf named `value` below it.
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return "/".join(filter(None, (name, *below))).removesuffix("/value")


def named_leaves(model: PyTree) -> dict[str, Any]:
    """Returns the arrays of a model (or their shapes) by path, in the order of the tree."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def with_leaves(model: Tree, leaves: Mapping[str, object]) -> Tree:
    """Returns the model with every array taken from a table."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], model)
