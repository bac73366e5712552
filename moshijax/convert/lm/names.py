"""The table between the tensors of a language model's file and the parameters of ours.

* `published`: the files of Moshi, Hibiki, the speech-to-text and text-to-speech models.
* `torch`: the names of a running PyTorch model, which moshi-finetune saves.
* `transformers`: the files of `transformers.HeliumForCausalLM`, for models of text alone. It has no
  vector for what precedes a text: there ours reads that of the beginning of sentence.

A number in a path of ours counts layers, weight sets or codebooks; our array may be their stack.
"""

from collections.abc import Callable, Iterator

import numpy as np

from moshijax.convert.transforms import LINEAR, QKV, SAME, Entry, Transform
from moshijax.lm.config import DepthConfig, MoshiConfig


ALPHA = Transform(lambda a: (a.reshape(-1),), lambda a: a[None, None])
GATE = Transform(
    lambda a: tuple(half.T for half in np.split(a, 2)),
    lambda gate, up: np.concatenate([gate.T, up.T]),
)

BEGIN = 1  # The beginning of sentence, whose row is ours for the initial code too (the last row).
BEGUN = Transform(lambda a: (np.concatenate([a, a[BEGIN : BEGIN + 1]]),), lambda a: a[:-1])


def stacked(number: int, inner: Transform) -> Transform:
    """The tensors of several weight sets, concatenated along the first axis."""
    return Transform(
        lambda a: tuple(part for block in np.split(a, number) for part in inner.split(block)),
        lambda *parts: np.concatenate(
            [
                inner.join(*parts[i : i + len(parts) // number])
                for i in range(0, len(parts), len(parts) // number)
            ]
        ),
    )


def entries(config: MoshiConfig, layout: str) -> list[Entry]:
    """Returns the whole table of a layout.

    Raises:
        ValueError: the layout is unknown, or not one of such a model.
    """
    if layout not in layouts(config):
        known = ", ".join(layouts(config))
        raise ValueError(f"layout {layout!r} is none of this model's; there are {known}")
    return list(LAYOUTS[layout](config))


def layouts(config: MoshiConfig) -> list[str]:
    """Returns the layouts that a model can have."""
    return [name for name in LAYOUTS if name != "transformers" or config.num_codebooks == 0]


def _published(config: MoshiConfig) -> Iterator[Entry]:
    yield from _embedding("text_emb", "temporal/text_embedding", config.two_texts)
    for k in range(config.num_codebooks):
        yield Entry(f"emb.{k}.weight", (f"temporal/audio_embeddings/{k}/table",), SAME)
    for i in range(config.num_layers):
        yield from _block(f"transformer.layers.{i}", f"temporal/transformer/layers/{i}", config)
    yield Entry("out_norm.alpha", ("temporal/out_norm/scale",), ALPHA)
    yield Entry("text_linear.weight", ("temporal/text_head/kernel",), LINEAR)
    if config.depth is not None:
        yield from _depth(config, config.depth)
    for i in range(config.num_pause_heads):
        yield Entry(f"extra_heads.{i}.weight", (f"pause_heads/{i}/kernel",), LINEAR)
    for condition in config.conditions:
        name = f"condition_provider.conditioners.{condition.name}"
        path = f"conditioners/parts/{condition.name}"
        yield Entry(f"{name}.learnt_padding", (f"{path}/absent",), ALPHA)
        yield Entry(f"{name}.output_proj.weight", (f"{path}/project/kernel",), LINEAR)
        if condition.num_values is not None:
            yield Entry(f"{name}.embed.weight", (f"{path}/table",), SAME)


def _embedding(name: str, path: str, pairs: bool, low_rank: bool = False) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", (f"{path}/table",), SAME)
    if low_rank:
        yield Entry(f"{name}.low_rank.weight", (f"{path}/low_rank/kernel",), LINEAR)
    if pairs:
        yield Entry(f"{name}.out1.weight", (f"{path}/first/kernel",), LINEAR)
        yield Entry(f"{name}.out2.weight", (f"{path}/second/kernel",), LINEAR)


def _attention(name: str, path: str) -> Iterator[Entry]:
    yield Entry(f"{name}.in_proj_weight", tuple(f"{path}/{p}/kernel" for p in "qkv"), QKV)
    yield Entry(f"{name}.out_proj.weight", (f"{path}/out/kernel",), LINEAR)


def _block(name: str, path: str, config: MoshiConfig) -> Iterator[Entry]:
    yield from _attention(f"{name}.self_attn", f"{path}/attention")
    yield Entry(f"{name}.norm1.alpha", (f"{path}/attention_norm/scale",), ALPHA)
    yield Entry(f"{name}.norm2.alpha", (f"{path}/mlp_norm/scale",), ALPHA)
    if config.crossed:
        yield from _attention(f"{name}.cross_attention", f"{path}/cross")
        yield Entry(f"{name}.norm_cross.weight", (f"{path}/cross_norm/scale",), SAME)
        yield Entry(f"{name}.norm_cross.bias", (f"{path}/cross_norm/bias",), SAME)
    gate = tuple(f"{path}/mlp/{part}/kernel" for part in ("gate", "up"))
    yield Entry(f"{name}.gating.linear_in.weight", gate, GATE)
    yield Entry(f"{name}.gating.linear_out.weight", (f"{path}/mlp/down/kernel",), LINEAR)


def _depth(config: MoshiConfig, depth: DepthConfig) -> Iterator[Entry]:
    sets, low = range(max(depth.sets) + 1), depth.low_rank is not None
    for s in sets:
        yield Entry(f"depformer_in.{s}.weight", (f"depth/project/{s}/kernel",), LINEAR)
    yield from _embedding(
        "depformer_text_emb", "depth/text_embedding", config.two_texts, low_rank=low
    )
    for k in range(depth.num_codebooks - 1):
        path = f"depth/audio_embeddings/{k}"
        yield Entry(f"depformer_emb.{k}.weight", (f"{path}/table",), SAME)
        if low:
            kernel = f"depth/audio_embeddings/low_rank/{k}/kernel"
            yield Entry(f"depformer_emb.{k}.low_rank.weight", (kernel,), LINEAR)
    for i in range(depth.num_layers):
        yield from _depth_block(f"depformer.layers.{i}", f"depth/layers/{i}", len(sets))
    for k in range(depth.num_codebooks):
        yield Entry(f"linears.{k}.weight", (f"depth/heads/{k}/kernel",), LINEAR)


def _depth_block(name: str, path: str, sets: int) -> Iterator[Entry]:
    qkv = tuple(f"{path}/{part}/{s}/kernel" for s in range(sets) for part in "qkv")
    out = tuple(f"{path}/out/{s}/kernel" for s in range(sets))
    yield Entry(f"{name}.self_attn.in_proj_weight", qkv, stacked(sets, QKV))
    yield Entry(f"{name}.self_attn.out_proj.weight", out, stacked(sets, LINEAR))
    yield Entry(f"{name}.norm1.alpha", (f"{path}/attention_norm/scale",), ALPHA)
    yield Entry(f"{name}.norm2.alpha", (f"{path}/mlp_norm/scale",), ALPHA)
    for s in range(sets):
        gate = tuple(f"{path}/{part}/{s}/kernel" for part in ("gate", "up"))
        yield Entry(f"{name}.gating.{s}.linear_in.weight", gate, GATE)
        yield Entry(f"{name}.gating.{s}.linear_out.weight", (f"{path}/down/{s}/kernel",), LINEAR)


def _torch(config: MoshiConfig) -> Iterator[Entry]:
    sets = max(config.depth.sets) + 1 if config.depth else 1
    for entry in _published(config):
        number = sets if entry.name.startswith("depformer.layers") else 1
        kind = next((k for k in PROJECTIONS if k in entry.name), None)
        if kind is None:
            yield entry
            continue
        single, each = PROJECTIONS[kind], len(entry.paths) // number
        inner = QKV if each == 3 else LINEAR
        for s in range(number):
            name = entry.name.replace(kind, single.format(s))
            yield Entry(name, entry.paths[s * each : (s + 1) * each], inner)


def _transformers(config: MoshiConfig) -> Iterator[Entry]:
    yield Entry("model.embed_tokens.weight", ("temporal/text_embedding/table",), BEGUN)
    for i in range(config.num_layers):
        name, path = f"model.layers.{i}", f"temporal/transformer/layers/{i}"
        for theirs, ours in TRANSFORMERS_LINEARS.items():
            yield Entry(f"{name}.{theirs}.weight", (f"{path}/{ours}/kernel",), LINEAR)
        yield Entry(f"{name}.input_layernorm.weight", (f"{path}/attention_norm/scale",), SAME)
        yield Entry(f"{name}.post_attention_layernorm.weight", (f"{path}/mlp_norm/scale",), SAME)
    yield Entry("model.norm.weight", ("temporal/out_norm/scale",), SAME)
    yield Entry("lm_head.weight", ("temporal/text_head/kernel",), LINEAR)


# This RoPE turns (2i, 2i + 1), as ours does: no rows are permuted.
TRANSFORMERS_LINEARS = {f"self_attn.{p}_proj": f"attention/{p}" for p in "qkv"} | {
    "self_attn.o_proj": "attention/out"
}
TRANSFORMERS_LINEARS |= {f"mlp.{p}_proj": f"mlp/{p}" for p in ("gate", "up", "down")}

PROJECTIONS = {"in_proj_weight": "in_projs.{}.weight", "out_proj.weight": "out_projs.{}.weight"}

LAYOUTS: dict[str, Callable[[MoshiConfig], Iterator[Entry]]] = {
    "published": _published,
    "torch": _torch,
    "transformers": _transformers,
}
