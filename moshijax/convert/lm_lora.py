"""Adapters of a language model in a file of their own, as moshi-finetune writes it."""

import os
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from moshijax.convert.lm import check_shared, read_leaves
from moshijax.convert.lm_forms import adapter_entries, is_linear, rank_of
from moshijax.convert.lm_names import entries
from moshijax.convert.names import Entry
from moshijax.convert.safetensors import write_safetensors
from moshijax.convert.tables import announce, detect, faults
from moshijax.convert.weights import ADAPTERS, open_weights
from moshijax.lm.config import MoshiConfig
from moshijax.lm.moshi import Moshi
from moshijax.nn.linear import map_kernels
from moshijax.nn.lora import Lora, adapters
from moshijax.nn.paths import named_leaves, with_leaves


LAYOUTS = ("torch", "published")


def load_lora(
    source: str | os.PathLike[str],
    model: Moshi,
    *,
    scaling: float = 2.0,
    mesh: Mesh | None = None,
) -> Moshi:
    """Gives every linear map of a model the adapter that a file has for it.

    Args:
        source: a path or an `hf://` name.
        model: without adapters, stacked or in lists.
        scaling: of the adapters; the file does not tell. Moshi's own default.
        mesh: where to put them.

    Raises:
        ValueError: the file has adapters of other linear maps, or of several ranks.
    """
    if adapters(model):
        raise ValueError(f"{source}: this model has adapters already: fuse_lora takes them in.")
    file = open_weights(source, ADAPTERS)
    tables = {layout: _table(model.config, layout) for layout in LAYOUTS}
    layout = detect(file, tables) or LAYOUTS[0]
    linears = filter(is_linear, entries(model.config, layout))
    rank = next(filter(None, (rank_of(file, entry) for entry in linears)), 1)

    def adapt(model: Moshi) -> Moshi:
        key = jax.random.key(0)
        return map_kernels(model, lambda _, kernel: Lora(kernel, rank, scaling, key))

    shapes = jax.eval_shape(adapt, model)
    wanted = adapters(shapes)
    if found := faults(file, tables[layout], wanted):
        raise ValueError(
            f"{file.path} does not fit the linear maps of this language model at rank {rank}: "
            f"{found}; give adapters that were made for this model"
        )
    leaves = named_leaves(model) | read_leaves(file, tables[layout], wanted, mesh)
    names = named_leaves(shapes)
    return with_leaves(shapes, {n: leaves[n.replace("/kernel/frozen", "/kernel")] for n in names})


def save_lora(
    model: Moshi, path: str | os.PathLike[str], *, layout: str = "torch", dtype: Any = None
) -> pathlib.Path:
    """Writes the adapters of a model alone, in `dtype` or as they are.

    Raises:
        ValueError: the model has none, or what shares an A in the file has several.
    """
    found = adapters(model)
    if not found:
        raise ValueError("this model has no adapters to save: add_lora gives it some.")
    check_shared(model)
    table = _table(model.config, layout)
    write_safetensors(path, {e.name: announce(e, found, dtype) for e in table}, {})
    return pathlib.Path(path)


def _table(config: MoshiConfig, layout: str) -> list[Entry]:
    linears = filter(is_linear, entries(config, layout))
    return [part for entry in linears for part in adapter_entries(entry)]
