"""Two-dimensional convolution with the symmetric padding of the BiT ResNets.

Three formulations, chosen by the shapes alone and all differentiated as they stand. The stock
convolution is the best there is but for two cases on the CPU: the kernel gradient of a 1x1
takes twice the time of a matrix product, and a kernel larger than its output, which XLA turns
inside out, up to a hundred times that.
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
        return x[:, ::stride, ::stride] @ kernel.reshape(C, D)
    H_out, W_out = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    if H_out * W_out < h * w:
        return _patches(x, h, w, stride) @ kernel.reshape(h * w * C, D)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((h // 2, h // 2), (w // 2, w // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _patches(
    x: Float[Array, "B H W C"], h: int, w: int, stride: int
) -> Float[Array, "B H_out W_out K"]:
    """What the kernel sees at every output, in the kernel's order."""
    H, W = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (h // 2, h // 2), (w // 2, w // 2), (0, 0)))
    views = [padded[:, i : i + H : stride, j : j + W : stride] for i in range(h) for j in range(w)]
    return jnp.concatenate(views, axis=-1)
