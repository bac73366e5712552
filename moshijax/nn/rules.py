"""Sharding rules of the layers that models share; see `shard/rules.py`."""

from jax.sharding import PartitionSpec as P


RULES: tuple[tuple[str, P], ...] = (
    # Into the heads and the MLP by columns, out of them by rows. A number before a kernel counts
    # weight sets that are a list.
    (r"(q|k|v|gate|up)(/\d+)?/kernel", P("fsdp", "tensor")),
    (r"(out|down)(/\d+)?/kernel", P("tensor", "fsdp")),
    # Adapters.
    (r"kernel/a", P("fsdp", None)),
    (r"kernel/b", P(None, "fsdp")),
    # What is small stays whole.
    (r"kernel(/frozen)?/(scale|offset)", P(None)),
    (r"(\w*norm\w*|\w+_scale)/(scale|bias)", P(None)),
)
