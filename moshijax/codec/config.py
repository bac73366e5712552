"""The architecture of Mimi, at the published size and at two small ones."""

import dataclasses
import math

from moshijax.nn.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class MimiConfig:
    """The sizes of a Mimi (Moshi, section 3.3)."""

    sample_rate: int
    num_filters: int  # channels next to the waveform; they double at each stage
    ratios: tuple[int, ...]  # of the decoder, in its order; the encoder's are reversed
    kernel_size: int
    residual_kernel_size: int
    last_kernel_size: int
    compress: int  # how much narrower a residual block is inside
    resample_stride: int  # from the rate of the transformers to that of the codes
    transformer: TransformerConfig  # of the encoder and of the decoder
    codebook_dim: int
    codebook_size: int
    num_codebooks: int  # one semantic, the rest acoustic

    @property
    def dim(self) -> int:
        """Width of the latents."""
        return self.transformer.dim

    @property
    def frame_size(self) -> int:
        """Audio samples of a frame."""
        return math.prod(self.ratios) * self.resample_stride

    @property
    def frame_rate(self) -> float:
        """Frames of a second."""
        return self.sample_rate / self.frame_size


_MIMI = MimiConfig(
    sample_rate=24000,
    num_filters=64,
    ratios=(8, 6, 5, 4),
    kernel_size=7,
    residual_kernel_size=3,
    last_kernel_size=3,
    compress=2,
    resample_stride=2,
    transformer=TransformerConfig(
        dim=512,
        num_heads=8,
        num_layers=8,
        mlp_dim=2048,
        context=250,  # 10 s at 25 Hz
        norm="layer",
        gated=False,
        layer_scale=0.01,
        max_period=10000.0,
    ),
    codebook_dim=256,
    codebook_size=2048,
    num_codebooks=32,
)

_SMALL = dataclasses.replace(
    _MIMI,
    num_filters=16,
    transformer=dataclasses.replace(
        _MIMI.transformer, dim=128, num_heads=4, num_layers=4, mlp_dim=512
    ),
    codebook_dim=64,
    codebook_size=512,
    num_codebooks=8,
)

_TINY = MimiConfig(
    sample_rate=24000,
    num_filters=4,
    ratios=(4, 3),
    kernel_size=5,
    residual_kernel_size=3,
    last_kernel_size=3,
    compress=2,
    resample_stride=2,
    transformer=TransformerConfig(
        dim=16,
        num_heads=2,
        num_layers=2,
        mlp_dim=32,
        context=10,
        norm="layer",
        gated=False,
        layer_scale=0.1,
        max_period=10000.0,
    ),
    codebook_dim=8,
    codebook_size=32,
    num_codebooks=4,
)

PRESETS = {"mimi": _MIMI, "small": _SMALL, "tiny": _TINY}
