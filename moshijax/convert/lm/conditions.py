"""The conditioners in a `config.json` of Moshi's layout, and how they are fused."""

import re

from moshijax.convert.fields import Fields, as_json
from moshijax.lm.config import ConditionConfig


WIDTH, ROWS = 1 << 20, 1 << 28
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)  # is part of names of tensors
LOADER = "Moshi's loader"
TYPES = {
    "lut": {"n_bins", "dim", "tokenizer", "possible_values", "init_scale"},
    "tensor": {"dim"},
}
COMMON = {"force_linear", "pad_empty", "output_bias", "learn_padding"}
FUSED = ("sum", "cross")
FUSER = {*FUSED, "prepend", "cross_attention_pos_emb", "cross_attention_pos_emb_scale"}


def read_conditions(fields: Fields) -> tuple[tuple[ConditionConfig, ...], bool]:
    """Returns the conditions, and whether the sources of cross-attention have positions.

    Raises:
        UserError: there are some that these models do not have, or they do not go together.
    """
    fuser, conditioners = fields.object("fuser"), fields.object("conditioners")
    _refuse_unknown(fuser, FUSER)
    if fuser.get("prepend", []) != []:
        fuser.fail("prepend", "has conditions; only sum and cross are known, to Moshi's loader too")
    fuser.only("cross_attention_pos_emb_scale", 1, 1, LOADER)
    order = {how: fuser.texts(how, []) for how in FUSED}
    fused = {name: how for how in FUSED for name in order[how]}
    for name in fused:
        if name not in conditioners:
            fuser.fail(fused[name], f"has {as_json(name)}, which is none of the conditioners")
        if all(name in order[how] for how in FUSED):
            fuser.fail("cross", f"has {as_json(name)}, which is in sum too; only one is known here")
    found = {name: _read(conditioners, name, fused) for name in conditioners.table}
    crossed = bool(order["cross"])
    fields.only("cross_attention", crossed, False, LOADER)
    # Of each kind they are summed or concatenated in the fuser's order, not the conditioners'.
    queues = {how: iter(names) for how, names in order.items()}
    conditions = tuple(found[next(queues[condition.fuse])] for condition in found.values())
    return conditions, fuser.flag("cross_attention_pos_emb", False)


def _read(conditioners: Fields, name: str, fused: dict[str, str]) -> ConditionConfig:
    """One condition."""
    if not NAME.fullmatch(name):
        conditioners.fail(as_json(name), "is no name of a condition: take letters, digits and _")
    if name not in fused:
        conditioners.fail(name, "is not fused: name it in fuser.sum or fuser.cross")
    spec = conditioners.object(name)
    kind = spec.text("type")
    if kind not in TYPES:
        spec.fail("type", f"is {as_json(kind)}; only {' and '.join(TYPES)} are known")
    own = spec.object(kind)
    _refuse_unknown(own, TYPES[kind] | COMMON)
    for flag, known in (("force_linear", True), ("output_bias", False), ("learn_padding", True)):
        own.only(flag, known, known, LOADER)
    dim = own.integer("dim", 1, WIDTH)
    if kind == "tensor":
        return ConditionConfig(name, fused[name], dim, None)
    own.only("tokenizer", "noop", None, LOADER)
    bins, values = own.integer("n_bins", 1, ROWS), None
    if own.get("possible_values", None) is not None:
        values = tuple(own.texts("possible_values"))
        if len(values) > bins:
            own.fail("possible_values", f"has {len(values)} for n_bins {bins}; give one bin each")
    return ConditionConfig(name, fused[name], dim, bins, values)


def _refuse_unknown(fields: Fields, known: set[str]) -> None:
    for name in fields.table:
        if name not in known:
            fields.fail(as_json(name), "is unknown, to Moshi's loader too: take it out")
