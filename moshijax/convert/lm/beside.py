"""What the `config.json` beside a language model tells: its structure, the scale of adapters."""

import math
import os
import pathlib

from moshijax.convert.fields import as_json, read_fields
from moshijax.convert.kinds import HELIUM, MOSHI, recognise
from moshijax.convert.lm.helium import from_helium
from moshijax.convert.lm.read import ROWS, WIDTH, from_moshi
from moshijax.convert.weights import Weights, find_beside
from moshijax.lm.config import MoshiConfig
from moshijax.lm.moshi import Moshi
from moshijax.lm.sampling import Sampling
from moshijax.nn.lora import scaling_of
from moshijax.system.errors import UserError


SCALING = "lora_scaling"  # in config.json, and in the metadata of files of ours
DEFAULT_SCALING = 2.0  # of Moshi's loader
TEXT, AUDIO = Sampling(0.7, 25), Sampling(0.8, 250)  # of Moshi's `LMGen`
GENERATION = {
    *("use_sampling", "temp", "temp_text", "top_k", "top_k_text"),
    *("check", "support_out_of_sync"),  # Change nothing that is drawn.
}


def read_config(path: str | os.PathLike[str]) -> MoshiConfig:
    """Reads a config.json of Moshi's own layout or, for Helium, of transformers'.

    Raises:
        UserError: it is no JSON object, or of no language model that is known.
    """
    fields = read_fields(pathlib.Path(path))
    kind = recognise(fields)
    if kind == MOSHI:
        return from_moshi(fields.table, fields.where)
    if kind == HELIUM:
        return from_helium(fields.table, fields.where)
    raise UserError(
        f"{path} is of {kind}, where a language model is wanted: give it as --mimi, and as --lm a "
        "model of Moshi's family or Helium."
    )


def read_sampling(path: str | os.PathLike[str]) -> tuple[Sampling, Sampling]:
    """How text and codes are drawn: as a config.json has it in `lm_gen_config`, else as by Moshi.

    Raises:
        UserError: a field is unknown, or out of bounds.
    """
    fields = read_fields(pathlib.Path(path))
    told = fields.object("lm_gen_config")
    for name in sorted(told.table.keys() - GENERATION):
        told.fail(name, f"is unknown here: take it out; known are {', '.join(sorted(GENERATION))}")
    drawn = told.flag("use_sampling", True)

    def read(temperature: str, top_k: str, usual: Sampling) -> Sampling:
        degree = told.number(temperature, 0, 1e6, usual.temperature)
        return Sampling(degree if drawn else 0.0, told.integer(top_k, 0, ROWS, usual.top_k))

    return read("temp_text", "top_k_text", TEXT), read("temp", "top_k", AUDIO)


def describe_adapters(model: Moshi) -> dict[str, str]:
    """Returns the metadata of a file of adapters: their scaling, which no tensor holds."""
    scaling = scaling_of(model)
    return {} if scaling is None else {SCALING: repr(scaling)}


def find_scaling(source: str | os.PathLike[str], file: Weights, given: float | None) -> float:
    """Returns the scaling of a file's adapters: as given, else as written, else Moshi's default.

    Raises:
        UserError: what is written in the file and in the config.json beside it differ, or it is no
            scaling, or of adapters of another rank.
    """
    ranks = [e.shape for name, e in file.entries.items() if name.endswith(".lora_A.weight")]
    if given is not None or not ranks:
        return DEFAULT_SCALING if given is None else given
    told = _own_scaling(file)
    beside = find_beside(source, "config.json")
    if beside is None:
        return DEFAULT_SCALING if told is None else told
    fields, rank = read_fields(beside), min(shape[0] if shape else 0 for shape in ranks)
    if fields.integer("lora_rank", 1, WIDTH, rank) != rank:
        fields.fail(
            "lora_rank",
            f"is {fields.get('lora_rank')}, but the adapters of {file.path} are of rank {rank}: "
            "they do not belong together",
        )
    if SCALING not in fields:
        return DEFAULT_SCALING if told is None else told
    scaling = fields.number(SCALING, -1e6, 1e6)
    if told not in (None, scaling):
        fields.fail(
            SCALING,
            f"is {as_json(fields.get(SCALING))}, but {file.path} was written with {told:g}: change "
            "one, or give the scaling yourself",
        )
    return scaling


def _own_scaling(file: Weights) -> float | None:
    """The scaling in the metadata of a file."""
    if SCALING not in file.metadata:
        return None
    text = file.metadata[SCALING]
    try:
        scaling = float(text)
    except ValueError:
        scaling = math.nan
    if not math.isfinite(scaling):
        raise UserError(
            f"{file.path} has the {SCALING} {as_json(text)} in its metadata, which is no number: "
            "give the scaling yourself."
        )
    return scaling
