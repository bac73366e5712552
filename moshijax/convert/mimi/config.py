"""From our configuration of a Mimi to the `config.json` of transformers."""

from moshijax.codec.config import MimiConfig
from moshijax.convert.fields import Json


def transformers_config(config: MimiConfig) -> dict[str, Json]:
    """Returns what transformers' MimiConfig needs to build the same model."""
    transformer = config.transformer
    return {
        "architectures": ["MimiModel"],
        "model_type": "mimi",
        "sampling_rate": config.sample_rate,
        "audio_channels": 1,
        "hidden_size": config.dim,
        "num_filters": config.num_filters,
        "num_residual_layers": 1,
        "upsampling_ratios": list(config.ratios),
        "kernel_size": config.kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "compress": config.compress,
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        "vector_quantization_hidden_dimension": config.codebook_dim,
        "num_quantizers": config.num_codebooks,
        "num_semantic_quantizers": 1,
        "upsample_groups": config.dim,
        "num_hidden_layers": transformer.num_layers,
        "intermediate_size": transformer.mlp_dim,
        "num_attention_heads": transformer.num_heads,
        "num_key_value_heads": transformer.num_heads,
        "head_dim": transformer.dim // transformer.num_heads,
        "sliding_window": transformer.context,
        "rope_theta": transformer.max_period,
        "layer_scale_initial_scale": transformer.layer_scale,
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "use_causal_conv": True,
        "frame_rate": config.frame_rate,
    }
