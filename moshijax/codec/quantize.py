"""Residual vector quantization, split into a semantic codebook and acoustic ones.

Both parts quantize the same latent, each behind its own projection, and what they decode to is
added (Moshi, section 3.3.3).
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moshijax.nn.linear import Linear


Tree = TypeVar("Tree")

MIN_USAGE = 1e-5  # Entries used less often are not scaled up further.


class Average(nnx.Variable):
    """A running average: part of a model, but learnt without a gradient."""


class Codebook(nnx.Module):
    """The vectors of a codebook, as running sums of what chose them and how often."""

    def __init__(self, size: int, dim: int, *, rngs: nnx.Rngs):
        self.embedding_sum = Average(jax.random.normal(rngs.params(), (size, dim)) * dim**-0.5)
        self.usage = Average(jnp.ones(size))
        self.initialized = Average(jnp.zeros(1))  # 1 once the vectors come from data

    def vectors(self) -> Float[Array, "V D_code"]:
        """Returns the means."""
        usage = jnp.maximum(self.usage[...], MIN_USAGE)
        return self.embedding_sum[...] / usage[:, None]

    def half_squares(self) -> Float[Array, "V"]:
        """Returns half the squared length of each vector."""
        return 0.5 * jnp.square(self.vectors()).sum(axis=-1)


class FrozenCodebook(nnx.Module):
    """A codebook that no longer learns, with what a search needs computed once."""

    def __init__(self, codebook: Codebook):
        self.table = nnx.Param(codebook.vectors())
        self.offsets = nnx.Param(codebook.half_squares())

    def vectors(self) -> Float[Array, "V D_code"]:
        """Returns the vectors."""
        return self.table[...]

    def half_squares(self) -> Float[Array, "V"]:
        """Returns half the squared length of each vector."""
        return self.offsets[...]


def freeze_codebooks(model: Tree) -> Tree:
    """Computes the vectors of every codebook in a model once and for all."""

    def freeze(node: object) -> object:
        return FrozenCodebook(node) if isinstance(node, Codebook) else node

    return jax.tree.map(freeze, model, is_leaf=lambda node: isinstance(node, Codebook))


def nearest(
    x: Float[Array, "B T D_code"], codebook: Codebook | FrozenCodebook
) -> Int[Array, "B T"]:
    """Returns the entry nearest to each vector, the first of equals."""
    # |x - c|^2 / 2 without the part that is the same for all c.
    scores = jnp.einsum("btd,vd->btv", x, codebook.vectors(), precision="highest")
    return jnp.argmax(scores - codebook.half_squares()[None, None], axis=-1)


class ResidualQuantizer(nnx.Module):
    """Codebooks in turn, each quantizing what the ones before it left."""

    def __init__(
        self,
        dim: int,
        codebook_dim: int,
        codebook_size: int,
        num_codebooks: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.project_in = Linear(dim, codebook_dim, use_bias=False, rngs=rngs)
        self.project_out = Linear(codebook_dim, dim, use_bias=False, rngs=rngs)
        self.codebooks = nnx.List(
            [Codebook(codebook_size, codebook_dim, rngs=rngs) for _ in range(num_codebooks)]
        )

    def quantize(self, x: Float[Array, "B T D"], num_codebooks: int) -> Int[Array, "B K T"]:
        """Returns the codes of the first `num_codebooks` codebooks."""
        residual, codes = self.project_in(x), []
        for codebook in self.codebooks[:num_codebooks]:
            code = nearest(residual, codebook)
            residual = residual - codebook.vectors()[code]
            codes.append(code)
        return jnp.stack(codes, axis=1)

    def dequantize(self, codes: Int[Array, "B K T"]) -> Float[Array, "B T D"]:
        """Sums the vectors of as many codebooks as there are codes."""
        x = self.codebooks[0].vectors()[codes[:, 0]]
        for i in range(1, codes.shape[1]):
            x = x + self.codebooks[i].vectors()[codes[:, i]]
        return self.project_out(x)


class SplitQuantizer(nnx.Module):
    """One semantic codebook beside a residual quantizer of acoustic ones."""

    def __init__(
        self,
        dim: int,
        codebook_dim: int,
        codebook_size: int,
        num_codebooks: int,
        *,
        rngs: nnx.Rngs,
    ):
        sizes = (dim, codebook_dim, codebook_size)
        self.semantic = ResidualQuantizer(*sizes, 1, rngs=rngs)
        self.acoustic = ResidualQuantizer(*sizes, num_codebooks - 1, rngs=rngs)

    @property
    def num_codebooks(self) -> int:
        """How many codebooks there are."""
        return 1 + len(self.acoustic.codebooks)

    def quantize(self, x: Float[Array, "B T D"], num_codebooks: int) -> Int[Array, "B K T"]:
        """Returns the codes of the first `num_codebooks` codebooks, the semantic one first."""
        self.check(num_codebooks)
        semantic = self.semantic.quantize(x, 1)
        if num_codebooks == 1:
            return semantic
        acoustic = self.acoustic.quantize(x, num_codebooks - 1)
        return jnp.concatenate([semantic, acoustic], axis=1)

    def dequantize(self, codes: Int[Array, "B K T"]) -> Float[Array, "B T D"]:
        """Adds what the two parts decode to; fewer codebooks give a coarser latent."""
        self.check(codes.shape[1])
        x = self.semantic.dequantize(codes[:, :1])
        return x if codes.shape[1] == 1 else x + self.acoustic.dequantize(codes[:, 1:])

    def check(self, num_codebooks: int) -> None:
        """Raises if there are not as many codebooks as asked for."""
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise ValueError(
                f"{num_codebooks} codebooks asked for; this model has 1 to {self.num_codebooks}"
            )
