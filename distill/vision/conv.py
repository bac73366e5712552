"""Two-dimensional convolution with the symmetric padding of the BiT ResNets."""

import jax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], stride: int = 1
) -> Float[Array, "B H_out W_out D"]:
    """Convolves channels-last images, padded by half of the (odd) kernel size on each side."""
    pad_h, pad_w = kernel.shape[0] // 2, kernel.shape[1] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad_h, pad_h), (pad_w, pad_w)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
