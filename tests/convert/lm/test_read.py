"""What `config.json` says beside the published models, and what it leaves to its loader."""

import dataclasses

import pytest

from moshijax.convert.lm.config import to_moshi
from moshijax.convert.lm.read import from_moshi
from moshijax.lm.presets import PRESETS
from tests.convert.lm.released import RELEASED, SCHEDULE, refused, written


@pytest.mark.parametrize("name", RELEASED)
def test_presets_are_what_the_releases_say(name):
    want = PRESETS[name]
    if name == "tts_1_6b":  # Values are added in the fuser's order, whatever the conditioners'.
        wavs, cfg, control = want.conditions
        want = dataclasses.replace(want, conditions=(wavs, control, cfg))
    assert from_moshi(RELEASED[name]) == want


def test_the_depth_transformers_width_is_derived_where_it_is_null_or_absent():
    fields = to_moshi(PRESETS["moshi_7b_tiny"]) | {"hidden_scale": 4.125}
    name = "depformer_dim_feedforward"
    want = from_moshi(fields | {name: 99})
    assert want.depth.mlp_dim == 66
    assert from_moshi(fields | {name: None}) == want
    assert from_moshi(fields | {name: [99] * 8}) == want
    del fields[name]
    assert from_moshi(fields) == want
    # Four times the width is 21/8 of it, as Moshi's code has it.
    assert from_moshi(fields | {"hidden_scale": 4}).depth.mlp_dim == 63


def test_what_the_depth_transformer_does_not_say_is_the_temporal_ones():
    fields = to_moshi(PRESETS["moshi_7b_tiny"]) | {"num_layers": 5}
    for name in ("num_layers", "gating", "layer_scale", "context", "max_period"):
        del fields[f"depformer_{name}"]
    assert from_moshi(fields).depth.num_layers == 5


def test_absent_fields_have_the_loaders_defaults_and_not_those_of_moshi_7b():
    fields = to_moshi(PRESETS["moshi_7b_tiny"]) | {"delays": [0] * 9}
    for name in ("n_q", "dep_q", "card", "num_heads", "max_period", "existing_text_padding_id"):
        del fields[name]
    config = from_moshi(fields | {"dim": 128})
    assert (config.num_codebooks, config.num_generated, config.codebook_size) == (8, 8, 1024)
    assert (config.num_heads, config.max_period, config.text_padding) == (8, 10000.0, 3)
    del fields["dim"], fields["text_card"], fields["hidden_scale"], fields["depformer_dim"]
    config = from_moshi(fields | {"depformer_num_heads": 4})
    assert (config.dim, config.text_vocab, config.mlp_dim) == (128, 32000, 336)
    assert config.depth.dim == 256


def test_models_without_depth_need_no_field_of_it():
    fields = to_moshi(PRESETS["stt_1b_tiny"])
    fields = {name: value for name, value in fields.items() if not name.startswith("depformer")}
    assert from_moshi(fields | {SCHEDULE: None}) == PRESETS["stt_1b_tiny"]


def test_what_is_attended_to_has_the_order_of_the_fuser():
    fields = to_moshi(PRESETS["tts_1_6b_tiny"])
    fields["conditioners"]["face"] = {"type": "tensor", "tensor": {"dim": 3}}
    fields["fuser"]["cross"] = ["face", "speaker_wavs"]
    conditions = from_moshi(fields).conditions
    assert [c.name for c in conditions if c.fuse == "cross"] == ["face", "speaker_wavs"]


def changed(fields, name, value):
    """The fields with one changed, which may lie inside others."""
    first, _, rest = name.partition("/")
    inner = changed(fields.get(first, {}), rest, value) if rest else value
    return fields | {first: inner}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("dim", None, "dim is null; it must be a whole number from 1 to"),
        ("dim", "32", 'dim is "32"; it must be a whole number'),
        ("dim", 32.0, "dim is 32.0; it must be a whole number"),
        ("dim", True, "dim is true; it must be a whole number"),
        ("dim", -32, "dim is -32; it must"),
        ("dim", 10**30, "dim is 1000000000000000000000000000000; it must"),
        ("dim", 33, "dim: 33 is no multiple of twice the 4 heads"),
        ("num_layers", 0, "num_layers is 0; it must be a whole number from 1"),
        ("num_heads", [4], "num_heads is [4]; it must"),
        ("hidden_scale", None, "hidden_scale is null; it must be a number"),
        ("hidden_scale", float("nan"), "hidden_scale is NaN; it must be a number"),
        ("hidden_scale", float("inf"), "hidden_scale is Infinity; it must be a number"),
        ("hidden_scale", 0.01, "hidden_scale is 0.01, which makes an MLP of size 0"),
        ("context", None, "context is null, which Moshi's loader takes as no limit"),
        ("context", 0, "context is 0; it must"),
        ("delays", None, "delays is null; it must be a list"),
        ("delays", [0, -1], "delays[1] is -1; it must be a whole number from 0"),
        ("delays", [0], "delays: 1 given for 33 streams"),
        ("dep_q", 40, "dep_q is 40; it must be a whole number from 0 to 32"),
        ("norm", "layer_norm", 'norm is "layer_norm"; only "rms_norm_f32" is known here'),
        ("gating", None, 'gating is null; only "silu"'),
        ("bias_proj", True, "bias_proj is true; only false"),
        ("text_card_out", 5, "text_card_out is not text_card, 48"),
        ("existing_text_padding_id", 48, "existing_text_padding_id is 48; it must"),
        ("hiden_scale", 4, '"hiden_scale" is unknown, to Moshi\'s loader too: write hidden_scale'),
        (SCHEDULE, [0] * 31, "has 31 entries for 32 codebooks"),
        (SCHEDULE, [10**9] * 32, f"{SCHEDULE}[0] is 1000000000; it must"),
        ("depformer_dim", 25, "depformer_dim is 25, no multiple of the 3 of depformer_num_heads"),
        ("depformer_dim_feedforward", [60, 61], "is [60, 61]; only 11 times the same is known"),
        ("depformer_low_rank_embeddings", 0, "embeddings is 0; it must"),
        ("depformer_norm", "layer_norm", "depformer_norm is"),
        ("cross_attention", False, "cross_attention is false; only true"),
        ("fuser/cross_attention_pos_emb_scale", 0.5, "fuser.cross_attention_pos_emb_scale is 0.5"),
        ("fuser/prepend", ["cfg"], "fuser.prepend has conditions; only sum and cross"),
        ("fuser/sum", ["cfg"], "conditioners.control is not fused"),
        ("fuser/cross", ["speaker_wavs", "cfg"], 'fuser.cross has "cfg", which is in sum too'),
        ("fuser/cross", ["speaker_wavs", "x"], 'fuser.cross has "x", which is none of'),
        ("conditioners/cfg/type", "t5", 'conditioners.cfg.type is "t5"; only lut and tensor'),
        ("conditioners/cfg/lut/n_bins", 3, "possible_values has 7 for n_bins 3"),
        ("conditioners/cfg/lut/dim", None, "conditioners.cfg.lut.dim is null; it must"),
        ("tts_config/audio_delay", "1", 'tts_config.audio_delay is "1"; it must be a number'),
        ("model_type", 3, "model_type is 3; it must be a text"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file_and_field(name, value, says, tmp_path):
    fields = to_moshi(PRESETS["tts_1_6b_tiny"])
    assert says in refused(written(tmp_path, changed(fields, name, value)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("num_layers", "num_layers is absent, and nothing tells"),
        ("norm", 'norm is absent, which Moshi\'s loader takes as "layer_norm"; only'),
        ("depformer_pos_emb", 'is absent, which Moshi\'s loader takes as "sin"; only "none"'),
        ("depformer_num_heads", "depformer_num_heads is absent, and nothing tells"),
        ("context", "context is absent, which Moshi's loader takes as no limit"),
        ("delays", "delays: 1 given for 17 streams"),
    ],
)
def test_an_absent_field_whose_default_is_no_such_model_is_named(name, says, tmp_path):
    fields = to_moshi(PRESETS["moshi_7b_tiny"])
    del fields[name]
    assert says in refused(written(tmp_path, fields))
