"""From the `config.json` beside a language model to our configuration.

It is read as the loader it was written for does: what is absent or null there has that loader's
default or is derived from other fields. Moshi's is `moshi.models.loaders` with the arguments of
`LMModel`, of which 7B's sizes are not the defaults; a field that it does not know is an error there
and here.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from moshijax.convert.fields import Fields, as_json
from moshijax.convert.lm.conditions import read_conditions
from moshijax.convert.lm.config import gated_width
from moshijax.lm.config import DepthConfig, MoshiConfig
from moshijax.lm.moshi import PAUSES
from moshijax.system.errors import UserError


# Upper bounds of what a file may ask for.
WIDTH = 1 << 20  # widths, heads
MLP_WIDTH = 1 << 24
NUMBER = 1 << 12  # layers, codebooks, frames of delay
ROWS = 1 << 28  # rows of a table, frames of context
SECONDS = 600.0  # lag of the text

# Read by the loader alone, or not at all where positions are rotary and MLPs gated.
NOT_OF_THE_MODEL = {
    *("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type"),
    *("lm_gen_config", "tts_config", "stt_config", "model_id", "lora", "lora_rank", "lora_scaling"),
    *("quantize", "gradient_checkpointing", "positional_scale", "betas"),
    *("depformer_causal", "depformer_context", "depformer_max_period"),
    *("depformer_positional_embedding", "depformer_positional_scale", "depformer_betas"),
    *("depformer_cross_attention",),
}
OF_THE_MODEL = {
    *("delays", "n_q", "dep_q", "card", "text_card", "text_card_out", "dim", "num_heads"),
    *("num_layers", "hidden_scale", "norm", "norm_emb", "bias_proj", "context", "causal"),
    *("max_period", "gating", "layer_scale", "positional_embedding", "kv_repeat"),
    *("cross_attention", "conditioners", "fuser", "skip_self_attn", "weights_per_step"),
    *("demux_second_stream", "demux_second_text_stream", "existing_text_padding_id"),
    *("existing_text_end_padding_id", "extra_heads_num_heads", "extra_heads_dim"),
    *("depformer_dim", "depformer_num_heads", "depformer_num_layers", "depformer_gating"),
    *("depformer_dim_feedforward", "depformer_multi_linear", "depformer_weights_per_step"),
    *("depformer_weights_per_step_schedule", "depformer_low_rank_embeddings", "depformer_norm"),
    *("depformer_pos_emb", "depformer_layer_scale", "depformer_kv_repeat"),
}


def from_moshi(table: Mapping[str, object], where: str = "config.json") -> MoshiConfig:
    """Reads the fields of a `config.json` as Moshi's own loader does.

    Raises:
        UserError: a field has a value that these models do not have.
    """
    fields = Fields(table, where)
    _refuse_unknown(fields)
    _check_structure(fields)
    dim = fields.integer("dim", 1, WIDTH, 128)
    vocab = fields.integer("text_card", 1, ROWS, 32000)
    if fields.get("text_card_out", None) not in (None, vocab):
        fields.fail("text_card_out", f"is not text_card, {vocab}; only the same is known here")
    heard = fields.integer("n_q", 0, NUMBER, 8)
    generated = fields.integer("dep_q", 0, heard, 8)
    conditions, positioned = read_conditions(fields)
    stt, tts = fields.object("stt_config"), fields.object("tts_config")
    delay = tts.number("audio_delay", 0, SECONDS, 0.0)
    return build(
        fields,
        dim=dim,
        num_heads=fields.integer("num_heads", 1, WIDTH, 8),
        num_layers=fields.integer("num_layers", 1, NUMBER),
        mlp_dim=gated_width(dim, _hidden_size(fields, dim)),
        context=_context(fields),
        max_period=fields.number("max_period", 1, 1e12, 10000.0),
        text_vocab=vocab,
        num_codebooks=heard,
        codebook_size=fields.integer("card", 1, ROWS, 1024),
        delays=tuple(fields.integers("delays", 0, NUMBER, [0])),
        depth=_read_depth(fields, generated) if generated else None,
        conditions=conditions,
        positioned_sources=positioned,
        two_texts=_two_texts(fields),
        num_pause_heads=_pause_heads(fields),
        ignore_text_end=fields.get("model_type", None) == "hibiki",
        frame_shift=stt.number("audio_delay_seconds", 0, SECONDS, delay),
        silence_prefix=stt.number("audio_silence_prefix_seconds", 0, SECONDS, 0.0),
        text_padding=fields.integer("existing_text_padding_id", 0, vocab - 1, 3),
        text_padding_end=fields.integer("existing_text_end_padding_id", 0, vocab - 1, 0),
    )


def build(fields: Fields, **sizes: Any) -> MoshiConfig:
    """Makes the configuration; raises UserError for sizes that do not go together."""
    try:
        return MoshiConfig(**sizes)
    except ValueError as error:
        raise UserError(f"{fields.where}: {error}") from error


def _refuse_unknown(fields: Fields) -> None:
    known = OF_THE_MODEL | NOT_OF_THE_MODEL
    for name in fields.table:
        if name not in known:
            near = difflib.get_close_matches(name[:60], known, 1)
            remedy = f"write {near[0]}, or take it out" if near else "take it out"
            fields.fail(as_json(name), f"is unknown, to Moshi's loader too: {remedy}")


def _check_structure(fields: Fields) -> None:
    """Refuses other structures: of norms, gates, positions, attention."""
    for name, known, default in (
        ("causal", True, True),
        ("layer_scale", None, None),
        ("gating", "silu", "none"),
        ("norm", "rms_norm_f32", "layer_norm"),
        ("positional_embedding", "rope", "sin"),
        ("norm_emb", False, False),
        ("bias_proj", False, False),
        ("kv_repeat", 1, 1),
        ("skip_self_attn", False, False),
        ("weights_per_step", 0, 0),
    ):
        fields.only(name, known, default, "Moshi's loader")
    if fields.get("model_type", None) is not None:
        fields.text("model_type")


def _hidden_size(fields: Fields, dim: int) -> int:
    """The size of the MLP before its gate's two thirds are taken."""
    scale = fields.number("hidden_scale", 0, WIDTH, 4)
    return _size(fields, "hidden_scale", int(scale * dim))


def _size(fields: Fields, name: str, size: int) -> int:
    if not 2 <= size <= MLP_WIDTH:
        fields.fail(
            name,
            f"is {as_json(fields.get(name, None))}, which makes an MLP of size {size}; it must be "
            f"from 2 to {MLP_WIDTH}",
        )
    return size


def _context(fields: Fields) -> int:
    if fields.get("context", None) is None:
        how = "null" if "context" in fields else "absent"
        fields.fail(
            "context",
            f"is {how}, which Moshi's loader takes as no limit; a stream needs one, in Moshi's "
            "code too: write how many frames attention may see",
        )
    return fields.integer("context", 1, ROWS)


def _two_texts(fields: Fields) -> bool:
    """Whether there are two text streams; of the field's two names the older one wins."""
    names = ("demux_second_stream", "demux_second_text_stream")
    return fields.flag(next((n for n in names if n in fields), names[0]), False)


def _pause_heads(fields: Fields) -> int:
    number = fields.integer("extra_heads_num_heads", 0, NUMBER, 0)
    if number:
        fields.only("extra_heads_dim", PAUSES, PAUSES, "Moshi's loader")
    return number


def _read_depth(fields: Fields, number: int) -> DepthConfig:
    """The depth transformer; fields that it lacks are the temporal one's, or by `hidden_scale`."""
    for name, known, default in (
        ("depformer_layer_scale", None, fields.get("layer_scale", None)),
        ("depformer_gating", "silu", fields.get("gating", "none")),
        ("depformer_kv_repeat", 1, fields.get("kv_repeat", 1)),
        ("depformer_multi_linear", True, False),
        ("depformer_weights_per_step", True, False),
        ("depformer_pos_emb", "none", "sin"),
        ("depformer_norm", None, None),
    ):
        fields.only(name, known, default, "Moshi's loader")
    dim = fields.integer("depformer_dim", 1, WIDTH, 256)
    layers, schedule = fields.get("num_layers"), _schedule(fields, number)
    low = fields.get("depformer_low_rank_embeddings", None)
    heads = fields.integer("depformer_num_heads", 1, WIDTH)
    if dim % heads:
        fields.fail("depformer_dim", f"is {dim}, no multiple of the {heads} of depformer_num_heads")
    return DepthConfig(
        dim=dim,
        num_heads=heads,
        num_layers=fields.integer("depformer_num_layers", 1, NUMBER, layers),
        mlp_dim=gated_width(dim, _depth_size(fields, dim, max(schedule or [number - 1]) + 1)),
        num_codebooks=number,
        schedule=schedule,
        low_rank=low if low is None else fields.integer("depformer_low_rank_embeddings", 1, WIDTH),
    )


def _schedule(fields: Fields, number: int) -> tuple[int, ...] | None:
    name = "depformer_weights_per_step_schedule"
    if fields.get(name, None) is None:
        return None
    schedule = tuple(fields.integers(name, 0, number - 1))
    if len(schedule) != number:
        fields.fail(name, f"has {len(schedule)} entries for {number} codebooks; give one each")
    return schedule


def _depth_size(fields: Fields, dim: int, sets: int) -> int:
    """The size of the depth transformer's MLP before its gate's two thirds are taken."""
    name = "depformer_dim_feedforward"
    size = fields.get(name, None)
    if size is None:
        scale = fields.number("hidden_scale", 0, WIDTH, 4)
        return _size(fields, "hidden_scale", int(scale * dim))
    if isinstance(size, list):
        sizes = fields.integers(name, 2, MLP_WIDTH)
        if len(sizes) != sets or len(set(sizes)) != 1:
            fields.fail(name, f"is {as_json(sizes)}; only {sets} times the same is known here")
        return sizes[0]
    return fields.integer(name, 2, MLP_WIDTH)
