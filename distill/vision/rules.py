"""Sharding rules of ResNets; see `moshijax/shard/rules.py`."""

from jax.sharding import PartitionSpec as P


RULES: tuple[tuple[str, P], ...] = (
    # Convolutions [..., in, out], the head [in, out].
    (r"(conv\w*|head)/kernel", P("tensor", "fsdp")),
    # Small vectors are replicated.
    (r"(gn\d|\w*norm\w*)/(scale|bias)", P(None)),
    (r"(conv|head)/bias", P(None)),
)
