"""Reads and writes the weight files of BiT ResNets (npz), in either of their layouts.

`bit` is the layout of the released BiT and FunMatch files (`resnet/block1/unit01/a/...`),
`big_vision` that of the code which trained them (`block1/unit01/conv1/kernel`), also found
inside its job checkpoints under `params/` or, in old ones, `opt/target/`.
"""

import os
import re
from collections.abc import Iterable

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from distill import npz
from distill.npz import Header
from distill.vision.resnet import ResNet
from moshijax.nn.paths import named_leaves, with_leaves
from moshijax.system.errors import UserError


LAYOUTS = ("bit", "big_vision")
WRAPPERS = ("params/", "opt/target/")  # of big_vision's job checkpoints, new and old
LISTED = 8  # problems named in one message

Shape = tuple[int, ...]
Path = str | os.PathLike[str]


def _bit_name(name: str) -> str:
    """The name in the `bit` layout of one of our parameters."""
    *blocks, module, leaf = name.split("/")
    if module == "head":
        return f"resnet/head/conv2d/{leaf}"
    leaf = {"scale": "gamma", "bias": "beta"}.get(leaf, leaf)
    if module == "norm_pre_head":
        return f"resnet/group_norm/{leaf}"
    if module == "conv_proj":
        part = "a/proj/standardized_conv2d"
    elif module == "conv_root":
        part = "standardized_conv2d"
    else:
        kind, number = module[:-1], int(module[-1])
        part = f"{'abc'[number - 1]}/{dict(conv='standardized_conv2d', gn='group_norm')[kind]}"
    return "/".join(["resnet", *blocks, part, leaf])


def _file_name(name: str, layout: str) -> str:
    return _bit_name(name) if layout == "bit" else name.replace("norm_pre_head", "norm-pre-head")


def _file_shape(name: str, shape: Shape, layout: str) -> Shape:
    if layout == "bit":
        return (1, 1, *shape) if name == "head/kernel" else shape
    return (1, 1, 1, *shape) if re.search(r"(gn\d|norm_pre_head)/\w+$", name) else shape


def detect_layout(names: Iterable[str]) -> str:
    """The layout of a file with these array names."""
    return "bit" if any(name.startswith("resnet/") for name in names) else "big_vision"


def load_npz(path: Path, model: ResNet, load_head: bool = True) -> ResNet:
    """The model with the file's weights, in the model's own dtypes.

    Args:
        path: a file of either layout, or a job checkpoint of big_vision.
        model: of arrays, or of shapes (from `jax.eval_shape`) if the head is loaded.
        load_head: False keeps the model's own head, whatever head the file has.

    Raises:
        UserError: the file is damaged, an array is missing, surplus or of another shape, or it
            holds a number that is not finite.
    """
    headers = _headers(path)
    layout = detect_layout(headers)
    leaves = named_leaves(model)
    wanted = {
        name: (_file_name(name, layout), _file_shape(name, leaf.shape, layout))
        for name, leaf in leaves.items()
    }
    if not load_head:
        for name in ("head/kernel", "head/bias"):
            headers.pop(wanted.pop(name)[0], None)
    # Before an array is unpacked: what is unpacked is of the model's size, whatever the file says.
    _check(path, {n: header for n, (_, header) in headers.items()}, dict(wanted.values()))
    arrays = npz.read_arrays(path, [full for full, _ in headers.values()])
    for name, (file_name, _) in wanted.items():
        array = _numbers(path, file_name, arrays.pop(headers[file_name][0]))
        array = array.reshape(leaves[name].shape)
        leaves[name] = jnp.asarray(array.astype(leaves[name].dtype, copy=False))
    return with_leaves(model, leaves)


def save_npz(path: Path, model: ResNet, layout: str) -> None:
    """Writes the model's weights beside `path`, then renames: no half a file is ever seen."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; choose one of {LAYOUTS}")
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in sorted(named_leaves(model).items()):
        shape = _file_shape(name, leaf.shape, layout)
        arrays[_file_name(name, layout)] = np.asarray(leaf).reshape(shape)
    npz.save(path, arrays)


def _headers(path: Path) -> dict[str, tuple[str, Header]]:
    """Full names and headers of the model's arrays, by the plain names of their layout."""
    headers = npz.read_headers(path)
    return {_plain_name(name): (name, headers[name]) for name in _model_names(list(headers))}


def _numbers(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array as numbers, all of them finite."""
    # numpy has no name for bfloat16 and gives its two bytes back as they are.
    array = array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array
    finite = np.isfinite(array)
    if not finite.all():
        raise UserError(f"{path}: {name} holds {array[~finite][0]}: take a file of whole weights.")
    return array


def _model_names(names: list[str]) -> list[str]:
    """The names inside the first wrapper there is; all of them if there is none."""
    for wrapper in WRAPPERS:
        if wrapped := [name for name in names if name.startswith(wrapper)]:
            return wrapped
    return names


def _plain_name(name: str) -> str:
    """The name without wrapper, and without the number of a convolution or a name of its own."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    name = re.sub(r"/a/proj/.*", "/a/proj/standardized_conv2d/kernel", name)
    return re.sub(r"/standardized_conv2d_\d+/", "/standardized_conv2d/", name)


def _check(path: Path, found: dict[str, Header], wanted: dict[str, Shape]) -> None:
    """Refuses a file whose arrays are not exactly the model's."""
    both = sorted(found.keys() & wanted)
    differ = [n for n in both if found[n].shape != wanted[n]]
    problems = [f"{n} is missing" for n in sorted(wanted.keys() - found)]
    problems += [f"{n} is surplus" for n in sorted(found.keys() - wanted)]
    problems += [
        f"{n} is of type {found[n].dtype}"
        for n in both
        if found[n].dtype.kind not in "fiu" and found[n].dtype != "V2"
    ]
    heads = [n for n in differ if n.removeprefix("resnet/").startswith("head/")]
    if heads == differ and heads and not problems:
        raise UserError(
            f"{path} has a head of {found[heads[0]].shape[-1]} classes, the model one of "
            f"{wanted[heads[0]][-1]}: set num_classes, or keep the model's head (load_head=False)"
        )
    problems += [f"{n} has shape {found[n].shape}, the model's has {wanted[n]}" for n in differ]
    if problems:
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"{path} does not fit the model ({'; '.join(problems[:LISTED])}{more}): "
            f"choose the configuration it was made with"
        )
