"""Causal convolutions over `[B, T, C]`, strided, dilated and transposed.

Both keep their last inputs as state. Mimi's are those of SEANet (Moshi, section 3.3.1): what lies
before the stream is zeros, but for the one convolution that repeats the first input.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


LONG = 256  # From here on XLA's CPU convolution is faster in two dimensions than in one.


class ConvState(NamedTuple):
    """The inputs that later outputs still need."""

    tail: Float[Array, "B P C"]
    fresh: Bool[Array, "B"]  # True until the row's first chunk.


def convolve(
    x: Float[Array, "B T_in C"],
    kernel: Float[Array, "P C D"],
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "B T_out D"]:
    """Convolves without padding."""
    if stride == 1 and x.shape[1] > LONG:
        return jax.lax.conv_general_dilated(
            x[:, None],
            kernel[None],
            (1, 1),
            "VALID",
            rhs_dilation=(1, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[:, 0]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,),
        "VALID",
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


class CausalConv1d(nnx.Module):
    """A strided, dilated convolution whose output depends only on the past."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = True,
        repeat_first: bool = False,
        rngs: nnx.Rngs,
    ):
        if (kernel_size - 1) * dilation + 1 < stride:
            raise ValueError(f"kernel_size {kernel_size} skips inputs at stride {stride}")
        init = nnx.initializers.lecun_normal(in_axis=(0, 1))
        shape = (kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None
        self.stride = stride
        self.dilation = dilation
        self.padding = (kernel_size - 1) * dilation + 1 - stride
        self.repeat_first = repeat_first

    def init_state(self, batch_size: int) -> ConvState:
        """Returns the state before a stream."""
        kernel = self.kernel[...]
        tail = jnp.zeros((batch_size, self.padding, kernel.shape[1]), kernel.dtype)
        return ConvState(tail, jnp.ones(batch_size, bool))

    def __call__(
        self, x: Float[Array, "B T C"], state: ConvState | None = None
    ) -> tuple[Float[Array, "B T_out D"], ConvState | None]:
        """Convolves one chunk; T must be a multiple of the stride."""
        if x.shape[1] == 0 or x.shape[1] % self.stride:
            raise ValueError(f"a chunk of {x.shape[1]} is no multiple of the stride {self.stride}")
        past = self.init_state(x.shape[0]) if state is None else state
        tail = past.tail
        if self.repeat_first:
            first = jnp.broadcast_to(x[:, :1], tail.shape)
            tail = jnp.where(past.fresh[:, None, None], first, tail)
        x = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
        y = convolve(x, self.kernel[...].astype(x.dtype), self.stride, self.dilation)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)[None, None]
        if state is None:
            return y, None
        tail = x[:, x.shape[1] - self.padding :].astype(tail.dtype)
        return y, ConvState(tail, jnp.zeros_like(past.fresh))


class CausalConvTranspose1d(nnx.Module):
    """A transposed convolution, cut so that T inputs give exactly T * stride outputs.

    The kernel is [taps, C, stride, D]: output `t * stride + r` is the sum over taps j, the oldest
    first, of `x[t - taps + 1 + j] @ kernel[j, :, r]`. So it is an ordinary convolution to
    `stride * D` channels. A depthwise one, [taps, 1, stride, C], scales each channel by itself.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        use_bias: bool = True,
        depthwise: bool = False,
        rngs: nnx.Rngs,
    ):
        if kernel_size % stride:
            raise ValueError(f"kernel_size {kernel_size} is no multiple of stride {stride}")
        if depthwise and in_channels != out_channels:
            raise ValueError(f"depthwise, but {in_channels} channels in and {out_channels} out")
        taps = kernel_size // stride
        shape = (taps, 1 if depthwise else in_channels, stride, out_channels)
        init = nnx.initializers.lecun_normal(in_axis=(0, 1), out_axis=(2, 3))
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None
        self.in_channels = in_channels
        self.stride = stride
        self.padding = taps - 1
        self.depthwise = depthwise

    def init_state(self, batch_size: int) -> ConvState:
        """Returns the state before a stream."""
        shape = (batch_size, self.padding, self.in_channels)
        return ConvState(jnp.zeros(shape, self.kernel[...].dtype), jnp.ones(batch_size, bool))

    def __call__(
        self, x: Float[Array, "B T C"], state: ConvState | None = None
    ) -> tuple[Float[Array, "B T_out D"], ConvState | None]:
        """Convolves one chunk."""
        if x.shape[1] == 0:
            raise ValueError("a chunk of 0 inputs")
        past = self.init_state(x.shape[0]) if state is None else state
        x = jnp.concatenate([past.tail.astype(x.dtype), x], axis=1)
        y = self._scale(x) if self.depthwise else self._multiply(x)
        y = y.reshape(y.shape[0], -1, y.shape[-1])
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)[None, None]
        if state is None:
            return y, None
        tail = x[:, x.shape[1] - self.padding :].astype(past.tail.dtype)
        return y, ConvState(tail, jnp.zeros_like(past.fresh))

    def _multiply(self, x: Float[Array, "B T_in C"]) -> Float[Array, "B T stride D"]:
        kernel = self.kernel[...].astype(x.dtype)
        taps, channels, stride, out = kernel.shape
        y = convolve(x, kernel.reshape(taps, channels, stride * out))
        return y.reshape(*y.shape[:2], stride, out)

    def _scale(self, x: Float[Array, "B T_in C"]) -> Float[Array, "B T stride C"]:
        kernel = self.kernel[...].astype(x.dtype)
        length = x.shape[1] - self.padding
        taps = [x[:, j : j + length] for j in range(self.padding + 1)]
        # j taps, r outputs of an input: [B, T, taps, C] and [taps, stride, C].
        return jnp.einsum("btjc,jrc->btrc", jnp.stack(taps, axis=2), kernel[:, 0])
