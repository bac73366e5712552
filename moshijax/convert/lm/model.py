"""Language models from a file of any layout, whole or onto a mesh, and to one."""

import functools
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import PyTree

from moshijax.convert.lm.beside import describe_adapters, find_scaling
from moshijax.convert.lm.forms import arrange, expand, linear_name
from moshijax.convert.lm.helium import transformers_config
from moshijax.convert.lm.names import entries, layouts
from moshijax.convert.parts import write_parts
from moshijax.convert.tables import announce, detect, faults, few, pieces, read
from moshijax.convert.transforms import Entry
from moshijax.convert.weights import Weights, open_weights
from moshijax.lm.config import MoshiConfig
from moshijax.lm.moshi import Moshi, cast, keeps_type
from moshijax.lm.presets import PRESETS
from moshijax.lm.rules import RULES
from moshijax.nn.lora import share_adapters
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.nn.transformer import unstack
from moshijax.shard import shard_like
from moshijax.system.errors import UserError


WHAT = "language model"


def load_lm(
    source: str | os.PathLike[str],
    config: MoshiConfig,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    inference: bool = False,
    lora_scaling: float | None = None,
) -> Moshi:
    """Loads a language model from a path or an `hf://` name, whatever the layout of the file.

    Kernels are as in the file: arrays, with adapters, or of int8 with a scale a channel. Every
    tensor must be there, in its shape, and no other. Conditioners are float32, the rest is `dtype`,
    or as in the file.

    Args:
        source: where the file is.
        config: what the file must hold.
        dtype: of the parameters.
        mesh: where to put them; each process reads of the file what its devices hold.
        inference: arrange the weights as lists, which a CPU reads fastest.
        lora_scaling: of the adapters, if the file has any; it wins over what is written. None: as
            the file says or the config.json beside it, else Moshi's default of 2.

    Raises:
        UserError: the file does not fit; the sentence says how, and which preset it is of.
    """
    file = open_weights(source)
    model, table = fit(file, config, find_scaling(source, file, lora_scaling))
    if inference:
        model = jax.eval_shape(unstack, model)
    dtype = dtype or file.entries[table[0].name].dtype
    model = jax.eval_shape(lambda model: cast(model, dtype), model)
    return with_leaves(model, read_leaves(file, table, model, mesh))


def save_lm(
    model: Moshi,
    path: str | os.PathLike[str],
    *,
    layout: str = "published",
    dtype: DTypeLike | None = None,
    part_bytes: float = math.inf,
) -> pathlib.Path:
    """Writes a language model; conditioners in float32, the rest in `dtype`, or as it is.

    For transformers it writes a folder, with the configuration beside the weights. What is larger
    than `part_bytes` comes in parts with an index.
    """
    path, leaves = pathlib.Path(path), named_leaves(model)
    check_shared(model)
    table = expand(entries(model.config, layout), leaves)
    if layout == "transformers":
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(transformers_config(model.config), indent=2)
        (path / "config.json").write_text(text + "\n")
        path = path / "model.safetensors"
    types = (None if keeps_type(e.paths[0]) else dtype for e in table)
    tensors = {e.name: announce(e, leaves, kind) for e, kind in zip(table, types, strict=True)}
    metadata = {"format": "pt"} if layout == "transformers" else {}
    write_parts(path, tensors, metadata | describe_adapters(model), part_bytes)
    return path


def check_shared(model: Moshi) -> None:
    """Raises ValueError unless what shares an adapter's A in a file has the same one."""
    leaves = named_leaves(model)
    for name, shared in named_leaves(share_adapters(model)).items():
        if leaves[name] is not shared and not jnp.array_equal(leaves[name], shared):
            raise ValueError(
                f"{name} is not the A that files have in common for it and its neighbours: train "
                "with share_adapters, and call it before saving; or fuse_lora."
            )


@functools.lru_cache
def abstract_lm(config: MoshiConfig) -> Moshi:
    """Returns a language model of shapes without numbers."""
    return jax.eval_shape(lambda: Moshi(config, rngs=nnx.Rngs(0)))


def read_leaves(
    file: Weights, table: list[Entry], model: PyTree[jax.ShapeDtypeStruct], mesh: Mesh | None
) -> dict[str, jax.Array]:
    """Reads the arrays of a model of shapes, one after the other, onto the mesh if there is one."""
    leaves = named_leaves(model)
    parts = pieces(table, leaves)
    shardings = named_leaves(shard_like(model, mesh, RULES)) if mesh else {}

    def fill(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if mesh is None:
            array = jnp.array(read(file, parts[name], leaf.shape, leaf.dtype))
        else:
            array = jax.make_array_from_callback(
                leaf.shape,
                shardings[name],
                lambda index: read(file, parts[name], leaf.shape, leaf.dtype, index),
            )
        # The pages of the file may be dropped only once JAX has copied them.
        array.block_until_ready()
        file.release()
        return array

    return {name: fill(name, leaf) for name, leaf in leaves.items()}


def fit(file: Weights, config: MoshiConfig, lora_scaling: float = 2.0) -> tuple[Moshi, list[Entry]]:
    """Returns the model of shapes that a file holds, and its table: both have the same tensors.

    Raises:
        UserError: the file does not fit; the sentence says how, and which preset it is of.
    """
    fits = {layout: _arranged(file, config, layout, lora_scaling) for layout in layouts(config)}
    layout = detect(file, {layout: table for layout, (_, table) in fits.items()})
    if layout is None and any(name.endswith(".lora_A.weight") for name in file):
        raise UserError(
            f"{file.path} holds adapters alone: load the model that they were made for, then them "
            "with load_lora, and save it fused."
        )
    if layout is None:
        found = f"it has few of this model's tensors; its own are {few(sorted(file))}"
    else:
        found = faults(file, fits[layout][1], named_leaves(fits[layout][0]))
        if not found:
            return fits[layout]
    fitting = [name for name, other in PRESETS.items() if _fits(file, other)]
    remedy = (
        f"it is of the preset {' or '.join(fitting)}, so load it as that"
        if fitting
        else "choose the configuration that it was made with, or fetch it anew"
    )
    raise UserError(f"{file.path} does not fit this {WHAT}: {found}; {remedy}")


def _arranged(
    file: Weights, config: MoshiConfig, layout: str, lora_scaling: float
) -> tuple[Moshi, list[Entry]]:
    table = entries(config, layout)
    model = arrange(file, table, abstract_lm(config), lora_scaling)
    return model, expand(table, named_leaves(model))


def _fits(file: Weights, config: MoshiConfig) -> bool:
    names = {linear_name(name) for name in file}
    for layout in layouts(config):
        # The names are compared first, since tracing a model for its shapes takes long.
        if names == {linear_name(entry.name) for entry in entries(config, layout)}:
            model, table = _arranged(file, config, layout, 1.0)
            return not faults(file, table, named_leaves(model))
    return False
