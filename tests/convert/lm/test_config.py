"""What `config.json` says beside the published models, and what it leaves to its loader."""

import dataclasses
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moshijax.convert.lm.beside import read_config
from moshijax.convert.lm.config import feedforward, to_moshi
from moshijax.convert.lm.helium import from_helium, transformers_config
from moshijax.convert.lm.read import from_moshi
from moshijax.lm.presets import PRESETS
from moshijax.system.errors import UserError


COMMON = {
    "card": 2048,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "existing_text_padding_id": 3,
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "mimi_name": "mimi-pytorch-e351c8d8@125.safetensors",
}


def released(dim, heads, layers, streams, text, **more):
    sizes = dict(dim=dim, num_heads=heads, num_layers=layers, text_card=text)
    return COMMON | sizes | dict(n_q=streams[0], dep_q=streams[1]) | more


DESCRIPTION = {
    "conditioners": {
        "description": {"type": "lut", "lut": {"n_bins": 31, "dim": 16, "tokenizer": "noop"}}
    },
    "fuser": {"cross_attention_pos_emb": False, "sum": ["description"], "cross": []},
    "model_type": "hibiki",
}
DSM_DEPTH = {
    "depformer_num_layers": 4,
    "depformer_dim_feedforward": 3072,
    "depformer_low_rank_embeddings": 128,
}
SCHEDULE = "depformer_weights_per_step_schedule"
CFG = [str(1 + i / 2) for i in range(7)]
STT = {"depformer_num_layers": 6, "context": 750, "delays": [0] * 33, "model_type": "stt"}

# The fields of the releases, as far as they are known.
RELEASED = {
    "moshi_7b": released(
        *(4096, 32, 32, (16, 8), 32000),
        context=3000,
        max_period=10000,
        delays=[0, 0, *[1] * 7, 0, *[1] * 7],
        depformer_num_layers=6,
        depformer_dim_feedforward=4224,
        depformer_context=8,
    ),
    "hibiki_1b": released(
        *(2048, 16, 16, (16, 8), 48000),
        context=3000,
        max_period=100000,
        delays=[0, 0, *[2] * 7, 0, *[2] * 7],
        depformer_num_layers=6,
        depformer_dim_feedforward=4224,
        depformer_causal=True,
        moshi_name="hibikim-pytorch-dc2cf5a5@80.safetensors",
        lm_gen_config={"temp": 0.8},
        **DESCRIPTION,
    ),
    "hibiki_2b": released(
        *(2560, 20, 24, (32, 16), 48000),
        context=500,
        max_period=100000,
        delays=[0, 0, *[2] * 15, 0, *[2] * 15],
        **DSM_DEPTH | {SCHEDULE: [*range(8), *[8] * 8]},
        **DESCRIPTION,
    ),
    "stt_1b": released(
        *(2048, 16, 16, (32, 0), 8000),
        max_period=100000,
        extra_heads_num_heads=4,
        extra_heads_dim=6,
        stt_config={"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.0},
        **STT,
    ),
    "stt_2_6b": released(
        *(2048, 32, 48, (32, 0), 4000),
        max_period=100000,
        stt_config={"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0},
        **STT | {"context": 375},
    ),
    "tts_1_6b": released(
        *(2048, 16, 16, (32, 32), 8000),
        context=500,
        max_period=10000,
        delays=[0, 0, *[2] * 31],
        **DSM_DEPTH | {SCHEDULE: [*range(8), *[8] * 8, *[9] * 8, *[10] * 8]},
        demux_second_stream=True,
        cross_attention=True,
        conditioners={
            "speaker_wavs": {"type": "tensor", "tensor": {"dim": 512}},
            "cfg": {
                "type": "lut",
                "lut": {"n_bins": 7, "dim": 16, "tokenizer": "noop", "possible_values": CFG},
            },
            "control": {
                "type": "lut",
                "lut": {"n_bins": 1, "dim": 2048, "tokenizer": "noop", "possible_values": ["ok"]},
            },
        },
        fuser={
            "cross_attention_pos_emb": True,
            "cross_attention_pos_emb_scale": 1,
            "sum": ["control", "cfg"],
            "prepend": [],
            "cross": ["speaker_wavs"],
        },
        tts_config={"audio_delay": 1.28, "second_stream_ahead": 2},
        model_id={"sig": "1e68beda", "epoch": 240},
        model_type="tts",
        tokenizer_name="tokenizer_spm_8k_en_fr_audio.model",
    ),
}
HELIUM = {
    "architectures": ["HeliumForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 7040,
    "max_position_embeddings": 4096,
    "model_type": "helium",
    "num_attention_heads": 20,
    "num_hidden_layers": 24,
    "num_key_value_heads": 20,
    "pad_token_id": 3,
    "rms_norm_eps": 1e-08,
    "rope_theta": 100000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 48000,
}


def written(tmp_path, fields):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    return path


def refused(path):
    """The sentence that a file is refused with."""
    with pytest.raises(UserError) as caught:
        read_config(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("name", RELEASED)
def test_presets_are_what_the_releases_say(name):
    want = PRESETS[name]
    if name == "tts_1_6b":  # Values are added in the fuser's order, whatever the conditioners'.
        wavs, cfg, control = want.conditions
        want = dataclasses.replace(want, conditions=(wavs, control, cfg))
    assert from_moshi(RELEASED[name]) == want


def test_the_preset_of_helium_is_what_its_release_says():
    assert from_helium(HELIUM) == PRESETS["helium_2b"]


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read_back(name):
    config = PRESETS[name]
    config = dataclasses.replace(config, text_padding_end=2, text_padding=4)
    assert from_moshi(to_moshi(config)) == config
    if not config.num_codebooks:
        config = dataclasses.replace(config, text_padding_end=0, codebook_size=2048)
        assert from_helium(transformers_config(config)) == config


@settings(max_examples=300)
@given(st.integers(1, 300), st.integers(1, 2000))
def test_every_width_is_read_back(heads, mlp):
    dim = 2 * heads
    try:
        feedforward(dim, mlp)
    except ValueError:
        # Moshi's code makes another width of the size that alone would give this one.
        assert 3 * mlp + 1 == 2 * 4 * dim
        return
    config = dataclasses.replace(PRESETS["helium_2b"], dim=dim, num_heads=heads, mlp_dim=mlp)
    assert from_moshi(to_moshi(config)) == config


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": "2560"}, 'hidden_size is "2560"; it must'),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4; only 20 is known here"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true; only false"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06; only 1e-08"),
        ({"head_dim": 64}, "head_dim times num_attention_heads, 20, is not hidden_size, 2560"),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'rope_parameters.rope_type is "yarn"; only'),
        ({"pad_token_id": -1}, "pad_token_id is -1; it must"),
    ],
)
def test_another_helium_is_refused_by_field(changes, says, tmp_path):
    assert says in refused(written(tmp_path, HELIUM | changes))


def test_helium_of_either_version_of_transformers_is_read():
    newer = {k: v for k, v in HELIUM.items() if k not in ("rope_theta", "torch_dtype")}
    newer |= {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}}
    want = dataclasses.replace(PRESETS["helium_2b"], max_period=5e4)
    assert from_helium(newer) == want
    assert from_helium({"model_type": "helium", "pad_token_id": None}) == PRESETS["helium_2b"]


def test_what_is_of_no_known_kind_is_refused_with_the_known_ones(tmp_path):
    for fields in ({}, {"a": 1}, {"model_type": "llama", "hidden_size": 8}, {"model_type": [1]}):
        message = refused(written(tmp_path, fields))
        assert "no model that is read here" in message
        for known in ("dim, num_layers, n_q", "helium (as --lm)", "mimi (as --mimi)"):
            assert known in message
    for fields in ({"model_type": "mimi"}, {"seanet": {}, "quantizer": {}, "transformer": {}}):
        message = refused(written(tmp_path, fields))
        assert "is of Mimi, the codec, where a language model is wanted" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_of_json_is_read(encoding, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(json.dumps(to_moshi(PRESETS["moshi_7b"])).encode(encoding))
    assert read_config(path) == PRESETS["moshi_7b"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"dim": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b'{"dim": 1, "n_q": 2, "dim": 3}', '"dim" is there twice'),
        (b" " * (1 << 20) + b"{}", "has more than 1048576 bytes"),
    ],
)
def test_what_is_no_json_object_is_refused(content, says, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert says in refused(path)


def test_a_folder_or_nothing_in_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    assert "is a folder" in refused(tmp_path / "config.json")
    os.mkfifo(tmp_path / "pipe.json")
    assert "is no plain file" in refused(tmp_path / "pipe.json")
    assert "cannot be read (No such file" in refused(tmp_path / "none.json")
