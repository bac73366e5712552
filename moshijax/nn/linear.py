"""A linear map of the last axis."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import KeyPath
from jaxtyping import Array, Float

from moshijax.kernels.matmul import product
from moshijax.nn.paths import path_name


Tree = TypeVar("Tree")


@runtime_checkable
class KernelModule(Protocol):
    """A module in the place of a kernel [C, D]: quantised (`nn.quant`), adapted (`nn.lora`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel, stacked layers in front."""
        ...

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        ...

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Multiplies each frame by the kernel."""
        ...


Kernel = nnx.Param | KernelModule


def truncated(key: Array, shape: tuple[int, ...]) -> Array:
    """A normal of variance 1 / fan-in, cut at three deviations: how Moshi begins."""
    return jax.random.truncated_normal(key, -3.0, 3.0, shape) * shape[-2] ** -0.5


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform within 1 / sqrt(fan-in): how Moshi's depth transformer begins."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class Linear(nnx.Module):
    """The map `x @ kernel + bias` of each frame, with or without a bias.

    The kernel is an array [C, D] or, once quantised or adapted, a `KernelModule`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        init: Callable[[Array, tuple[int, ...]], Array] = truncated,
        rngs: nnx.Rngs,
    ):
        self.kernel: Kernel = nnx.Param(init(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Maps each frame."""
        y = multiply(self.kernel, x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]


def multiply(kernel: Kernel, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
    """The product `x @ kernel`, of an array or of a module in its place."""
    if isinstance(kernel, nnx.Param):
        return product(x, kernel[...].astype(x.dtype))
    return kernel(x)


def map_kernels(model: Tree, change: Callable[[str, Kernel], Kernel]) -> Tree:
    """Replaces the kernel of every `Linear` by `change(name, kernel)`."""

    def visit(path: KeyPath, node: object) -> object:
        if not isinstance(node, Linear):
            return node
        new = change(path_name(path, "kernel"), node.kernel)

        def is_kernel(part: object) -> bool:
            return part is node.kernel

        return jax.tree.map(lambda x: new if is_kernel(x) else x, node, is_leaf=is_kernel)

    return jax.tree_util.tree_map_with_path(
        visit, model, is_leaf=lambda node: isinstance(node, Linear)
    )
