"""SEANet: the convolutional encoder and decoder between waveform and latents.

Activations come before each convolution but the first, and nothing bounds the waveform at the
end (Moshi, section 3.3.1).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moshijax.codec.config import MimiConfig
from moshijax.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState
from moshijax.nn.linear import Linear
from moshijax.nn.streaming import State


def elu(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """ELU with exp instead of expm1: faster on a CPU, and within 1e-7."""
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1)


class ResidualBlock(nnx.Module):
    """A narrow convolution and a projection, added to their input."""

    def __init__(self, channels: int, kernel_size: int, compress: int, *, rngs: nnx.Rngs):
        self.conv = CausalConv1d(channels, channels // compress, kernel_size, rngs=rngs)
        self.out = Linear(channels // compress, channels, rngs=rngs)

    def init_state(self, batch_size: int) -> ConvState:
        """Returns the state before a stream."""
        return self.conv.init_state(batch_size)

    def __call__(
        self, x: Float[Array, "B T C"], state: ConvState | None = None
    ) -> tuple[Float[Array, "B T C"], ConvState | None]:
        """Transforms one chunk."""
        y, state = self.conv(elu(x), state)
        return x + self.out(elu(y)), state


Layer = CausalConv1d | CausalConvTranspose1d | ResidualBlock


def _chain(layers: Sequence[Layer], x: Array, state: State) -> tuple[Array, State]:
    """Applies layers one after the other; the activation precedes all but the first and blocks."""
    states = []
    for i, layer in enumerate(layers):
        before = x if i == 0 or isinstance(layer, ResidualBlock) else elu(x)
        x, new = layer(before, None if state is None else state[i])
        states.append(new)
    return x, None if state is None else tuple(states)


class SeanetEncoder(nnx.Module):
    """Waveform to latents, at `frame_size / resample_stride` samples each."""

    def __init__(self, config: MimiConfig, *, rngs: nnx.Rngs):
        channels = config.num_filters
        self.first = CausalConv1d(1, channels, config.kernel_size, rngs=rngs)
        blocks, downs = [], []
        for ratio in reversed(config.ratios):
            blocks.append(
                ResidualBlock(channels, config.residual_kernel_size, config.compress, rngs=rngs)
            )
            downs.append(CausalConv1d(channels, 2 * channels, 2 * ratio, stride=ratio, rngs=rngs))
            channels *= 2
        self.blocks, self.downs = nnx.List(blocks), nnx.List(downs)
        self.last = CausalConv1d(channels, config.dim, config.last_kernel_size, rngs=rngs)

    def _layers(self) -> list[Layer]:
        stages = zip(self.blocks, self.downs, strict=True)
        return [self.first, *(layer for stage in stages for layer in stage), self.last]

    def init_state(self, batch_size: int) -> tuple[ConvState, ...]:
        """Returns the state before a stream."""
        return tuple(layer.init_state(batch_size) for layer in self._layers())

    def __call__(
        self, x: Float[Array, "B samples 1"], state: State = None
    ) -> tuple[Float[Array, "B T D"], State]:
        """Encodes one chunk."""
        return _chain(self._layers(), x, state)


class SeanetDecoder(nnx.Module):
    """Latents to waveform."""

    def __init__(self, config: MimiConfig, *, rngs: nnx.Rngs):
        channels = config.num_filters * 2 ** len(config.ratios)
        self.first = CausalConv1d(config.dim, channels, config.kernel_size, rngs=rngs)
        ups, blocks = [], []
        for ratio in config.ratios:
            ups.append(
                CausalConvTranspose1d(channels, channels // 2, 2 * ratio, stride=ratio, rngs=rngs)
            )
            channels //= 2
            blocks.append(
                ResidualBlock(channels, config.residual_kernel_size, config.compress, rngs=rngs)
            )
        self.ups, self.blocks = nnx.List(ups), nnx.List(blocks)
        self.last = CausalConv1d(channels, 1, config.last_kernel_size, rngs=rngs)

    def _layers(self) -> list[Layer]:
        stages = zip(self.ups, self.blocks, strict=True)
        return [self.first, *(layer for stage in stages for layer in stage), self.last]

    def init_state(self, batch_size: int) -> tuple[ConvState, ...]:
        """Returns the state before a stream."""
        return tuple(layer.init_state(batch_size) for layer in self._layers())

    def __call__(
        self, x: Float[Array, "B T D"], state: State = None
    ) -> tuple[Float[Array, "B samples 1"], State]:
        """Decodes one chunk."""
        return _chain(self._layers(), x, state)
