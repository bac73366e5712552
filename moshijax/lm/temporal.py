"""The temporal transformer: from the codes of all streams to one hidden a frame (section 3.4.1)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moshijax.lm.config import MoshiConfig
from moshijax.nn.linear import Linear
from moshijax.nn.norms import RMSNorm
from moshijax.nn.rows import split_rows
from moshijax.nn.steps import CodeEmbeddings, Embedding
from moshijax.nn.streaming import State
from moshijax.nn.transformer import Sources, Transformer


class Temporal(nnx.Module):
    """The sum of the streams' embeddings through a transformer, a norm and the text head."""

    def __init__(self, config: MoshiConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.text_embedding = Embedding(
            config.text_vocab + 1, dim, pairs=config.two_texts, rngs=rngs
        )
        self.audio_embeddings = (
            CodeEmbeddings(config.num_codebooks, config.codebook_size + 1, dim, rngs=rngs)
            if config.num_codebooks
            else None
        )
        self.transformer = Transformer(config.transformer, rngs=rngs)
        self.out_norm = RMSNorm(dim)
        self.text_head = Linear(dim, config.text_vocab, use_bias=False, rngs=rngs)

    def init_state(self, batch_size: int, max_chunk: int = 1) -> State:
        """Returns the state before a stream of chunks of at most `max_chunk` frames."""
        return self.transformer.init_state(batch_size, max_chunk)

    def embed(self, codes: Int[Array, "B K T"]) -> Float[Array, "B T D"]:
        """Sums the embeddings of all streams, text first."""
        with jax.named_scope("embed"):
            x = split_rows(self.text_embedding(codes[:, 0]))
            if self.audio_embeddings is None:
                return x
            codes = codes[:, 1:].swapaxes(1, 2)
            audio = self.audio_embeddings(codes, tuple(range(codes.shape[2])))
            return x + split_rows(audio).sum(axis=2)

    def __call__(
        self,
        codes: Int[Array, "B K T"],
        state: State = None,
        *,
        added: Float[Array, "#B 1 D"] | None = None,
        sources: Sources | None = None,
    ) -> tuple[Float[Array, "B T D"], State]:
        """Transforms delayed codes; a condition may be added to each frame, others attended to."""
        x = self.embed(codes)
        if added is not None:
            x = x + added.astype(x.dtype)
        with jax.named_scope("temporal"):
            x, state = self.transformer(x, state, sources)
            return self.out_norm(x), state

    def text_logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Returns the logits of the text stream, in float32."""
        with jax.named_scope("text_head"):
            return self.text_head(hidden).astype(jnp.float32)
