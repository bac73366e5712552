"""Reads and writes BiT ResNets as safetensors files in the names of timm's `resnetv2_*_bit`.

timm surrounds the image of the stem's max-pool with zeros (`pool_padding="zero"`), and
standardises kernels with an epsilon of 1e-8, where big_vision has 1e-10: on real kernels, whose
variance is far above both, the logits are those of timm to 1e-4.
"""

import os
import re
from collections.abc import Iterable

import jax.numpy as jnp

from distill.vision.resnet import ResNet
from moshijax.convert.safetensors import write_safetensors
from moshijax.convert.tables import announce, faults, pieces, read
from moshijax.convert.transforms import SAME, Entry, Transform
from moshijax.convert.weights import Weights, open_weights
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.system.errors import UserError


CONV = Transform(lambda a: (a.transpose(2, 3, 1, 0),), lambda a: a.transpose(3, 2, 0, 1))
# timm's head is a convolution of one pixel.
HEAD = Transform(lambda a: (a[:, :, 0, 0].T,), lambda a: a.T[:, :, None, None])
HEADS = ("head.fc.weight", "head.fc.bias")


def entries(names: Iterable[str]) -> list[Entry]:
    """The table of a file, from the names of our parameters."""
    return [Entry(_timm_name(name), (name,), _transform(name)) for name in names]


def _timm_name(name: str) -> str:
    leaf = "bias" if name.endswith("/bias") else "weight"
    if name.startswith("root_block/"):
        return f"stem.conv.{leaf}"
    if name.startswith("norm_pre_head/"):
        return f"norm.{leaf}"
    if name.startswith("head/"):
        return f"head.fc.{leaf}"
    found = re.fullmatch(r"block(\d+)/unit(\d+)/(conv|gn)(\w+)/\w+", name)
    if found is None:
        raise ValueError(f"{name} is no parameter of a ResNet")
    stage, unit = (int(number) - 1 for number in found.groups()[:2])
    kind, which = found.groups()[2:]
    part = "downsample.conv" if which == "_proj" else f"{dict(conv='conv', gn='norm')[kind]}{which}"
    return f"stages.{stage}.blocks.{unit}.{part}.{leaf}"


def _transform(name: str) -> Transform:
    if not name.endswith("/kernel"):
        return SAME
    return HEAD if name.startswith("head/") else CONV


def save_timm(path: str | os.PathLike[str], model: ResNet) -> None:
    """Writes a model that `timm.create_model("resnetv2_50x1_bit", checkpoint_path=path)` reads.

    Raises:
        UserError: timm has no such network.
    """
    config = model.config
    if (config.unit, config.stem, config.num_groups) != ("bottleneck", "imagenet", 32):
        raise UserError(
            "timm has BiT ResNets only (bottleneck units, 32 groups, the imagenet stem): write "
            "this network as an npz file."
        )
    leaves = named_leaves(model)
    tensors = {entry.name: announce(entry, leaves) for entry in entries(leaves)}
    write_safetensors(path, tensors, {"format": "pt"})


def load_timm(source: str | os.PathLike[str], model: ResNet, load_head: bool = True) -> ResNet:
    """The model with the file's weights, in the model's own dtypes.

    Args:
        source: a file of timm's, a folder that has one, or an `hf://` name.
        model: of arrays, or of shapes (from `jax.eval_shape`) if the head is loaded.
        load_head: False keeps the model's own head, whatever head the file has.

    Raises:
        UserError: the file is damaged, does not fit the model, or holds what is not finite.
    """
    file = open_weights(source)
    leaves = named_leaves(model)
    if not load_head:
        file = Weights(file.path, {name: file.home(name) for name in file if name not in HEADS})
        leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("head/")}
    table = entries(leaves)
    if found := faults(file, table, leaves):
        keep = ", or keep the model's own head (load_head=False)" if "head.fc" in found else ""
        raise UserError(
            f"{file.path} does not fit the model: {found}: choose the configuration that it was "
            f"made with{keep}."
        )
    parts = pieces(table, leaves)
    found = {n: jnp.asarray(read(file, parts[n], x.shape, x.dtype)) for n, x in leaves.items()}
    return with_leaves(model, named_leaves(model) | found)
