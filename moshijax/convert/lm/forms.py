"""Names of a language model's tensors where linear maps are adapted or quantised.

* Adapted, as moshi-finetune has it: `X.frozen_W.weight`, `X.lora_A.weight` [rank, in] and
  `X.lora_B.weight` [out, rank]. What one matrix of the file holds (q, k and v; gate and up) has one
  A, of which ours have a copy each.
* Quantised, as bitsandbytes has it: `X.weight` in int8 and `X.weight_scb`, the largest of each row.
"""

import re
from collections.abc import Container, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from moshijax.convert.lm.names import stacked
from moshijax.convert.tables import find
from moshijax.convert.transforms import LINEAR, Entry, Transform
from moshijax.convert.weights import Weights
from moshijax.lm.moshi import Moshi
from moshijax.nn.linear import Kernel, map_kernels
from moshijax.nn.lora import adapt
from moshijax.nn.paths import named_leaves
from moshijax.nn.quant import PerChannel


ENDING = re.compile(r"([._]weight(_scb)?|\.frozen_W\.weight(_scb)?|\.lora_[AB]\.weight)$")
TOGETHER = {"q": 3, "gate": 2}  # kernels from this one on (q k v, gate up) that share a matrix


def linear_name(name: str) -> str:
    """Returns what a linear map's tensors have in common in their names."""
    return ENDING.sub("", name)


def expand(table: Iterable[Entry], leaves: Container[str]) -> list[Entry]:
    """Returns a table with the tensors of adapters and of few bits where the model has such."""
    return [part for entry in table for part in _expand(entry, leaves)]


def _expand(entry: Entry, leaves: Container[str]) -> Iterator[Entry]:
    name, paths = entry.name, entry.paths
    if _has(f"{paths[0]}/a", leaves):
        frozen = Entry(
            f"{linear_name(name)}.frozen_W.weight", below(paths, "frozen"), entry.transform
        )
        yield from _expand(frozen, leaves)
        yield from adapter_entries(entry)
    elif _has(f"{paths[0]}/offset", leaves):
        raise ValueError(
            f"{paths[0]} is quantised by blocks, for which files have no form: save the model as "
            "it was before, or with one scale a channel."
        )
    elif _has(f"{paths[0]}/values", leaves):
        yield Entry(name, below(paths, "values"), entry.transform)
        yield Entry(f"{name}_scb", below(paths, "scale"), _rows(len(paths)))
    else:
        yield entry


def adapter_entries(entry: Entry) -> Iterator[Entry]:
    """Returns the entries of the adapter of a linear map."""
    name, paths = linear_name(entry.name), entry.paths
    together = _together(entry)
    yield Entry(f"{name}.lora_A.weight", below(paths, "a"), _copies(len(paths), together))
    yield Entry(f"{name}.lora_B.weight", below(paths, "b"), stacked(len(paths), LINEAR))


def is_linear(entry: Entry) -> bool:
    """Whether an entry is of a linear map."""
    return entry.paths[0].endswith("/kernel")


def rank_of(file: Weights, entry: Entry) -> int | None:
    """Returns the rank of a linear map's adapter in a file, if there is one."""
    name = f"{linear_name(entry.name)}.lora_A.weight"
    if name not in file or not file.entries[name].shape:
        return None
    return file.entries[name].shape[0] * _together(entry) // len(entry.paths)


def arrange(file: Weights, table: Iterable[Entry], model: Moshi, scaling: float) -> Moshi:
    """Returns a model of shapes whose kernels are adapted or quantised where a file has them so."""
    leaves = named_leaves(model)
    ranks: dict[str, int] = {}
    quantised, floating = set(), set()
    for entry in filter(is_linear, table):
        names = {find(path, leaves).name for path in entry.paths}
        rank = rank_of(file, entry)
        if rank:
            ranks |= dict.fromkeys(names, rank)
        if f"{entry.name}_scb" in file:
            quantised |= names
        elif entry.name not in file or file.entries[entry.name].dtype != np.int8:
            floating |= names

    def change(name: str, kernel: Kernel) -> Kernel:
        if name in ranks:
            return adapt(name, kernel, ranks[name], scaling, jax.random.key(0))
        if name in quantised or name not in floating:
            *stack, inputs, outputs = kernel.shape
            values = jnp.zeros((*stack, inputs, outputs), jnp.int8)
            return PerChannel(values, jnp.zeros((*stack, outputs), jnp.float32))
        return kernel

    return jax.eval_shape(lambda model: map_kernels(model, change), model)


def _has(path: str, leaves: Container[str]) -> bool:
    try:
        find(path, leaves)
    except KeyError:
        return False
    return True


def below(paths: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Returns the paths of an array of each kernel."""
    return tuple(f"{path}/{name}" for path in paths)


def _together(entry: Entry) -> int:
    parts = [word for word in entry.paths[0].split("/") if not word.isdigit()]
    return TOGETHER.get(parts[-2], 1) if len(entry.paths) > 1 else 1


def _rows(number: int) -> Transform:
    """Scales of several matrices, concatenated along the rows."""
    return Transform(lambda a: tuple(np.split(a, number)), lambda *parts: np.concatenate(parts))


def _copies(number: int, together: int) -> Transform:
    """One A [rank, in] for every `together` kernels, a copy for each; joined along the rank."""
    return Transform(
        lambda a: tuple(
            part.T for part in np.split(a, number // together) for _ in range(together)
        ),
        lambda *parts: np.concatenate([part.T for part in parts[::together]]),
    )
