"""Mimi from a file of any layout, and to one."""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from moshijax.codec.config import MimiConfig
from moshijax.codec.mimi import Mimi
from moshijax.codec.quantize import Codebook, FrozenCodebook, freeze_codebooks
from moshijax.convert.mimi.beside import check_folder
from moshijax.convert.mimi.config import transformers_config
from moshijax.convert.mimi.names import LAYOUTS, entries
from moshijax.convert.safetensors import write_safetensors
from moshijax.convert.tables import announce, detect, faults, few, pieces, read
from moshijax.convert.transforms import Entry
from moshijax.convert.values import check_codebook
from moshijax.convert.weights import CODEC, Weights, open_weights
from moshijax.nn.paths import named_leaves, path_name, with_leaves
from moshijax.nn.transformer import unstack
from moshijax.shard import Leaf
from moshijax.system.errors import UserError
from moshijax.system.files import replacing


def load_mimi(
    source: str | os.PathLike[str], config: MimiConfig, *, inference: bool = False
) -> Mimi:
    """Loads a Mimi from a path or an `hf://` name, whatever the layout; see `open_weights`.

    Every tensor must be there, in its shape, and no other; only codebooks beyond
    `config.num_codebooks` are left out. With `inference` the weights are arranged for speed.
    """
    file = open_weights(source, CODEC)
    check_folder(source, file.path, config)
    layout = detect_layout(file, config)
    full = dataclasses.replace(config, num_codebooks=_count_codebooks(file))
    if full.num_codebooks < config.num_codebooks:
        raise UserError(
            f"{file.path} has {full.num_codebooks} codebooks, but the configuration has "
            f"{config.num_codebooks}: ask for fewer"
        )
    table = [entry for entry in entries(full, layout) if entry.name in file or not _flag(entry)]
    check_tensors(file, table, named_leaves(abstract_mimi(full)))
    arrange = unstack if inference else lambda model: model
    parts = pieces(table, named_leaves(jax.eval_shape(arrange, abstract_mimi(full))))

    def fill(path: jax.tree_util.KeyPath, node: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.Array]:
        # A codebook at a time: frozen at once, the averages of no more than one are in memory.
        leaves = {}
        for below, leaf in named_leaves(node).items():
            name = path_name(path, below)
            if own := parts.get(name):
                array = read(file, own, leaf.shape, np.float32)
                check_codebook(file, next(iter(own.values())).entry.name, below, array)
            else:  # The flag `initialized`, which many files leave out: published codebooks are.
                array = np.ones(leaf.shape)
            leaves[below] = jnp.array(array, np.float32)
        file.release()
        node = with_leaves(node, leaves)
        return freeze_codebooks(node) if inference else node

    model = jax.eval_shape(arrange, abstract_mimi(config))
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
        with replacing(path / "config.json", "w") as file:
            file.write(text + "\n")
        path = path / "model.safetensors"
    if any(isinstance(node, FrozenCodebook) for node in _codebooks(model)):
        raise ValueError(
            "this Mimi has frozen codebooks, which cannot be saved; load it without inference=True"
        )
    leaves = named_leaves(model)
    tensors = {e.name: announce(e, leaves, np.float32) for e in entries(model.config, layout)}
    write_safetensors(path, tensors, {"format": "pt"} if layout.startswith("trans") else {})
    return path


def _codebooks(model: Mimi) -> list[Codebook | FrozenCodebook]:
    return [*model.quantizer.semantic.codebooks, *model.quantizer.acoustic.codebooks]


@functools.lru_cache
def abstract_mimi(config: MimiConfig) -> Mimi:
    """Returns a Mimi of shapes without numbers."""
    return jax.eval_shape(lambda: Mimi(config, rngs=nnx.Rngs(0)))


def detect_layout(file: Weights, config: MimiConfig) -> str:
    """Returns the layout that most of a file's names belong to."""
    best = detect(file, {layout: entries(config, layout) for layout in LAYOUTS})
    if best is None:
        raise UserError(
            f"{file.path} is the file of another model: it has few of a Mimi's tensors; its first "
            f"are {few(sorted(file))}; give a Mimi's"
        )
    return best


def check_tensors(file: Weights, table: list[Entry], leaves: Mapping[str, Leaf]) -> None:
    """Raises if a tensor is missing, is not of a Mimi or has another shape."""
    if found := faults(file, table, leaves):
        raise UserError(
            f"{file.path} does not fit this Mimi: {found}; choose the configuration that it was "
            "made with, or fetch it anew"
        )


def _flag(entry: Entry) -> bool:
    """Whether an entry is a codebook's flag of its start, which many writers leave out."""
    return entry.paths[0].endswith("/initialized")


def _count_codebooks(file: Weights) -> int:
    return sum(bool(re.search(r"codebook\.embed(ding)?_sum$", name)) for name in file)
