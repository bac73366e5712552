"""Sharding rules of Mimi; see `shard/rules.py`."""

from jax.sharding import PartitionSpec as P

from moshijax.nn import rules


RULES: tuple[tuple[str, P], ...] = (
    *rules.RULES,
    # Convolutions [..., in, out], codebook projections [in, out].
    (r"(conv\w*|project_in|project_out)/kernel", P("tensor", "fsdp")),
    (r"(first|last|downs/\d+|ups/\d+|downsample|upsample)/kernel", P(None, "fsdp")),
    (r"(conv\w*|out|first|last|downs/\d+|ups/\d+)/bias", P(None)),
    (r"codebooks/\d+/(embedding_sum|usage|initialized)", P(None)),
)
