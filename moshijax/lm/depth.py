"""The depth transformer: over the codebooks of one frame, weights by codebook (section 3.4.1).

Attention, MLP and the projection of the temporal hidden have a weight set for each codebook or
group of codebooks; norms are shared. Its state lives inside one frame: the keys and values of the
codebooks before.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from moshijax.kernels.attend import attend_few
from moshijax.lm.config import DepthConfig, MoshiConfig
from moshijax.nn.norms import RMSNorm
from moshijax.nn.rows import split_rows
from moshijax.nn.steps import CodeEmbeddings, Embedding, make_linears, map_steps


class Past(NamedTuple):
    """Keys and values of the codebooks of this frame so far."""

    k: Float[Array, "B K N H"]
    v: Float[Array, "B K N H"]


class DepthBlock(nnx.Module):
    """Causal attention over codebooks, then a gated MLP; no positions."""

    def __init__(self, config: DepthConfig, *, rngs: nnx.Rngs):
        number, dim = max(config.sets) + 1, config.dim
        self.attention_norm, self.mlp_norm = RMSNorm(dim), RMSNorm(dim)
        self.q, self.k, self.v, self.out = (make_linears(number, dim, dim, rngs) for _ in range(4))
        self.gate, self.up = (make_linears(number, dim, config.mlp_dim, rngs) for _ in range(2))
        self.down = make_linears(number, config.mlp_dim, dim, rngs)
        self.num_heads = config.num_heads

    def __call__(
        self, x: Float[Array, "B K D"], past: Past | None, sets: tuple[int, ...]
    ) -> tuple[Float[Array, "B K D"], Past]:
        """Transforms the codebooks that follow those of `past`, by their weight sets."""
        y = self.attention_norm(x)
        q, k, v = (
            map_steps(linear, y, sets).reshape(*x.shape[:2], self.num_heads, -1)
            for linear in (self.q, self.k, self.v)
        )
        if past is not None:
            k = jnp.concatenate([past.k, k], axis=1)
            v = jnp.concatenate([past.v, v], axis=1)
        before = k.shape[1] - x.shape[1]  # codebooks of the frame that are done
        # [K of the queries, K of the keys]: a codebook sees itself and those before it.
        ages = before + np.arange(x.shape[1])[:, None] - np.arange(k.shape[1])[None]
        mask = jnp.asarray(ages >= 0)[None]
        y = attend_few(q, k, v, mask)
        x = x + map_steps(self.out, y.reshape(x.shape), sets)
        y = self.mlp_norm(x)
        gate, up = (map_steps(linear, y, sets) for linear in (self.gate, self.up))
        return x + map_steps(self.down, jax.nn.silu(gate) * up, sets), Past(k, v)


class Depth(nnx.Module):
    """From a temporal hidden and the frame's text to the logits of its codebooks."""

    def __init__(self, config: MoshiConfig, depth: DepthConfig, *, rngs: nnx.Rngs):
        dim, size = depth.dim, config.codebook_size
        self.project = make_linears(max(depth.sets) + 1, config.dim, dim, rngs)
        self.text_embedding = Embedding(
            config.text_vocab + 1,
            dim,
            low_rank=depth.low_rank,
            pairs=config.two_texts,
            rngs=rngs,
        )
        # The last codebook is never read.
        self.audio_embeddings = CodeEmbeddings(
            depth.num_codebooks - 1, size + 1, dim, low_rank=depth.low_rank, rngs=rngs
        )
        keys = jax.random.split(rngs.params(), depth.num_layers)
        self.layers = jax.vmap(lambda key: DepthBlock(depth, rngs=nnx.Rngs(key)))(keys)
        self.heads = make_linears(depth.num_codebooks, dim, size, rngs)
        self.sets = depth.sets

    def logits(
        self, hidden: Float[Array, "B D"], text: Int[Array, "B"], codes: Int[Array, "B K"]
    ) -> Float[Array, "B K V"]:
        """Returns the logits of every codebook of a frame, given the codes before each."""
        steps = tuple(range(len(self.sets)))
        x = self._inputs(hidden, text, codes[:, :-1], steps)
        if isinstance(self.layers, DepthBlock):

            def run(x: Array, layer: DepthBlock) -> tuple[Array, None]:
                return layer(split_rows(x), None, self.sets)[0], None

            x, _ = jax.lax.scan(run, x, self.layers)
        else:
            for layer in self.layers:
                x, _ = layer(x, None, self.sets)
        return map_steps(self.heads, x, steps).astype(jnp.float32)

    def generate(
        self,
        hidden: Float[Array, "B D"],
        text: Int[Array, "B"],
        choose: Callable[[int, Float[Array, "B V"]], Int[Array, "B"]],
    ) -> Int[Array, "B K"]:
        """Chooses the codes of a frame one after the other, from the logits of each."""
        layers = self._separate()
        pasts: list[Past | None] = [None] * len(layers)
        codes = []
        for step, which in enumerate(self.sets):
            x = self._inputs(hidden, text, codes[-1][:, None] if codes else None, (step,))
            for i, layer in enumerate(layers):
                x, pasts[i] = layer(x, pasts[i], (which,))
            logits = map_steps(self.heads, x, (step,)).astype(jnp.float32)
            codes.append(choose(step, logits[:, 0]))
        return jnp.stack(codes, axis=1)

    def _inputs(
        self,
        hidden: Float[Array, "B D"],
        text: Int[Array, "B"],
        codes: Int[Array, "B K_before"] | None,
        steps: tuple[int, ...],
    ) -> Float[Array, "B K D_depth"]:
        """The input of each step: the hidden projected, plus the embedding of the code before.

        Before the first codebook comes the text; the table of codebook k is read at step k + 1.
        """
        copies = jnp.broadcast_to(hidden[:, None], (hidden.shape[0], len(steps), hidden.shape[1]))
        x = map_steps(self.project, copies, tuple(self.sets[step] for step in steps))
        parts = [self.text_embedding(text[:, None])] if steps[0] == 0 else []
        tables = tuple(step - 1 for step in steps if step)
        if tables and codes is not None:
            parts.append(self.audio_embeddings(codes, tables))
        return split_rows(x) + split_rows(jnp.concatenate(parts, axis=1)).astype(x.dtype)

    def _separate(self) -> list[DepthBlock]:
        if not isinstance(self.layers, DepthBlock):
            return list(self.layers)
        number = self.layers.attention_norm.scale.shape[0]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], self.layers) for i in range(number)]
