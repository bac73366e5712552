"""The product of frames with a matrix."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moshijax.kernels.dispatch import Kernel


FEW = 2  # rows; up to so many, a CPU is fastest with one matrix-vector product each


def _matmul(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    return jnp.matmul(x, kernel)


def _row_by_row(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    """By matrix-vector products, for a CPU and few rows.

    XLA:CPU's matrix product packs the weights into tiles first. Its matrix-vector product and its
    convolution read them in place: 1.2 to 1.4 times faster for 2 to 64 rows.
    """
    rows = [row @ kernel for row in x.reshape(-1, x.shape[-1])]
    return jnp.stack(rows).reshape(*x.shape[:2], -1)


def _convolution(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    """By a convolution of width 1, for a CPU and more rows: it too reads the weights in place."""
    y = jax.lax.conv_general_dilated(
        x.reshape(1, -1, x.shape[-1]),
        kernel[None],
        (1,),
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return y.reshape(*x.shape[:2], -1)


def _padded(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    """By the matrix product of at least two rows, for a TPU; see `pad_row`."""
    return pad_row(_matmul, x, kernel)


def pad_row(
    multiply: Callable[[Array, Array], Array], x: Float[Array, "B T C"], kernel: Array
) -> Float[Array, "B T D"]:
    """Multiplies, a single row together with a second one of zeros.

    XLA:TPU lowers a vector-matrix product to multiplications and sums on the VPU instead of the
    MXU, which takes 2.7 (v4, v5p) to 20 times (v5e) as many cycles by the compiler's own count.
    """
    if x.shape[0] * x.shape[1] > 1:
        return multiply(x, kernel)
    return multiply(jnp.pad(x, ((0, 0), (0, 1), (0, 0))), kernel)[:, :1]


PRODUCT = Kernel(_matmul, _row_by_row, _convolution, _padded)


@jax.custom_jvp
def product(x: Float[Array, "B T C"], kernel: Float[Array, "C D"]) -> Float[Array, "B T D"]:
    """The matrix product `x @ kernel`."""
    few = x.shape[0] * x.shape[1] <= FEW
    return PRODUCT(x, kernel, cpu=_row_by_row if few else _convolution, tpu=_padded)


@product.defjvp
def _product_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # d(xW) = dx W + x dW by matrix products: XLA:CPU's gradient of a convolution is slow.
    x, kernel = primals
    dx, dkernel = tangents
    return product(x, kernel), dx @ kernel + x @ dkernel
