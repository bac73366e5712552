"""What the `config.json` in a folder tells of the Mimi there: that it is one, and which."""

import os
import pathlib

from moshijax.codec.config import MimiConfig
from moshijax.convert.fields import Fields, as_json, read_fields
from moshijax.convert.kinds import MIMI, MOSHI, recognise
from moshijax.convert.mimi.config import transformers_config
from moshijax.convert.weights import LANGUAGE_MODEL
from moshijax.system.errors import UserError


# Names, the start of training, and what the weights tell: these may differ.
FREE = {"architectures", "model_type", "num_quantizers", "layer_scale_initial_scale"}


def check_folder(source: str | os.PathLike[str], weights: pathlib.Path, config: MimiConfig) -> None:
    """Raises UserError if a folder is of another model, or of another Mimi.

    Shapes do not tell how far attention sees, or at what rate sound is sampled. A file that is
    named itself is judged by its tensors alone.
    """
    path = pathlib.Path(source) / "config.json"
    if not os.path.lexists(path):
        return
    fields = read_fields(path)
    kind = recognise(fields)
    # The folder of a release of Moshi holds the codec's file too.
    if kind == MOSHI and weights.name not in LANGUAGE_MODEL.names:
        return
    if kind != MIMI:
        raise UserError(
            f"{path} is of {kind}, where a codec is wanted: give it as --lm, and as --mimi a Mimi."
        )
    if "seanet" not in fields:
        _compare(fields, config)


def _compare(fields: Fields, config: MimiConfig) -> None:
    wanted = transformers_config(config)
    theta = wanted["rope_theta"]
    rotary = fields.object("rope_parameters")
    for table, names in ((fields, wanted), (rotary, {"rope_theta": theta, "rope_type": "default"})):
        for name, value in names.items():
            found = table.get(name, None)
            if name not in FREE and found not in (None, value):
                table.fail(
                    name,
                    f"is {as_json(found)}, but the configuration asked for has {as_json(value)}: "
                    "choose the preset that it was made with",
                )
