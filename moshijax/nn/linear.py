"""A linear map of the last axis."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@jax.custom_jvp
def product(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    """Multiplies by a matrix.

    XLA's matrix product on a CPU first packs the weights. Its product with a vector and its
    convolution read them where they lie: 1.2 to 1.4 times faster for 2 to 64 rows.
    """
    few = x.shape[0] * x.shape[1] <= 2
    on_cpu = _row_by_row if few else _convolve
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=jnp.matmul)


def _row_by_row(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    rows = [row @ kernel for row in x.reshape(-1, x.shape[-1])]
    return jnp.stack(rows).reshape(*x.shape[:2], -1)


def _convolve(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    y = jax.lax.conv_general_dilated(
        x.reshape(1, -1, x.shape[-1]),
        kernel[None],
        (1,),
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return y.reshape(*x.shape[:2], -1)


@product.defjvp
def _product_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # Through matrix products: a convolution's gradient is slow on a CPU.
    x, kernel = primals
    dx, dkernel = tangents
    return product(x, kernel), dx @ kernel + x @ dkernel


class Linear(nnx.Module):
    """A linear map with an optional bias."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ):
        init = nnx.initializers.lecun_normal()
        shape = (in_features, out_features)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Maps each frame."""
        y = product(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]
