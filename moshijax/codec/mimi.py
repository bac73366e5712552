"""Mimi: audio to codes at 12.5 frames a second, and back.

Two transformers at twice that rate sit between SEANet and the quantizer (Moshi, section 3.3).
"""

from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moshijax.codec.config import MimiConfig
from moshijax.codec.quantize import SplitQuantizer, freeze_codebooks
from moshijax.codec.seanet import SeanetDecoder, SeanetEncoder
from moshijax.nn.conv import CausalConv1d, CausalConvTranspose1d
from moshijax.nn.streaming import State
from moshijax.nn.transformer import Transformer, unstack


Tree = TypeVar("Tree")


class HalfState(NamedTuple):
    """The state of one half of Mimi."""

    seanet: State
    transformer: State
    resample: State


class MimiEncoder(nnx.Module):
    """Waveform to latents, one for each frame."""

    def __init__(self, config: MimiConfig, *, rngs: nnx.Rngs):
        stride = config.resample_stride
        self.seanet = SeanetEncoder(config, rngs=rngs)
        self.transformer = Transformer(config.transformer, rngs=rngs)
        # The one convolution that repeats the first input before a stream instead of zeros.
        self.downsample = CausalConv1d(
            config.dim,
            config.dim,
            2 * stride,
            stride=stride,
            use_bias=False,
            repeat_first=True,
            rngs=rngs,
        )
        self.frame_size = config.frame_size
        self.resample_stride = stride

    def init_state(self, batch_size: int, max_frames: int = 1) -> HalfState:
        """Returns the state before a stream of chunks of at most `max_frames` frames."""
        return HalfState(
            self.seanet.init_state(batch_size),
            self.transformer.init_state(batch_size, max_frames * self.resample_stride),
            self.downsample.init_state(batch_size),
        )

    def __call__(
        self, audio: Float[Array, "B samples 1"], state: HalfState | None = None
    ) -> tuple[Float[Array, "B T D"], HalfState | None]:
        """Encodes one chunk of whole frames."""
        if audio.shape[1] == 0 or audio.shape[1] % self.frame_size:
            raise ValueError(
                f"{audio.shape[1]} samples are no whole number of frames of {self.frame_size}; "
                "pad the end with zeros"
            )
        seanet, transformer, downsample = (None, None, None) if state is None else state
        x, seanet = self.seanet(audio, seanet)
        x, transformer = self.transformer(x, transformer)
        x, downsample = self.downsample(x, downsample)
        return x, None if state is None else HalfState(seanet, transformer, downsample)


class MimiDecoder(nnx.Module):
    """Latents to waveform, `frame_size` samples for each."""

    def __init__(self, config: MimiConfig, *, rngs: nnx.Rngs):
        stride = config.resample_stride
        # One kernel for each channel: Moshi's code calls this a mistake that it keeps.
        self.upsample = CausalConvTranspose1d(
            config.dim,
            config.dim,
            2 * stride,
            stride=stride,
            use_bias=False,
            depthwise=True,
            rngs=rngs,
        )
        self.transformer = Transformer(config.transformer, rngs=rngs)
        self.seanet = SeanetDecoder(config, rngs=rngs)
        self.resample_stride = stride

    def init_state(self, batch_size: int, max_frames: int = 1) -> HalfState:
        """Returns the state before a stream of chunks of at most `max_frames` frames."""
        return HalfState(
            self.seanet.init_state(batch_size),
            self.transformer.init_state(batch_size, max_frames * self.resample_stride),
            self.upsample.init_state(batch_size),
        )

    def __call__(
        self, latents: Float[Array, "B T D"], state: HalfState | None = None
    ) -> tuple[Float[Array, "B samples 1"], HalfState | None]:
        """Decodes one chunk."""
        seanet, transformer, upsample = (None, None, None) if state is None else state
        x, upsample = self.upsample(latents, upsample)
        x, transformer = self.transformer(x, transformer)
        x, seanet = self.seanet(x, seanet)
        return x, None if state is None else HalfState(seanet, transformer, upsample)


class Mimi(nnx.Module):
    """The codec; each direction streams by itself, with the state of its half."""

    def __init__(self, config: MimiConfig, *, rngs: nnx.Rngs):
        self.encoder = MimiEncoder(config, rngs=rngs)
        self.quantizer = SplitQuantizer(
            config.dim,
            config.codebook_dim,
            config.codebook_size,
            config.num_codebooks,
            rngs=rngs,
        )
        self.decoder = MimiDecoder(config, rngs=rngs)
        self.config = config

    def encode(
        self,
        audio: Float[Array, "B samples C"],
        state: HalfState | None = None,
        *,
        num_codebooks: int = 8,
    ) -> tuple[Int[Array, "B K T"], HalfState | None]:
        """Encodes mono audio at the model's rate.

        A whole stream is padded with zeros to whole frames; the chunks of one must be whole.
        """
        if audio.shape[2] != 1:
            raise ValueError(f"audio has {audio.shape[2]} channels; Mimi is mono, so mix them")
        self.quantizer.check(num_codebooks)
        if state is None:
            audio = pad_to_frames(audio, self.config.frame_size)
        latents, state = self.encoder(audio, state)
        return self.quantizer.quantize(latents, num_codebooks), state

    def decode(
        self, codes: Int[Array, "B K T"], state: HalfState | None = None
    ) -> tuple[Float[Array, "B samples 1"], HalfState | None]:
        """Decodes as many codebooks as there are codes."""
        return self.decoder(self.quantizer.dequantize(codes), state)

    def reconstruct(
        self, audio: Float[Array, "B samples 1"], *, num_codebooks: int = 8
    ) -> Float[Array, "B samples 1"]:
        """Encodes and decodes whole streams; the length stays."""
        codes, _ = self.encode(audio, num_codebooks=num_codebooks)
        return self.decode(codes)[0][:, : audio.shape[1]]


def pad_to_frames(
    audio: Float[Array, "B samples 1"], frame_size: int
) -> Float[Array, "B padded 1"]:
    """Appends zeros up to a whole number of frames."""
    return jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % frame_size), (0, 0)))


def for_inference(model: Tree) -> Tree:
    """Arranges the weights of a codec for speed, once: separate layers, ready codebooks."""
    return freeze_codebooks(unstack(model))
