"""Adapters of a language model in a file of their own, as moshi-finetune writes it."""

import os
import pathlib
from collections.abc import Iterable, Mapping

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from moshijax.convert.lm.beside import describe_adapters, find_scaling
from moshijax.convert.lm.forms import adapter_entries, below, is_linear, linear_name, rank_of
from moshijax.convert.lm.model import check_shared, read_leaves
from moshijax.convert.lm.names import entries
from moshijax.convert.safetensors import write_safetensors
from moshijax.convert.tables import announce, detect, faults, find, pieces, read
from moshijax.convert.transforms import Entry
from moshijax.convert.weights import ADAPTERS, Weights, open_weights
from moshijax.lm.config import MoshiConfig
from moshijax.lm.moshi import Moshi
from moshijax.nn.linear import map_kernels
from moshijax.nn.lora import adapt, adapters
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.system.errors import UserError


LAYOUTS = ("torch", "published")


def load_lora(
    source: str | os.PathLike[str],
    model: Moshi,
    *,
    scaling: float | None = None,
    mesh: Mesh | None = None,
) -> Moshi:
    """Gives every linear map of a model the adapter that a file has for it.

    Whole tensors beside them take the place of the model's, such as embeddings that were trained
    with the adapters (`ft_embed` of moshi-finetune).

    Args:
        source: a path or an `hf://` name.
        model: without adapters, stacked or in lists.
        scaling: of the adapters; it wins over what is written. None: as the file says or the
            config.json beside it, else Moshi's default of 2.
        mesh: where to put them.

    Raises:
        UserError: the model has adapters, or the file has some of other linear maps, or of
            several ranks.
    """
    if adapters(model):
        raise UserError(f"{source}: this model has adapters already: fuse_lora takes them in.")
    file = open_weights(source, ADAPTERS)
    scaling = find_scaling(source, file, scaling)
    tables = {layout: _table(model.config, layout) for layout in LAYOUTS}
    layout = detect(file, tables) or LAYOUTS[0]
    linears = filter(is_linear, entries(model.config, layout))
    rank = next(filter(None, (rank_of(file, entry) for entry in linears)), 1)

    def adapted(model: Moshi) -> Moshi:
        key = jax.random.key(0)
        return map_kernels(model, lambda name, kernel: adapt(name, kernel, rank, scaling, key))

    shapes = jax.eval_shape(adapted, model)
    whole = whole_tensors(file, entries(model.config, layout), shapes)
    if found := faults(file, tables[layout] + whole, named_leaves(shapes)):
        raise UserError(
            f"{file.path} does not fit the linear maps of this language model at rank {rank}: "
            f"{found}; give adapters that were made for this model"
        )
    held = named_leaves(model)
    frozen = {name: name.replace("/kernel/frozen", "/kernel") for name in named_leaves(shapes)}
    leaves = {name: held[own] for name, own in frozen.items() if own in held}
    leaves |= read_leaves(file, tables[layout], adapters(shapes), mesh)
    return with_leaves(shapes, leaves | replaced(file, whole, leaves))


def save_lora(
    model: Moshi,
    path: str | os.PathLike[str],
    *,
    layout: str = "torch",
    dtype: DTypeLike | None = None,
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
    tensors = {e.name: announce(e, found, dtype) for e in table}
    write_safetensors(path, tensors, describe_adapters(model))
    return pathlib.Path(path)


def whole_tensors(file: Weights, table: Iterable[Entry], model: Moshi) -> list[Entry]:
    """Returns the entries of what a file of adapters has whole; a linear map's is the frozen one.

    Raises:
        UserError: it is of a linear map that is quantised in the model.
    """
    leaves, found = named_leaves(model), []
    for entry in table:
        if not is_linear(entry):
            found += [entry] if entry.name in file else []
            continue
        # Moshi's code reads either name.
        names = (f"{linear_name(entry.name)}.frozen_W.weight", entry.name)
        name = next((name for name in names if name in file), None)
        if name is None:
            continue
        frozen = Entry(name, below(entry.paths, "frozen"), entry.transform)
        try:
            find(frozen.paths[0], leaves)
        except KeyError as error:
            raise UserError(
                f"{file.path} has {name} whole, which is quantised in this model: load the "
                "adapters first, fuse them, then quantise."
            ) from error
        found.append(frozen)
    return found


def replaced(
    file: Weights, table: Iterable[Entry], leaves: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the arrays that a file has whole, or in some layers of a stack, with its values."""
    found = {}
    for name, parts in pieces(table, leaves).items():
        array = leaves[name]
        for index, piece in parts.items():
            shape = array.shape[len(index) :]
            array = array.at[index].set(read(file, {(): piece}, shape, array.dtype))
        found[name] = jax.device_put(array, leaves[name].sharding)
        file.release()
    return found


def _table(config: MoshiConfig, layout: str) -> list[Entry]:
    linears = filter(is_linear, entries(config, layout))
    return [part for entry in linears for part in adapter_entries(entry)]
