"""From our configurations to the `config.json` beside a language model.

The field names are those of Moshi's own loader, which builds a model from such a file. `read.py` is
the inverse.
"""

import math

from moshijax.convert.fields import Json
from moshijax.lm.config import DepthConfig, MoshiConfig
from moshijax.system.errors import UserError


# Fields other than sizes that Moshi's loader needs, equal in all published models.
COMMON = {
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "depformer_max_period": 10000,
}


def feedforward(dim: int, mlp_dim: int) -> int:
    """Returns the `dim_feedforward` of which Moshi's code makes a gated MLP of this width.

    The width is 2/3 of it, but 21/8 of `dim` where it is 4 * `dim`.
    """
    size = -(-3 * mlp_dim // 2)
    if 21 * dim // 8 == mlp_dim:
        return 4 * dim
    if size == 4 * dim:
        size += 1
    if gated_width(dim, size) != mlp_dim:
        raise UserError(
            f"mlp_dim: Moshi's code can make no MLP of width {mlp_dim} at dim {dim}: take another."
        )
    return size


def gated_width(dim: int, size: int) -> int:
    """Returns the width of the MLP that Moshi's code makes of a `dim_feedforward`."""
    return 21 * dim // 8 if size == 4 * dim else 2 * size // 3


def _scale(dim: int, mlp_dim: int) -> float:
    """The `hidden_scale`: Moshi's code takes int(hidden_scale * dim) as `dim_feedforward`."""
    size = feedforward(dim, mlp_dim)
    scale = size / dim
    return scale if int(scale * dim) == size else math.nextafter(scale, math.inf)


def to_moshi(config: MoshiConfig) -> dict[str, Json]:
    """Returns the `config.json` of a model."""
    fields: dict[str, Json] = COMMON | {
        "dim": config.dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "hidden_scale": _scale(config.dim, config.mlp_dim),
        "context": config.context,
        "max_period": config.max_period,
        "text_card": config.text_vocab,
        "existing_text_padding_id": config.text_padding,
        "existing_text_end_padding_id": config.text_padding_end,
        "n_q": config.num_codebooks,
        "dep_q": config.num_generated,
        "card": config.codebook_size,
        "delays": list(config.delays),
    }
    if config.depth is not None:
        fields |= _depth_fields(config.depth)
    if config.two_texts:
        fields["demux_second_stream"] = True
    if config.num_pause_heads:
        fields["extra_heads_num_heads"] = config.num_pause_heads
    if config.conditions:
        fields |= _condition_fields(config)
    if config.num_codebooks and config.depth is None:
        fields["stt_config"] = {
            "audio_delay_seconds": config.frame_shift,
            "audio_silence_prefix_seconds": config.silence_prefix,
        }
    elif config.frame_shift:
        fields["tts_config"] = {"audio_delay": config.frame_shift}
    return fields | {"model_type": _model_type(config)}


def _model_type(config: MoshiConfig) -> str:
    if config.ignore_text_end:
        return "hibiki"
    if config.depth is None:
        return "stt" if config.num_codebooks else "helium"
    return "moshi" if config.num_user_codebooks else "tts"


def _depth_fields(depth: DepthConfig) -> dict[str, Json]:
    fields: dict[str, Json] = {
        "depformer_dim": depth.dim,
        "depformer_num_heads": depth.num_heads,
        "depformer_num_layers": depth.num_layers,
        "depformer_dim_feedforward": feedforward(depth.dim, depth.mlp_dim),
        "depformer_context": depth.num_codebooks,
    }
    if depth.schedule is not None:
        fields["depformer_weights_per_step_schedule"] = list(depth.schedule)
    if depth.low_rank is not None:
        fields["depformer_low_rank_embeddings"] = depth.low_rank
    return fields


def _condition_fields(config: MoshiConfig) -> dict[str, Json]:
    conditioners: dict[str, Json] = {}
    for condition in config.conditions:
        if condition.num_values is None:
            conditioners[condition.name] = {"type": "tensor", "tensor": {"dim": condition.dim}}
            continue
        table = {"n_bins": condition.num_values, "dim": condition.dim, "tokenizer": "noop"}
        if condition.values is not None:
            table["possible_values"] = list(condition.values)
        conditioners[condition.name] = {"type": "lut", "lut": table}
    fuser: dict[str, Json] = {
        how: [c.name for c in config.conditions if c.fuse == how] for how in ("sum", "cross")
    }
    fuser["cross_attention_pos_emb"] = config.positioned_sources
    fields: dict[str, Json] = {"conditioners": conditioners, "fuser": fuser}
    if config.crossed:
        fields["cross_attention"] = True
    return fields
