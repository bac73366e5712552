"""Sharding rules of the language models and of their live sessions; see `shard/rules.py`."""

from jax.sharding import PartitionSpec as P

from moshijax.nn import rules


RULES: tuple[tuple[str, P], ...] = (
    *rules.RULES,
    # Tables of vectors, what reads them, and heads by columns.
    (r"(text_embedding|audio_embeddings)/table", P(None, "fsdp")),
    (r"(first|second|low_rank)(/\d+)?/kernel", P(None, "fsdp")),
    (r"(text_head|heads|depth/project)(/\d+)?/kernel", P("fsdp", "tensor")),
    # Live sessions: rows by `data`, the heads of their caches by `tensor`.
    (r"temporal(/\d+)?/(k|v)", P("data", "tensor", None, None)),
    (r"temporal(/\d+)?/end|frames", P("data")),
    (r"codes", P("data", None, None)),
    (r"recent", P("data", None)),
    # What is small stays whole.
    (r"conditioners/parts/\w+/(table|absent|project/kernel)", P(None)),
    (r"pause_heads(/\d+)?/kernel", P(None)),
)
