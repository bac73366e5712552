"""Between our configurations and the `config.json` beside a published language model.

The field names are those of Moshi's own loader, which builds a model from such a file.
"""

from collections.abc import Mapping
from typing import Any

from moshijax.lm.config import ConditionConfig, DepthConfig, MoshiConfig
from moshijax.lm.presets import PRESETS


# What a loader needs besides sizes, the same for all published models.
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
    """Returns the size that Moshi's code turns into this width of a gated MLP.

    It takes two thirds, but 21/8 of `dim` where the size is four times `dim`.
    """
    size = -(-3 * mlp_dim // 2)
    if 21 * dim // 8 == mlp_dim:
        return 4 * dim
    return size + 1 if size == 4 * dim else size


def gated_width(dim: int, size: int) -> int:
    """The inverse of `feedforward`."""
    return 21 * dim // 8 if size == 4 * dim else 2 * size // 3


def to_moshi(config: MoshiConfig) -> dict[str, Any]:
    """Returns the `config.json` of a model."""
    fields: dict[str, Any] = COMMON | {
        "dim": config.dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "hidden_scale": feedforward(config.dim, config.mlp_dim) / config.dim,
        "context": config.context,
        "max_period": config.max_period,
        "text_card": config.text_vocab,
        "existing_text_padding_id": config.text_padding,
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
    return "moshi" if config.num_given else "tts"


def _depth_fields(depth: DepthConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
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


def _condition_fields(config: MoshiConfig) -> dict[str, Any]:
    conditioners: dict[str, Any] = {}
    for condition in config.conditions:
        if condition.num_values is None:
            conditioners[condition.name] = {"type": "tensor", "tensor": {"dim": condition.dim}}
            continue
        table = {"n_bins": condition.num_values, "dim": condition.dim, "tokenizer": "noop"}
        if condition.values is not None:
            table["possible_values"] = list(condition.values)
        conditioners[condition.name] = {"type": "lut", "lut": table}
    fuser: dict[str, Any] = {
        how: [c.name for c in config.conditions if c.fuse == how] for how in ("sum", "cross")
    }
    fuser["cross_attention_pos_emb"] = config.positioned_sources
    fields = {"conditioners": conditioners, "fuser": fuser}
    return fields | ({"cross_attention": True} if config.crossed else {})


def from_moshi(fields: Mapping[str, Any], where: str = "config.json") -> MoshiConfig:
    """Reads a `config.json`; what it leaves out is Moshi 7B's, as in Moshi's own loader.

    Raises:
        ValueError: a field has a value that these models do not have.
    """
    fields = to_moshi(PRESETS["moshi_7b"]) | dict(fields)
    for name, value in COMMON.items():
        if fields[name] != value:
            raise ValueError(f"{where}: {name} is {fields[name]!r}; only {value!r} is known.")
    dim = fields["dim"]
    stt, tts = fields.get("stt_config") or {}, fields.get("tts_config") or {}
    pairs = fields.get("demux_second_stream", fields.get("demux_second_text_stream", False))
    return MoshiConfig(
        dim=dim,
        num_heads=fields["num_heads"],
        num_layers=fields["num_layers"],
        mlp_dim=gated_width(dim, int(fields["hidden_scale"] * dim)),
        context=fields["context"],
        max_period=float(fields["max_period"]),
        text_vocab=fields["text_card"],
        num_codebooks=fields["n_q"],
        codebook_size=fields["card"],
        delays=tuple(fields["delays"]),
        depth=_read_depth(fields) if fields["dep_q"] else None,
        conditions=_read_conditions(fields, where),
        positioned_sources=(fields.get("fuser") or {}).get("cross_attention_pos_emb", False),
        two_texts=bool(pairs),
        num_pause_heads=fields.get("extra_heads_num_heads", 0),
        ignore_text_end=fields["model_type"] == "hibiki",
        frame_shift=stt.get("audio_delay_seconds", tts.get("audio_delay", 0.0)),
        silence_prefix=stt.get("audio_silence_prefix_seconds", 0.0),
        text_padding=fields["existing_text_padding_id"],
    )


def _read_depth(fields: Mapping[str, Any]) -> DepthConfig:
    dim, schedule = fields["depformer_dim"], fields.get("depformer_weights_per_step_schedule")
    return DepthConfig(
        dim=dim,
        num_heads=fields["depformer_num_heads"],
        num_layers=fields["depformer_num_layers"],
        mlp_dim=gated_width(dim, fields["depformer_dim_feedforward"]),
        num_codebooks=fields["dep_q"],
        schedule=None if schedule is None else tuple(schedule),
        low_rank=fields.get("depformer_low_rank_embeddings"),
    )


def _read_conditions(fields: Mapping[str, Any], where: str) -> tuple[ConditionConfig, ...]:
    fuser = fields.get("fuser") or {}
    how = {name: kind for kind in ("sum", "cross") for name in fuser.get(kind, ())}
    conditions = []
    for name, spec in (fields.get("conditioners") or {}).items():
        if name not in how or spec["type"] not in ("lut", "tensor"):
            raise ValueError(
                f"{where}: conditioner {name} is of type {spec['type']!r} and fused by "
                f"{how.get(name)!r}; known are lut and tensor, sum and cross."
            )
        own = spec[spec["type"]]
        values = own.get("possible_values")
        conditions.append(
            ConditionConfig(
                name,
                how[name],
                own["dim"],
                own.get("n_bins"),
                None if values is None else tuple(values),
            )
        )
    return tuple(conditions)
