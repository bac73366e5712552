"""Adapters of low rank beside frozen kernels (LoRA, arXiv:2106.09685).

`y = x W + (x A) B scaling`; the scaling is not divided by the rank, as in Moshi's own code. A
kernel with an adapter takes the place of the array in a `Linear`, stacked or not.

To train adapters alone, differentiate by what `adapters` returns:

    def loss(trained):
        return lm_loss(share_adapters(with_adapters(model, trained)), codes, config)

    gradients = jax.grad(loss, has_aux=True)(adapters(model))

or give an optimizer the table `FROZEN`. Moshi's files have one A for what one matrix of theirs
holds (q, k and v; gate and up): `share_adapters` inside the loss trains it as one, and a last time
before saving.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from moshijax.nn.linear import Kernel, Linear, map_kernels, multiply, uniform
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.nn.quant import Quantised


Tree = TypeVar("Tree")

# Regex over a parameter's name -> whether an optimizer leaves it alone.
FROZEN = ((r".*kernel/[ab]", False), (r".*(?<!kernel/a)(?<!kernel/b)", True))
ADAPTER = re.compile(r"kernel/[ab]$")
SHARING = re.compile(r"(.*/)(k|v|up)((?:/\d+)?/kernel/a)")
SHARED_WITH = {"k": "q", "v": "q", "up": "gate"}


class Lora(nnx.Module):
    """A kernel W and its adapter A B; B begins as zeros, so the product begins as `x W`.

    Args:
        frozen: W, [*L, C, D]: an array or quantised.
        rank: columns of A and rows of B.
        scaling: of the adapter's product.
        key: A is drawn from it.
    """

    def __init__(self, frozen: nnx.Param | Quantised, rank: int, scaling: float, key: Array):
        *stacked, inputs, outputs = frozen.shape
        self.frozen = frozen
        self.a = nnx.Param(uniform(key, (*stacked, inputs, rank)).astype(frozen.dtype))
        self.b = nnx.Param(jnp.zeros((*stacked, rank, outputs), frozen.dtype))
        self.scaling = scaling

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return self.frozen.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """`x W + (x A) B scaling`."""
        low = x @ self.a[...].astype(x.dtype)
        return multiply(self.frozen, x) + (low @ self.b[...].astype(x.dtype)) * self.scaling


def add_lora(model: Tree, rank: int, scaling: float, key: Array) -> Tree:
    """Gives the kernel of every `Linear` an adapter; one A for q, k and v, and for gate and up."""
    number = len(jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Linear)))
    keys = iter(jax.random.split(key, number))
    adapted = map_kernels(model, lambda name, x: adapt(name, x, rank, scaling, next(keys)))
    return share_adapters(adapted)


def adapt(name: str, kernel: Kernel, rank: int, scaling: float, key: Array) -> Lora:
    """Gives one kernel an adapter.

    Raises:
        ValueError: it has one already.
    """
    if not isinstance(kernel, nnx.Param | Quantised):
        raise ValueError(f"{name} has an adapter already: fuse that first.")
    return Lora(kernel, rank, scaling, key)


def fuse_lora(model: Tree) -> Tree:
    """Adds every adapter to its kernel, which is an array again.

    Raises:
        ValueError: a kernel is no array.
    """

    def fuse(name: str, kernel: Kernel) -> Kernel:
        if not isinstance(kernel, Lora):
            return kernel
        if isinstance(kernel.frozen, nnx.Module):
            raise ValueError(
                f"{name} is quantised, so no adapter can be added to it: fuse first, then quantise."
            )
        frozen, a, b = (x[...].astype(jnp.float32) for x in (kernel.frozen, kernel.a, kernel.b))
        return nnx.Param((frozen + kernel.scaling * (a @ b)).astype(kernel.frozen.dtype))

    return map_kernels(model, fuse)


def scaling_of(model: PyTree) -> float | None:
    """Returns the scaling of a model's adapters; None if it has none.

    Raises:
        ValueError: they have several.
    """
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Lora))
    found = {float(node.scaling) for node in nodes if isinstance(node, Lora)}
    if len(found) > 1:
        raise ValueError(f"adapters have the scalings {sorted(found)}: files have one for all.")
    return found.pop() if found else None


def share_adapters(model: Tree) -> Tree:
    """Gives k and v the A of q, and up that of gate; the gradient of all goes to the one."""
    leaves = named_leaves(model)
    for name in leaves:
        if match := SHARING.fullmatch(name):
            before, own, after = match.groups()
            leaves[name] = leaves[f"{before}{SHARED_WITH[own]}{after}"]
    return with_leaves(model, leaves)


def adapters(model: PyTree) -> dict[str, Any]:
    """Returns the arrays (or shapes) of all adapters by name."""
    return {name: x for name, x in named_leaves(model).items() if ADAPTER.search(name)}


def with_adapters(model: Tree, trained: Mapping[str, object]) -> Tree:
    """Returns the model with its adapters from a table."""
    return with_leaves(model, {**named_leaves(model), **trained})
