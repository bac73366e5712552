"""What the `config.json` of every release says, as far as it is known; files of such fields."""

import json

import pytest

from moshijax.convert.lm.beside import read_config
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
