"""Which model a `config.json` is of: each kind is recognised, and all else is refused."""

from moshijax.convert.fields import Fields, as_json
from moshijax.system.errors import UserError


MOSHI = "a language model of Moshi's family"
HELIUM = "Helium in transformers' layout"
MIMI = "Mimi, the codec"
# Fields that only one kind has.
MOSHI_FIELDS = {"dim", "num_layers", "n_q", "dep_q", "card", "text_card", "hidden_scale", "delays"}
MIMI_FIELDS = {"seanet", "quantizer"}
TRANSFORMERS = {"helium": HELIUM, "mimi": MIMI}
KNOWN = (
    "known are Moshi's own layout (with fields such as dim, num_layers, n_q) and those of "
    "transformers whose model_type is helium (as --lm) or mimi (as --mimi)"
)


def recognise(fields: Fields) -> str:
    """Returns the kind of model that a config.json is of.

    Raises:
        UserError: of none that is known.
    """
    if MOSHI_FIELDS & fields.table.keys():
        return MOSHI
    if fields.table.keys() >= MIMI_FIELDS:
        return MIMI
    name = fields.get("model_type", None)
    if isinstance(name, str) and name in TRANSFORMERS:
        return TRANSFORMERS[name]
    how = "has no model_type" if name is None else f"has model_type {as_json(name)}"
    raise UserError(f"{fields.where} {how}, which is no model that is read here; {KNOWN}.")
