"""Convolution and max-pool of the BiT ResNets, each in the form that differentiates well.

XLA compiles the plain operations well for accelerators, but four are slow on a CPU (factors on one
core). The kernel gradient of a 1x1 convolution takes 2 to 4 times as long as a matrix product; the
product's gradient by JAX takes 4 times as long, because it transposes the larger operand; a kernel
larger than its output takes up to 60 times as long, and the gradient of a max-pool 10 times.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], stride: int = 1
) -> Float[Array, "B H_out W_out D"]:
    """Convolves channels-last images, padded by half of the (odd) kernel size on each side."""
    h, w, C, D = kernel.shape
    if h == w == 1:
        return _matmul(x[:, ::stride, ::stride], kernel.reshape(C, D))
    H_out, W_out = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    if H_out * W_out < h * w:
        return _matmul(_patches(x, h, w, stride), kernel.reshape(h * w * C, D))
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((h // 2, h // 2), (w // 2, w // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def max_pool(x: Float[Array, "B H W C"], fill: float) -> Float[Array, "B H_out W_out C"]:
    """The maximum of 3x3 windows at every other pixel; `fill` surrounds the image."""
    H, W = x.shape[1:3]
    padding = ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.array(fill, x.dtype), padding)
    x = jnp.maximum(jnp.maximum(x[:, :H:2], x[:, 1 : H + 1 : 2]), x[:, 2::2])
    return jnp.maximum(jnp.maximum(x[:, :, :W:2], x[:, :, 1 : W + 1 : 2]), x[:, :, 2::2])


def _patches(
    x: Float[Array, "B H W C"], h: int, w: int, stride: int
) -> Float[Array, "B H_out W_out K"]:
    """The input patch under the kernel at every output position (im2col), flattened as [h w C]."""
    H, W = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (h // 2, h // 2), (w // 2, w // 2), (0, 0)))
    views = [padded[:, i : i + H : stride, j : j + W : stride] for i in range(h) for j in range(w)]
    return jnp.concatenate(views, axis=-1)


@jax.custom_vjp
def _matmul(x: Float[Array, "B H W C"], kernel: Float[Array, "C D"]) -> Float[Array, "B H W D"]:
    return x @ kernel


def _matmul_backward(saved, dy):
    x, kernel = saved
    rows = (0, 1, 2)
    return dy @ kernel.T, jax.lax.dot_general(x, dy, ((rows, rows), ((), ())))


_matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)
