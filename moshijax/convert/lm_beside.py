"""What the `config.json` beside a language model tells: its structure, the scale of adapters."""

import os
import pathlib

from moshijax.convert.fields import read_fields
from moshijax.convert.kinds import HELIUM, MOSHI, recognise
from moshijax.convert.lm_helium import from_helium
from moshijax.convert.lm_read import from_moshi
from moshijax.errors import UserError
from moshijax.lm.config import MoshiConfig


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
