"""Weights in several files with an index, as transformers splits large models."""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping

from moshijax.convert.safetensors import Lazy, write_safetensors
from moshijax.system.files import replacing


GB = 10**9


def write_parts(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Lazy],
    metadata: Mapping[str, str],
    part_bytes: float = math.inf,
) -> None:
    """Writes one file, or where it would be larger, parts beside it and `PATH.index.json`.

    The parts of `x.safetensors` are `x-00001-of-00003.safetensors` and so on; the index, which
    says where each tensor is, is written last, so that it never names a part that is missing.
    """
    path = pathlib.Path(path)
    groups = list(_cut(tensors, part_bytes))
    if len(groups) == 1:
        write_safetensors(path, tensors, metadata)
        return
    where: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = f"{path.stem}-{number:05d}-of-{len(groups):05d}{path.suffix}"
        part = {name: tensors[name] for name in names}
        write_safetensors(path.with_name(file), part, metadata)
        where |= dict.fromkeys(names, file)
    total = sum(map(_size, tensors.values()))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    with replacing(path.with_name(f"{path.name}.index.json"), "w") as file:
        file.write(json.dumps(index, indent=2) + "\n")


def _cut(tensors: Mapping[str, Lazy], part_bytes: float) -> Iterator[list[str]]:
    """Names in order, in groups of at most `part_bytes`; a larger tensor is a group by itself."""
    names = sorted(tensors)
    ends = itertools.accumulate(_size(tensors[name]) for name in names)
    start, group = 0, []
    for name, end in zip(names, ends, strict=True):
        if group and end - start > part_bytes:
            yield group
            start, group = end - _size(tensors[name]), []
        group.append(name)
    yield group


def _size(tensor: Lazy) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize
