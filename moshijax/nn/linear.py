"""A linear map of the last axis."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moshijax.kernels.matmul import product
from moshijax.nn.paths import path_name


Tree = TypeVar("Tree")


def truncated(key: Array, shape: tuple[int, ...]) -> Array:
    """A normal of variance 1 / fan-in, cut at three deviations: how Moshi begins."""
    return jax.random.truncated_normal(key, -3.0, 3.0, shape) * shape[-2] ** -0.5


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform within 1 / sqrt(fan-in): how Moshi's depth transformer begins."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class Linear(nnx.Module):
    """A linear map with an optional bias.

    Its kernel is an array, or a module that stands for one and multiplies by it.
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
        self.kernel = nnx.Param(init(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Maps each frame."""
        y = multiply(self.kernel, x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]


def multiply(kernel: Any, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
    """Multiplies by a kernel, whichever of the two it is."""
    if isinstance(kernel, nnx.Module):
        return kernel(x)
    return product(x, kernel[...].astype(x.dtype))


def map_kernels(model: Tree, change: Callable[[str, Any], Any]) -> Tree:
    """Returns the model with the kernel of every `Linear` changed, given its name and itself."""

    def visit(path: tuple[Any, ...], node: Any) -> Any:
        if not isinstance(node, Linear):
            return node
        new = change(path_name(path, "kernel"), node.kernel)

        def is_kernel(part: Any) -> bool:
            return part is node.kernel

        return jax.tree.map(lambda x: new if is_kernel(x) else x, node, is_leaf=is_kernel)

    return jax.tree_util.tree_map_with_path(
        visit, model, is_leaf=lambda node: isinstance(node, Linear)
    )
