"""Which rule a parameter's name has: exactly one row of its model's table matches it.

A row is a regex over the end of a name and the spec of the last axes; earlier axes are whole. The
rows lie beside their models (`rules.py`). Optimizer moments and averages, whose names end like
their parameter's, are placed by the same rows.
"""

import math
import re
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from moshijax.nn.paths import named_leaves
from moshijax.shard.mesh import AnyMesh
from moshijax.system.errors import UserError


Value = TypeVar("Value")
Rules = tuple[tuple[str, P], ...]
# The arrays of a kernel with an adapter or of few bits have the rule of the plain kernel.
WRAPPED = re.compile(r"/kernel(/frozen|/values)+$")
Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct  # of a model, or of its shapes
SHOWN = 4  # Of the arrays that an axis does not divide.


def match_one(name: str, rules: Sequence[tuple[str, Value]], what: str) -> Value:
    """The value of the only rule whose regex matches the end of the name.

    Raises:
        UserError: no rule or several rules match.
    """
    found = [(regex, value) for regex, value in rules if re.search(f"(?:^|/)(?:{regex})$", name)]
    if len(found) == 1:
        return found[0][1]
    matches = ", ".join(repr(regex) for regex, _ in found) or "none"
    raise UserError(
        f"{what}: parameter {name!r} must match exactly one rule, it matches {matches}: "
        f"change the rules ({', '.join(repr(regex) for regex, _ in rules)})."
    )


def _whole_spec(name: str, shape: tuple[int, ...], rules: Rules) -> tuple[str | None, ...]:
    """The mesh axis of each dimension by the table, whether it divides or not."""
    if not shape:
        return ()
    last = tuple(match_one(WRAPPED.sub("/kernel", name), rules, "sharding"))
    # Adafactor's means over rows and columns lack an axis of their parameter and are small:
    # replicated. For what it does not keep it has an array of one element.
    if {"v_row", "v_col"} & set(name.split("/")) or math.prod(shape) == 1:
        return (None,) * len(shape)
    if len(last) > len(shape):
        raise ValueError(f"sharding: {name!r} has shape {shape}, fewer axes than its rule {last}.")
    return (None,) * (len(shape) - len(last)) + last


def parameter_spec(name: str, shape: tuple[int, ...], mesh: AnyMesh, rules: Rules) -> P:
    """The spec of one array; an axis that the mesh does not divide stays whole."""
    axes = zip(_whole_spec(name, shape, rules), shape, strict=True)
    return P(*(a if a and size % mesh.shape[a] == 0 else None for a, size in axes))


def undivided(tree: PyTree[Leaf], mesh: AnyMesh, rules: Rules) -> list[str]:
    """What stays whole since its axis of the mesh does not divide it: a line for each axis."""
    found: dict[str, list[str]] = {}
    for name, leaf in named_leaves(tree).items():
        for axis, size in zip(_whole_spec(name, leaf.shape, rules), leaf.shape, strict=True):
            if axis and size % mesh.shape[axis]:
                found.setdefault(axis, []).append(f"{size} of {name}")
    return [
        f"mesh.{axis}={mesh.shape[axis]} does not divide {', '.join(names[:SHOWN])}"
        f"{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}: every device has the "
        "whole of it."
        for axis, names in found.items()
    ]
