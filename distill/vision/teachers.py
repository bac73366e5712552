"""Models of an experiment: built from a preset, loaded from a file or another run."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import jax
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from distill.vision.convert import load_npz
from distill.vision.resnet import PRESETS, ResNet, ResNetConfig
from distill.vision.timm import load_timm
from moshijax.convert.hub import locate
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.system.errors import UserError
from moshijax.train.checkpoints import is_run, load_parameters


EXPERIMENT = "distill.vision.experiment"  # the kind of run whose model is a classifier


def model_config(spec: ConfigDict) -> ResNetConfig:
    """The architecture of `spec.preset` with `spec.overrides`.

    Raises:
        UserError: an unknown preset or field, or a value that no network can have.
    """
    if spec.preset not in PRESETS:
        raise UserError(f"preset: {spec.preset!r} is unknown, take one of {', '.join(PRESETS)}.")
    try:
        return dataclasses.replace(PRESETS[spec.preset], **spec.overrides.to_dict())
    except (TypeError, ValueError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(ResNetConfig))
        raise UserError(f"overrides of {spec.preset}: {error}; fields are {fields}.") from error


def make_model(spec: ConfigDict, key: jax.Array) -> ResNet:
    """A random model of `spec`."""
    return ResNet(model_config(spec), rngs=nnx.Rngs(key))


def _random(spec: ConfigDict, seed: int) -> ResNet:
    """A model whose head is random too: one of zeros gives every image the same logits."""

    def make(key: jax.Array) -> ResNet:
        leaves = named_leaves(model := make_model(spec, key))
        kernel = leaves["head/kernel"]
        leaves["head/kernel"] = jax.random.normal(key, kernel.shape, kernel.dtype)
        return with_leaves(model, leaves)

    return jax.jit(make)(jax.random.key(seed))


def load_model(spec: ConfigDict, seed: int) -> ResNet:
    """The model of `spec` with the weights of `spec.load`: a file or a work directory.

    A file is an npz or a safetensors in timm's names, and may be of the hub (`hf://`). Without
    `spec.load_head` the head stays random, whatever head the file has.

    Raises:
        UserError: nothing is there, or it holds another model.
    """
    if spec.load is None:
        logging.warning("%s has no weights to load: it stays random.", spec.preset)
        return _random(spec, seed)
    shapes = jax.eval_shape(lambda: make_model(spec, jax.random.key(0)))
    path = pathlib.Path(os.path.expanduser(spec.load))
    hub, timm = spec.load.startswith("hf:"), _is_timm(spec.load)
    if path.is_file() or hub or timm:
        own = shapes if spec.load_head else _random(spec, seed)
        if timm:
            return load_timm(spec.load if hub else path, own, spec.load_head)
        return load_npz(locate(spec.load) if hub else path, own, spec.load_head)
    if not path.is_dir():
        raise UserError(
            f"load: {spec.load} is neither a file (npz, safetensors) nor a work directory: "
            "fetch or train the model first, or point `load` at it."
        )
    return with_leaves(shapes, _checked(str(path), named_leaves(shapes)))


def _is_timm(load: str) -> bool:
    """Whether weights are safetensors: by the name, or by what lies in a folder of this name."""
    if load.startswith("hf:"):
        return not load.endswith(".npz")
    path = pathlib.Path(os.path.expanduser(load))
    if is_run(path):  # A student may have been exported into it.
        return False
    names = [path.name, *(each.name for each in path.glob("*.safetensors"))]
    return any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names)


def _checked(path: str, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The arrays of a run's model, if their names and shapes are those wanted."""
    _check_kind(pathlib.Path(path))
    leaves = load_parameters(path)
    found = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    expected = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    if found != expected:
        odd = sorted(n for n in found.keys() | expected if found.get(n) != expected.get(n))
        first = odd[0]
        if first not in found or first not in expected:
            what = f"{first} is in {'it' if first in found else 'this model'} alone"
        else:
            what = f"{first} has shape {found[first]} there and {expected[first]} here"
        raise UserError(
            f"load: {path} holds another model: {what} ({len(odd)} such arrays): name its own "
            "preset and overrides."
        )
    return leaves


def _check_kind(path: pathlib.Path) -> None:
    """Refuses the directory of a run that trains no image classifier."""
    config = path / "config.json"
    if not config.is_file():
        raise UserError(
            f"load: {path} is no work directory (it has no config.json): name a run's directory "
            "or an npz file."
        )
    try:
        experiment = json.loads(config.read_text())["experiment"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"load: {config} is damaged ({error}): copy the run again.") from error
    if experiment != EXPERIMENT:
        raise UserError(
            f"load: {path} is a run of {experiment}, not of {EXPERIMENT}: it holds no image "
            "classifier."
        )
