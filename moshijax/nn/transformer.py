"""Pre-norm transformer blocks over `[B, T, D]`, and stacks of them."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from moshijax.kernels.cache import KVCache
from moshijax.kernels.names import ATTENDED, RESIDUALS
from moshijax.nn.attention import SlidingAttention
from moshijax.nn.cross import CrossAttention, Source
from moshijax.nn.linear import Linear
from moshijax.nn.norms import LayerNorm, RMSNorm
from moshijax.nn.rows import split_frames
from moshijax.nn.streaming import State


Tree = TypeVar("Tree")

Sources = Source | tuple[Source, ...]  # of all layers: stacked, or one each

NORMS = {"layer": LayerNorm, "rms": RMSNorm}

policies = jax.checkpoint_policies
# What of a block is kept from the forward pass to its gradient; the rest is computed again.
REMAT = {
    "full": policies.nothing_saveable,
    "attention": policies.save_only_these_names(ATTENDED, RESIDUALS),
    "qkv": policies.save_only_these_names("q", "k", "v", ATTENDED, RESIDUALS),
    "mlp": policies.save_only_these_names(ATTENDED, RESIDUALS, "gate", "up"),
    "products": policies.save_only_these_names(
        "q", "k", "v", ATTENDED, RESIDUALS, "attention_out", "gate", "up"
    ),
    "none": policies.everything_saveable,
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a stack of blocks, and the kind of its parts."""

    dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int
    context: int  # frames a frame sees, itself included
    norm: str  # a key of NORMS
    gated: bool  # SiLU-gated MLP instead of a GELU one
    layer_scale: float | None  # initial scale of each branch; None: no scales
    max_period: float | None  # of the rotary embedding; None: no positions
    cross_attention: bool = False  # attends to a source, after itself
    kernel: str = "xla"  # one of attention.KERNELS
    remat: str = "full"  # a key of REMAT: what the gradient computes anew


def gelu(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """The exact GELU; erf is cheaper on a CPU than the erfc of jax.nn.gelu."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Mlp(nnx.Module):
    """Two projections around a GELU."""

    def __init__(self, dim: int, mlp_dim: int, *, rngs: nnx.Rngs):
        self.up = Linear(dim, mlp_dim, use_bias=False, rngs=rngs)
        self.down = Linear(mlp_dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Transforms each frame by itself."""
        return self.down(gelu(self.up(x)))


class GatedMlp(nnx.Module):
    """Two projections around a product with a SiLU gate."""

    def __init__(self, dim: int, mlp_dim: int, *, rngs: nnx.Rngs):
        self.gate = Linear(dim, mlp_dim, use_bias=False, rngs=rngs)
        self.up = Linear(dim, mlp_dim, use_bias=False, rngs=rngs)
        self.down = Linear(mlp_dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Transforms each frame by itself."""
        gate, up = checkpoint_name(self.gate(x), "gate"), checkpoint_name(self.up(x), "up")
        return self.down(jax.nn.silu(gate) * up)


class LayerScale(nnx.Module):
    """One factor for each channel of a residual branch."""

    def __init__(self, dim: int, initial: float):
        self.scale = nnx.Param(jnp.full(dim, initial))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Scales each channel."""
        return x * self.scale[...].astype(x.dtype)[None, None]


class Block(nnx.Module):
    """Attention, then an MLP, each normalised before and added to its input.

    Between the two it may attend to a source, behind a norm that always has a bias.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        mlp = GatedMlp if config.gated else Mlp
        self.attention_norm = NORMS[config.norm](config.dim)
        self.attention = SlidingAttention(
            config.dim,
            config.num_heads,
            context=config.context,
            max_period=config.max_period,
            kernel=config.kernel,
            rngs=rngs,
        )
        crossed = config.cross_attention
        self.cross_norm = LayerNorm(config.dim) if crossed else None
        self.cross = CrossAttention(config.dim, config.num_heads, rngs=rngs) if crossed else None
        self.mlp_norm = NORMS[config.norm](config.dim)
        self.mlp = mlp(config.dim, config.mlp_dim, rngs=rngs)
        scaled = config.layer_scale is not None
        self.attention_scale = LayerScale(config.dim, config.layer_scale) if scaled else None
        self.mlp_scale = LayerScale(config.dim, config.layer_scale) if scaled else None

    def init_state(self, batch_size: int, max_chunk: int = 1) -> KVCache:
        """Returns the state before a stream of chunks of at most `max_chunk` frames."""
        return self.attention.init_state(batch_size, max_chunk, self.attention_norm.scale.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: KVCache | None = None,
        source: Source | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Transforms one chunk."""
        with jax.named_scope("attention"):
            y, state = self.attention(self.attention_norm(x), state)
            x = x + (y if self.attention_scale is None else self.attention_scale(y))
        if self.cross is not None and self.cross_norm is not None and source is not None:
            with jax.named_scope("cross"):
                x = x + self.cross(self.cross_norm(x), source)
        with jax.named_scope("mlp"):
            y = self.mlp(self.mlp_norm(x))
            return x + (y if self.mlp_scale is None else self.mlp_scale(y)), state


class Transformer(nnx.Module):
    """A stack of blocks, as one block with the layer axis in front of each parameter.

    `unstack` makes a list of blocks of it: a loop over separate weights is what a CPU reads
    fastest, a scan is what compiles fastest and trains.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        if config.remat not in REMAT:
            raise ValueError(f"remat {config.remat!r} is unknown; there are {', '.join(REMAT)}")
        self.remat = config.remat
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)

    def init_state(self, batch_size: int, max_chunk: int = 1) -> State:
        """Returns the state before a stream of chunks of at most `max_chunk` frames."""
        if isinstance(self.layers, Block):
            return jax.vmap(lambda layer: layer.init_state(batch_size, max_chunk))(self.layers)
        return tuple(layer.init_state(batch_size, max_chunk) for layer in self.layers)

    def sources(self, source: Float[Array, "B S D"]) -> Sources:
        """Returns what each layer's cross-attention reads of a source, for all its frames."""
        if isinstance(self.layers, Block):
            return jax.vmap(lambda layer: layer.cross.read(source))(self.layers)
        return tuple(layer.cross.read(source) for layer in self.layers)

    def __call__(
        self, x: Float[Array, "B T D"], state: State = None, sources: Sources | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        """Transforms one chunk."""
        if isinstance(self.layers, Block):
            body = jax.checkpoint(
                lambda x, layer: layer[0](split_frames(x), *layer[1:]), policy=REMAT[self.remat]
            )
            return jax.lax.scan(body, x, (self.layers, state, sources))
        states = []
        for i, layer in enumerate(self.layers):
            own = (each if each is None else each[i] for each in (state, sources))
            x, new = layer(x, *own)
            states.append(new)
        return x, None if state is None else tuple(states)


class Layer(Protocol):
    """What blocks of all transformers have."""

    attention_norm: LayerNorm | RMSNorm


def is_layer(node: object) -> TypeGuard[Layer]:
    """Whether a node is a block of some transformer, or a stack of them."""
    return isinstance(node, nnx.Module) and hasattr(node, "attention_norm")


def is_linear(node: object) -> TypeGuard[Linear]:
    """Whether a node is a linear map, or a stack of them."""
    return isinstance(node, Linear)


def unstack(model: Tree) -> Tree:
    """Makes lists of every stack of blocks and of linear maps, which run fastest on a CPU."""

    def split_layers(node: object) -> object:
        return _split(node, node.attention_norm.scale.ndim - 1) if is_layer(node) else node

    def split_linears(node: object) -> object:
        return _split(node, node.kernel.ndim - 2) if is_linear(node) else node

    model = jax.tree.map(split_layers, model, is_leaf=is_layer)
    return jax.tree.map(split_linears, model, is_leaf=is_linear)


def _split(node: object, stacked: int) -> object:
    if not stacked:
        return node
    length = jax.tree.leaves(node)[0].shape[0]
    return nnx.List([jax.tree.map(lambda leaf, i=i: leaf[i], node) for i in range(length)])


def stack(model: Tree) -> Tree:
    """Makes one stack of every list of blocks or linear maps: the inverse of `unstack`."""
    for kind in (is_linear, is_layer):

        def is_list(node: object, kind: Callable[[object], bool] = kind) -> TypeGuard[nnx.List]:
            return isinstance(node, nnx.List) and len(node) > 0 and kind(node[0])

        def join(
            node: object, is_list: Callable[[object], TypeGuard[nnx.List]] = is_list
        ) -> object:
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *node) if is_list(node) else node

        model = jax.tree.map(join, model, is_leaf=is_list)
    return model
