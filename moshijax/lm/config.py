"""What a language model is made of.

All have rms norms (epsilon 1e-8), SiLU gates, and rotary positions in the temporal transformer but
none in the depth transformer.
"""

import dataclasses

from moshijax.nn.transformer import TransformerConfig


ZERO = -1  # A code that embeds to zero and is no target.
UNGENERATED = -2  # A code still to be sampled.


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """The transformer over the codebooks of one frame (Moshi, section 3.4.1)."""

    dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int
    num_codebooks: int  # that it predicts
    schedule: tuple[int, ...] | None  # the weight set of each codebook; None: one each
    low_rank: int | None  # rank of the embeddings; None: full

    @property
    def sets(self) -> tuple[int, ...]:
        """The weight set of each codebook."""
        return self.schedule or tuple(range(self.num_codebooks))


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
    """One conditioner: a table of known values, or vectors given as they are."""

    name: str
    fuse: str  # "sum": added to each frame; "cross": attended to
    dim: int
    num_values: int | None  # rows of the table besides the absent one; None: vectors
    values: tuple[str, ...] | None = None  # their names; None: by hash


@dataclasses.dataclass(frozen=True)
class MoshiConfig:
    """A model over one text stream and `num_codebooks` audio streams."""

    dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int
    context: int
    max_period: float
    text_vocab: int
    num_codebooks: int  # audio streams read: first those it predicts, then the user's
    codebook_size: int
    delays: tuple[int, ...]  # in frames; text first
    depth: DepthConfig | None
    conditions: tuple[ConditionConfig, ...] = ()
    positioned_sources: bool = False  # sinusoidal positions on what is attended to
    two_texts: bool = False  # a text code may hold two pieces
    num_pause_heads: int = 0
    ignore_text_end: bool = False  # Hibiki: end of text is read as padding
    frame_shift: float = 0.0  # seconds of audio that text lags (STT) or leads (TTS)
    silence_prefix: float = 0.0  # seconds of silence before a recording (STT)
    text_padding: int = 3
    text_padding_end: int = 0
    remat: str = "full"  # what training computes anew: a key of nn.transformer.REMAT
    kernel: str = "xla"  # attention in training: one of nn.attention.KERNELS

    def __post_init__(self):
        if len(self.delays) != self.num_codebooks + 1:
            raise ValueError(
                f"delays: {len(self.delays)} given for {self.num_codebooks + 1} streams "
                "(text and every codebook): give one each."
            )
        if min(self.delays) < 0:
            raise ValueError(f"delays: {min(self.delays)} is negative: count from 0.")
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim: {self.dim} is no multiple of twice the {self.num_heads} heads: rotary "
                "positions turn pairs of each head's numbers."
            )
        depth = self.depth
        if depth and depth.dim % depth.num_heads:
            raise ValueError(
                f"depth.dim: {depth.dim} is no multiple of the {depth.num_heads} heads."
            )
        if depth and depth.schedule and len(depth.schedule) != depth.num_codebooks:
            raise ValueError(
                f"depth.schedule: {len(depth.schedule)} entries for {depth.num_codebooks} "
                "codebooks: give one each."
            )
        if self.num_generated > self.num_codebooks:
            raise ValueError(
                f"depth.num_codebooks: {self.num_generated} are more than the "
                f"{self.num_codebooks} of the model."
            )

    @property
    def num_streams(self) -> int:
        """Text and every codebook."""
        return self.num_codebooks + 1

    @property
    def num_generated(self) -> int:
        """Audio codebooks that the depth transformer predicts."""
        return self.depth.num_codebooks if self.depth else 0

    @property
    def num_user_codebooks(self) -> int:
        """Audio codebooks that are read and not predicted: the user's."""
        return self.num_codebooks - self.num_generated

    @property
    def max_delay(self) -> int:
        """Frames by which the latest stream lags."""
        return max(self.delays)

    @property
    def initial(self) -> tuple[int, ...]:
        """The code of each stream before its first."""
        return (self.text_vocab,) + (self.codebook_size,) * self.num_codebooks

    @property
    def crossed(self) -> bool:
        """Whether some condition is attended to."""
        return any(condition.fuse == "cross" for condition in self.conditions)

    @property
    def transformer(self) -> TransformerConfig:
        """The temporal transformer."""
        return TransformerConfig(
            dim=self.dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            mlp_dim=self.mlp_dim,
            context=self.context,
            norm="rms",
            gated=True,
            layer_scale=None,
            max_period=self.max_period,
            cross_attention=self.crossed,
            kernel=self.kernel,
            remat=self.remat,
        )
