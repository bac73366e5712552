"""The table between the tensors of a Mimi file and the parameters of ours, for four layouts.

* `published`: `tokenizer-e351c8d8-checkpoint125.safetensors`, which Moshi's own code, Rust's and
  MLX's read.
* `torch`: the names of a running PyTorch Mimi.
* `transformers`: the files of `transformers.MimiModel`, whose rotary embedding turns halves
  instead of pairs, so that the rows of its q and k are permuted.
* `transformers5`: the names of a running MimiModel of transformers 5.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator

from moshijax.codec.config import MimiConfig
from moshijax.convert.transforms import (
    CONV,
    LINEAR,
    POINTWISE,
    QKV,
    SAME,
    Entry,
    Transform,
    conv_transpose,
    depthwise_transpose,
    halves,
)


def entries(config: MimiConfig, layout: str) -> list[Entry]:
    """Returns the whole table of a layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown; there are {', '.join(LAYOUTS)}")
    return list(LAYOUTS[layout](config))


def _published(config: MimiConfig) -> Iterator[Entry]:
    for half in ("encoder", "decoder"):
        yield from _seanet(config, half)
        for i in range(config.transformer.num_layers):
            yield from _block(
                f"{half}_transformer.transformer.layers.{i}", f"{half}/transformer/layers/{i}"
            )
    yield Entry("downsample.conv.conv.conv.weight", ("encoder/downsample/kernel",), CONV)
    transform = depthwise_transpose(config.resample_stride)
    yield Entry("upsample.convtr.convtr.convtr.weight", ("decoder/upsample/kernel",), transform)
    for theirs, ours, number in (
        ("first", "semantic", 1),
        ("rest", "acoustic", config.num_codebooks - 1),
    ):
        yield from _quantizer(f"quantizer.rvq_{theirs}", f"quantizer/{ours}", number)


def _seanet(config: MimiConfig, half: str) -> Iterator[Entry]:
    model, path = f"{half}.model", f"{half}/seanet"
    stages = len(config.ratios)

    def conv(name: str, to: str, transform: Transform = CONV) -> Iterator[Entry]:
        yield Entry(f"{model}.{name}.weight", (f"{path}/{to}/kernel",), transform)
        yield Entry(f"{model}.{name}.bias", (f"{path}/{to}/bias",), SAME)

    yield from conv("0.conv.conv", "first")
    for i in range(stages):
        block = 3 * i + (1 if half == "encoder" else 3)
        yield from conv(f"{block}.block.1.conv.conv", f"blocks/{i}/conv")
        yield from conv(f"{block}.block.3.conv.conv", f"blocks/{i}/out", POINTWISE)
        if half == "encoder":
            yield from conv(f"{3 * i + 3}.conv.conv", f"downs/{i}")
        else:
            transform = conv_transpose(config.ratios[i])
            yield from conv(f"{3 * i + 2}.convtr.convtr", f"ups/{i}", transform)
    yield from conv(f"{3 * stages + 2}.conv.conv", "last")


def _block(name: str, path: str) -> Iterator[Entry]:
    attention = f"{path}/attention"
    qkv = tuple(f"{attention}/{part}/kernel" for part in "qkv")
    yield Entry(f"{name}.self_attn.in_proj_weight", qkv, QKV)
    yield Entry(f"{name}.self_attn.out_proj.weight", (f"{attention}/out/kernel",), LINEAR)
    yield Entry(f"{name}.linear1.weight", (f"{path}/mlp/up/kernel",), LINEAR)
    yield Entry(f"{name}.linear2.weight", (f"{path}/mlp/down/kernel",), LINEAR)
    for theirs, ours in (("1", "attention"), ("2", "mlp")):
        yield Entry(f"{name}.norm{theirs}.weight", (f"{path}/{ours}_norm/scale",), SAME)
        yield Entry(f"{name}.norm{theirs}.bias", (f"{path}/{ours}_norm/bias",), SAME)
        yield Entry(f"{name}.layer_scale_{theirs}.scale", (f"{path}/{ours}_scale/scale",), SAME)


def _quantizer(name: str, path: str, number: int) -> Iterator[Entry]:
    yield Entry(f"{name}.input_proj.weight", (f"{path}/project_in/kernel",), POINTWISE)
    yield Entry(f"{name}.output_proj.weight", (f"{path}/project_out/kernel",), POINTWISE)
    for i in range(number):
        book, ours = f"{name}.vq.layers.{i}._codebook", f"{path}/codebooks/{i}"
        yield Entry(f"{book}._initialized", (f"{ours}/initialized",), SAME)
        yield Entry(f"{book}.cluster_usage", (f"{ours}/usage",), SAME)
        yield Entry(f"{book}.embedding_sum", (f"{ours}/embedding_sum",), SAME)


def _torch(config: MimiConfig) -> Iterator[Entry]:
    for entry in _published(config):
        name = entry.name.replace("in_proj_weight", "in_projs.0.weight")
        yield dataclasses.replace(entry, name=name.replace("out_proj.weight", "out_projs.0.weight"))


TRANSFORMERS = (
    (r"(encoder|decoder)\.model", r"\1.layers"),
    (r"(conv|convtr)(\.(conv|convtr))+\.", "conv."),
    (r"_transformer\.transformer", "_transformer"),
    (r"self_attn\.out_proj\.", "self_attn.o_proj."),
    (r"linear([12])\.", r"mlp.fc\1."),
    (r"norm1\.", "input_layernorm."),
    (r"norm2\.", "post_attention_layernorm."),
    (r"layer_scale_1\.", "self_attn_layer_scale."),
    (r"layer_scale_2\.", "mlp_layer_scale."),
    (r"rvq_first\.", "semantic_residual_vector_quantizer."),
    (r"rvq_rest\.", "acoustic_residual_vector_quantizer."),
    (r"vq\.layers\.(\d+)\._codebook\.", r"layers.\1.codebook."),
    (r"codebook\._initialized", "codebook.initialized"),
    (r"embedding_sum", "embed_sum"),
)


def _transformers(config: MimiConfig) -> Iterator[Entry]:
    turned = halves(config.transformer.num_heads)
    for entry in _published(config):
        name = entry.name
        for pattern, by in TRANSFORMERS:
            name = re.sub(pattern, by, name)
        if entry.transform is not QKV:
            yield dataclasses.replace(entry, name=name)
            continue
        for part, path in zip("qkv", entry.paths, strict=True):
            own = name.replace("in_proj_weight", f"{part}_proj.weight")
            yield Entry(own, (path,), LINEAR if part == "v" else turned)


def _transformers5(config: MimiConfig) -> Iterator[Entry]:
    for entry in _transformers(config):
        half = entry.paths[0].split("/")[0]
        name = entry.name.removeprefix(f"{half}.")
        if half != "quantizer":
            name = f"{half}.{half}_seanet.{name}" if name.startswith("layers") else f"{half}.{name}"
        yield dataclasses.replace(entry, name=name if half != "quantizer" else entry.name)


LAYOUTS: dict[str, Callable[[MimiConfig], Iterator[Entry]]] = {
    "published": _published,
    "torch": _torch,
    "transformers": _transformers,
    "transformers5": _transformers5,
}
