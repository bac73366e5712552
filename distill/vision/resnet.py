"""BiT ResNet-v2: pre-activation units, GroupNorm and weight-standardised convolutions.

The teachers and students of FunMatch (Beyer et al. 2022, arXiv:2106.05237); the architecture is
that of Big Transfer (Kolesnikov et al. 2020, arXiv:1912.11370). Parameter paths are those of the
published files: `block1/unit01/conv1/kernel`, `block1/unit01/gn1/scale`, `head/bias`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from distill.vision.conv import conv2d, max_pool
from distill.vision.norms import group_norm, standardize


POOL_FILL = {"-inf": -jnp.inf, "zero": 0.0}

Features = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One network; stage b has width * 2**(b - 1) channels inside its units."""

    stage_sizes: tuple[int, ...]  # units of each stage
    width: int
    unit: str  # "bottleneck" or "basic"
    num_groups: int
    stem: str  # "imagenet", 7x7 with stride 2 and a pool, or "small", one 3x3
    stem_stride: int = 2
    in_channels: int = 3
    num_classes: int = 1000
    # What surrounds the image of the stem's max-pool: "-inf" in big_vision, where FunMatch was
    # trained; "zero" in the first BiT releases and in timm.
    pool_padding: str = "-inf"
    dtype: str = "float32"  # or "bfloat16": of the activations; parameters are float32
    remat: bool = False  # recompute each unit in the backward pass

    def __post_init__(self):
        for field in ("width", "num_groups", "stem_stride", "in_channels", "num_classes"):
            if not isinstance(size := getattr(self, field), int) or size < 1:
                raise ValueError(f"{field} is {size!r}; it takes a whole number from 1 on")
        if not self.stage_sizes or min(self.stage_sizes) < 1:
            raise ValueError(f"stage_sizes are {self.stage_sizes}; each takes one unit or more")
        choices = dict(
            unit=("bottleneck", "basic"),
            stem=("imagenet", "small"),
            pool_padding=tuple(POOL_FILL),
            dtype=("float32", "bfloat16"),
        )
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; choose one of {allowed}")
        if self.stem == "imagenet" and self.stem_stride != 2:
            raise ValueError(f"the imagenet stem has stride 2, not stem_stride={self.stem_stride}")
        if self.width % self.num_groups:
            raise ValueError(f"width={self.width} is no multiple of num_groups={self.num_groups}")

    @property
    def expansion(self) -> int:
        """Output channels of a unit over its inner ones."""
        return 4 if self.unit == "bottleneck" else 1

    @property
    def num_features(self) -> int:
        """Channels before the head."""
        return self.width * 2 ** (len(self.stage_sizes) - 1) * self.expansion


def _bit(stage_sizes: tuple[int, ...], width: int) -> ResNetConfig:
    return ResNetConfig(stage_sizes, 64 * width, unit="bottleneck", num_groups=32, stem="imagenet")


def _small(stage_sizes: tuple[int, ...], width: int, num_groups: int) -> ResNetConfig:
    return ResNetConfig(
        stage_sizes,
        width,
        unit="basic",
        num_groups=num_groups,
        stem="small",
        in_channels=1,
        num_classes=10,
    )


PRESETS = {
    "r50x1": _bit((3, 4, 6, 3), 1),
    "r50x3": _bit((3, 4, 6, 3), 3),
    "r101x1": _bit((3, 4, 23, 3), 1),
    "r101x3": _bit((3, 4, 23, 3), 3),
    "r152x2": _bit((3, 8, 36, 3), 2),
    "r152x4": _bit((3, 8, 36, 3), 4),
    # timm's names; the first BiT releases too.
    "resnetv2_50x1_bit": dataclasses.replace(_bit((3, 4, 6, 3), 1), pool_padding="zero"),
    "resnetv2_101x1_bit": dataclasses.replace(_bit((3, 4, 23, 3), 1), pool_padding="zero"),
    "resnetv2_152x2_bit": dataclasses.replace(_bit((3, 8, 36, 3), 2), pool_padding="zero"),
    "small_teacher": _small((1, 1, 1), 32, 8),
    "small_student": _small((1, 1, 1), 8, 4),
    "tiny": _small((1, 1), 4, 2),
}


class GroupNorm(nnx.Module):
    """Normalises groups of channels over the whole image."""

    def __init__(self, channels: int, num_groups: int):
        self.num_groups = num_groups
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalises, scales and shifts."""
        B, H, W, C = x.shape
        flat = x.reshape(B, H * W, C)
        return group_norm(flat, self.scale[...], self.bias[...], self.num_groups).reshape(x.shape)


class StdConv(nnx.Module):
    """A convolution without bias whose kernel is standardised at each use."""

    def __init__(self, size: int, c_in: int, c_out: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.stride = stride
        init = jax.nn.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, c_in, c_out)))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H_out W_out D"]:
        """Convolves images."""
        return conv2d(x, standardize(self.kernel[...]).astype(x.dtype), self.stride)


class RootBlock(nnx.Module):
    """The stem: a convolution and, for large images, a max-pool."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        size = 7 if config.stem == "imagenet" else 3
        self.pool_fill = POOL_FILL[config.pool_padding] if config.stem == "imagenet" else None
        self.conv_root = StdConv(
            size, config.in_channels, config.width, config.stem_stride, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H_out W_out D"]:
        """Convolves and pools images."""
        x = self.conv_root(x)
        if self.pool_fill is None:
            return x
        return max_pool(x, self.pool_fill)


class Unit(nnx.Module):
    """A pre-activation residual unit of three convolutions (bottleneck) or two (basic)."""

    def __init__(self, config: ResNetConfig, c_in: int, c_mid: int, stride: int, *, rngs: nnx.Rngs):
        c_out = c_mid * config.expansion
        # Kernel size, channels and stride; BiT strides the 3x3 of a bottleneck.
        convs = [(1, c_mid, 1), (3, c_mid, stride), (1, c_out, 1)]
        if config.unit == "basic":
            convs = [(3, c_mid, stride), (3, c_out, 1)]
        self.num_convs = len(convs)
        channels = c_in
        for i, (size, out, step) in enumerate(convs, 1):
            setattr(self, f"gn{i}", GroupNorm(channels, config.num_groups))
            setattr(self, f"conv{i}", StdConv(size, channels, out, step, rngs=rngs))
            channels = out
        project = stride != 1 or c_in != c_out
        self.conv_proj = StdConv(1, c_in, c_out, stride, rngs=rngs) if project else None

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H_out W_out D"]:
        """Adds the residual branch to x or to its projection."""
        shortcut = x
        for i in range(1, self.num_convs + 1):
            x = jax.nn.relu(getattr(self, f"gn{i}")(x))
            if i == 1 and self.conv_proj is not None:
                shortcut = self.conv_proj(x)
            x = getattr(self, f"conv{i}")(x)
        return x + shortcut


class Stage(nnx.Module):
    """Units of one resolution and width; the first one strides."""

    def __init__(self, config: ResNetConfig, number: int, c_in: int, *, rngs: nnx.Rngs):
        c_mid = config.width * 2 ** (number - 1)
        self.names = tuple(f"unit{u:02d}" for u in range(1, config.stage_sizes[number - 1] + 1))
        for u, name in enumerate(self.names):
            stride = 2 if u == 0 and number > 1 else 1
            setattr(self, name, Unit(config, c_in, c_mid, stride, rngs=rngs))
            c_in = c_mid * config.expansion


class Head(nnx.Module):
    """The classifier; zeros at the start, so that the first predictions are uniform."""

    def __init__(self, num_features: int, num_classes: int):
        self.kernel = nnx.Param(jnp.zeros((num_features, num_classes)))
        self.bias = nnx.Param(jnp.zeros(num_classes))

    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B N"]:
        """Classifies vectors or the positions of a feature map."""
        logits = x.astype(jnp.float32) @ self.kernel[...]
        return logits + self.bias.reshape((1,) * (x.ndim - 1) + (-1,))


def _apply_unit(unit: Unit, x: Float[Array, "B H W C"]) -> Float[Array, "B H_out W_out D"]:
    return unit(x)


class ResNet(nnx.Module):
    """Images in [-1, 1] to logits and every intermediate feature."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.root_block = RootBlock(config, rngs=rngs)
        c_in = config.width
        for number in range(1, len(config.stage_sizes) + 1):
            setattr(self, f"block{number}", Stage(config, number, c_in, rngs=rngs))
            c_in = config.width * 2 ** (number - 1) * config.expansion
        self.norm_pre_head = GroupNorm(config.num_features, config.num_groups)
        self.head = Head(config.num_features, config.num_classes)

    def __call__(self, images: Float[Array, "B H W C"]) -> tuple[Float[Array, "B N"], Features]:
        """Classifies images.

        The features are `stem`, `stage1/unit01` and so on, `norm_pre_head`, `pre_logits_2d`,
        `pre_logits`, `logits_2d` and `logits`; under jit the unused ones cost nothing.
        """
        config = self.config
        if images.shape[-1] != config.in_channels:
            raise ValueError(
                f"images of shape {images.shape} have {images.shape[-1]} channels, the network "
                f"takes {config.in_channels}: change the images or in_channels"
            )
        apply_unit = jax.checkpoint(_apply_unit) if config.remat else _apply_unit
        features: Features = {}
        x = features["stem"] = self.root_block(images.astype(config.dtype))
        for number in range(1, len(config.stage_sizes) + 1):
            stage = getattr(self, f"block{number}")
            for name in stage.names:
                x = features[f"stage{number}/{name}"] = apply_unit(getattr(stage, name), x)
        x = features["norm_pre_head"] = self.norm_pre_head(x)
        x = features["pre_logits_2d"] = jax.nn.relu(x)
        x = features["pre_logits"] = x.astype(jnp.float32).mean(axis=(1, 2))
        features["logits_2d"] = self.head(features["pre_logits_2d"])
        logits = features["logits"] = self.head(x)
        return logits, features
