"""PyTorch's Moshi as an oracle of Mimi; imports it only when called."""

import numpy as np


def moshi_config(config):
    """The configuration that `moshi.models.loaders.get_mimi` wants for one of ours."""
    transformer = config.transformer
    return {
        "channels": 1,
        "sample_rate": config.sample_rate,
        "frame_rate": config.frame_rate,
        "seanet": {
            "channels": 1,
            "dimension": config.dim,
            "causal": True,
            "n_filters": config.num_filters,
            "n_residual_layers": 1,
            "activation": "ELU",
            "compress": config.compress,
            "dilation_base": 2,
            "disable_norm_outer_blocks": 0,
            "kernel_size": config.kernel_size,
            "residual_kernel_size": config.residual_kernel_size,
            "last_kernel_size": config.last_kernel_size,
            "norm": "none",
            "pad_mode": "constant",
            "ratios": list(config.ratios),
            "true_skip": True,
        },
        "transformer": {
            "d_model": config.dim,
            "num_heads": transformer.num_heads,
            "num_layers": transformer.num_layers,
            "causal": True,
            "layer_scale": transformer.layer_scale,
            "context": transformer.context,
            "conv_layout": True,
            "max_period": transformer.max_period,
            "gating": "none",
            "norm": "layer_norm",
            "positional_embedding": "rope",
            "dim_feedforward": transformer.mlp_dim,
            "input_dimension": config.dim,
            "output_dimensions": [config.dim],
        },
        "quantizer": {
            "dimension": config.codebook_dim,
            "n_q": config.num_codebooks,
            "bins": config.codebook_size,
            "input_dimension": config.dim,
            "output_dimension": config.dim,
        },
    }


def load(path, config, num_codebooks):
    from moshi.models import loaders

    return loaders.get_mimi(path, config, num_codebooks=num_codebooks)


def run_offline(path, config, audio, num_codebooks):
    """Latents [B, T, D], codes [B, K, T] and the sound of these codes [B, samples, 1]."""
    import torch

    model = load(path, config, num_codebooks)
    with torch.no_grad():
        waveform = torch.from_numpy(np.ascontiguousarray(audio.transpose(0, 2, 1)))
        padded = torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % model.frame_size))
        latents = model.encode_to_latent(padded, quantize=False)
        codes = model.encode(waveform)
        sound = model.decode(codes)
    return {
        "latents": latents.numpy().transpose(0, 2, 1),
        "codes": codes.numpy().astype(np.int32),
        "sound": sound.numpy().transpose(0, 2, 1),
    }


def run_streaming(path, config, audio, num_codebooks):
    """Codes [B, K, T] and the sound of these codes [B, samples, 1], a frame at a time."""
    import torch

    model = load(path, config, num_codebooks)
    waveform = torch.from_numpy(np.ascontiguousarray(audio.transpose(0, 2, 1)))
    with torch.no_grad(), model.streaming(audio.shape[0]):
        codes = [model.encode(chunk) for chunk in waveform.split(model.frame_size, dim=-1)]
        sound = [model.decode(chunk) for chunk in codes]
    codes, sound = torch.cat(codes, -1).numpy(), torch.cat(sound, -1).numpy()
    return codes.astype(np.int32), sound.transpose(0, 2, 1)
