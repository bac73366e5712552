"""Mimi from a file of any layout, and to one."""

import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moshijax.codec.config import MimiConfig
from moshijax.codec.mimi import Mimi
from moshijax.codec.quantize import Codebook, FrozenCodebook, freeze_codebooks
from moshijax.convert.hub import locate
from moshijax.convert.names import LAYOUTS, Entry, entries
from moshijax.convert.safetensors import Lazy, Safetensors, write_safetensors
from moshijax.nn.paths import named_leaves, path_name, with_leaves
from moshijax.nn.transformer import unstack


def load_mimi(
    source: str | os.PathLike[str], config: MimiConfig, *, inference: bool = False
) -> Mimi:
    """Loads a Mimi from a path or an `hf://` name, whatever the layout of the file.

    Every tensor must be there, in its shape, and no other; only codebooks beyond
    `config.num_codebooks` are left out. With `inference` the weights are arranged for speed.
    """
    file = Safetensors(locate(source))
    layout = detect_layout(file, config)
    full = dataclasses.replace(config, num_codebooks=_count_codebooks(file))
    if full.num_codebooks < config.num_codebooks:
        raise ValueError(
            f"{file.path} has {full.num_codebooks} codebooks, but the configuration has "
            f"{config.num_codebooks}: ask for fewer"
        )
    table = entries(full, layout)
    check_tensors(file, table, named_leaves(abstract_mimi(full)))
    sources = {path: (entry, i) for entry in table for i, path in enumerate(entry.paths)}

    def fill(path: tuple[Any, ...], node: Any) -> Any:
        # A codebook at a time, so that a frozen one never lies beside all the others' averages.
        leaves = named_leaves(node).items()
        read = {b: _read(file, sources, path_name(path, b), leaf.shape) for b, leaf in leaves}
        file.release()
        node = with_leaves(node, read)
        return freeze_codebooks(node) if inference else node

    model = abstract_mimi(config)
    if inference:
        model = jax.eval_shape(unstack, model)
    return jax.tree_util.tree_map_with_path(
        fill, model, is_leaf=lambda node: isinstance(node, Codebook)
    )


def save_mimi(
    model: Mimi, path: str | os.PathLike[str], *, layout: str = "published"
) -> pathlib.Path:
    """Writes a Mimi; for transformers a folder, with the configuration beside the weights."""
    path = pathlib.Path(path)
    if layout == "transformers":
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(transformers_config(model.config), indent=2)
        (path / "config.json").write_text(text + "\n")
        path = path / "model.safetensors"
    if any(isinstance(node, FrozenCodebook) for node in _codebooks(model)):
        raise ValueError(
            "this Mimi has frozen codebooks, which cannot be saved; load it without inference=True"
        )
    leaves = named_leaves(model)
    tensors = {e.name: announce(e, leaves) for e in entries(model.config, layout)}
    write_safetensors(path, tensors, {"format": "pt"} if layout.startswith("trans") else {})
    return path


def _codebooks(model: Mimi) -> list[Codebook | FrozenCodebook]:
    return [*model.quantizer.semantic.codebooks, *model.quantizer.acoustic.codebooks]


@functools.lru_cache
def abstract_mimi(config: MimiConfig) -> Mimi:
    """Returns a Mimi of shapes without numbers."""
    return jax.eval_shape(lambda: Mimi(config, rngs=nnx.Rngs(0)))


def detect_layout(file: Safetensors, config: MimiConfig) -> str:
    """Returns the layout that most of a file's names belong to."""
    names = {layout: {e.name for e in entries(config, layout)} for layout in LAYOUTS}
    common = {layout: len(names[layout] & file.keys()) for layout in LAYOUTS}
    best = max(LAYOUTS, key=lambda layout: common[layout])
    if common[best] < len(names[best]) / 2:
        examples = ", ".join(sorted(file)[:3])
        raise ValueError(
            f"{file.path} is the file of another model: of {len(names[best])} tensors of a Mimi "
            f"it has {common[best]}; its first are {examples}; give a Mimi's"
        )
    return best


def check_tensors(file: Safetensors, table: list[Entry], leaves: dict[str, Any]) -> None:
    """Raises if a tensor is missing, is not of a Mimi or has another shape."""
    names = [entry.name for entry in table]
    missing = sorted(set(names) - file.keys())
    surplus = sorted(file.keys() - set(names))
    wrong = []
    for entry in table:
        want = announce(entry, leaves).shape
        if entry.name in file and file.entries[entry.name].shape != want:
            wrong.append(
                f"{entry.name} is {list(file.entries[entry.name].shape)}, not {list(want)}"
            )
    faults = [("lacks", missing), ("has besides", surplus), ("has misshapen", wrong)]
    found = [f"{verb} {_few(which)}" for verb, which in faults if which]
    if found:
        raise ValueError(
            f"{file.path} does not fit this Mimi: it {'; it '.join(found)}; choose the "
            "configuration that it was made with, or fetch it anew"
        )


def transformers_config(config: MimiConfig) -> dict[str, Any]:
    """Returns what transformers' MimiConfig needs to build the same model."""
    transformer = config.transformer
    return {
        "architectures": ["MimiModel"],
        "model_type": "mimi",
        "sampling_rate": config.sample_rate,
        "audio_channels": 1,
        "hidden_size": config.dim,
        "num_filters": config.num_filters,
        "num_residual_layers": 1,
        "upsampling_ratios": list(config.ratios),
        "kernel_size": config.kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "compress": config.compress,
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        "vector_quantization_hidden_dimension": config.codebook_dim,
        "num_quantizers": config.num_codebooks,
        "num_semantic_quantizers": 1,
        "upsample_groups": config.dim,
        "num_hidden_layers": transformer.num_layers,
        "intermediate_size": transformer.mlp_dim,
        "num_attention_heads": transformer.num_heads,
        "num_key_value_heads": transformer.num_heads,
        "head_dim": transformer.dim // transformer.num_heads,
        "sliding_window": transformer.context,
        "rope_theta": transformer.max_period,
        "layer_scale_initial_scale": transformer.layer_scale,
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "use_causal_conv": True,
        "frame_rate": config.frame_rate,
    }


def _count_codebooks(file: Safetensors) -> int:
    return sum(bool(re.search(r"codebook\.embed(ding)?_sum$", name)) for name in file)


def _few(items: list[str]) -> str:
    return ", ".join(items[:4]) + (f" and {len(items) - 4} more" if len(items) > 4 else "")


def _read(
    file: Safetensors,
    sources: dict[str, tuple[Entry, int]],
    path: str,
    shape: tuple[int, ...],
) -> jax.Array:
    """Reads one parameter; a stack of layers from the tensors of its layers."""

    def part(path: str) -> np.ndarray:
        entry, i = sources[path]
        return entry.transform.split(file[entry.name])[i]

    if path in sources:
        return jnp.array(np.ascontiguousarray(part(path), np.float32))
    array = np.empty(shape, np.float32)
    for i in range(shape[0]):
        array[i] = part(path.replace("/layers/", f"/layers/{i}/"))
    return jnp.array(array)


def announce(entry: Entry, leaves: dict[str, Any]) -> Lazy:
    """Announces a tensor of a file, to be made of the parameters when it is written."""
    parts = [_find(path, leaves) for path in entry.paths]
    shapes = [leaf.shape if i is None else leaf.shape[1:] for leaf, i in parts]
    empty = entry.transform.join(*(np.broadcast_to(np.float32(0), shape) for shape in shapes))

    def make() -> np.ndarray:
        arrays = (np.asarray(leaf if i is None else leaf[i], np.float32) for leaf, i in parts)
        return entry.transform.join(*arrays)

    return Lazy(empty.shape, empty.dtype, make)


def _find(path: str, leaves: dict[str, Any]) -> tuple[Any, int | None]:
    """Returns a parameter, or the stack that it lies in and its layer."""
    if path in leaves:
        return leaves[path], None
    stack, layer, rest = re.split(r"/(\d+)", path, maxsplit=1)
    return leaves[stack + rest], int(layer)
