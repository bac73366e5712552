"""Sizes of the published language models, and of small ones for trials and tests.

A `mlp_dim` is the true width of the gated MLP: Moshi's files give 4.125 times `dim` (or another
factor), of which its code takes two thirds.
"""

import dataclasses

from moshijax.lm.config import ConditionConfig, DepthConfig, MoshiConfig


def _acoustic(delay: int, codebooks: int, times: int = 1) -> tuple[int, ...]:
    """The delays of `times` speakers: none on the semantic codebook, the same on the others."""
    return (0, *(0, *(delay,) * (codebooks - 1)) * times)


MOSHI_DEPTH = DepthConfig(
    dim=1024,
    num_heads=16,
    num_layers=6,
    mlp_dim=2816,
    num_codebooks=8,
    schedule=None,
    low_rank=None,
)
DSM_DEPTH = dataclasses.replace(MOSHI_DEPTH, num_layers=4, mlp_dim=2048, low_rank=128)
DESCRIPTION = ConditionConfig("description", "sum", 16, 31)
CFG_VALUES = tuple(str(1 + i / 2) for i in range(7))

# From Moshi's loaders for the 7B, the config.json of each release for the others.
PRESETS: dict[str, MoshiConfig] = {
    "moshi_7b": MoshiConfig(
        dim=4096,
        num_heads=32,
        num_layers=32,
        mlp_dim=11264,
        context=3000,
        max_period=10000.0,
        text_vocab=32000,
        num_codebooks=16,
        codebook_size=2048,
        delays=_acoustic(1, 8, 2),
        depth=MOSHI_DEPTH,
    ),
    "hibiki_1b": MoshiConfig(
        dim=2048,
        num_heads=16,
        num_layers=16,
        mlp_dim=5632,
        context=3000,
        max_period=100000.0,
        text_vocab=48000,
        num_codebooks=16,
        codebook_size=2048,
        delays=_acoustic(2, 8, 2),
        depth=MOSHI_DEPTH,
        conditions=(DESCRIPTION,),
        ignore_text_end=True,
    ),
    "hibiki_2b": MoshiConfig(
        dim=2560,
        num_heads=20,
        num_layers=24,
        mlp_dim=7040,
        context=500,
        max_period=100000.0,
        text_vocab=48000,
        num_codebooks=32,
        codebook_size=2048,
        delays=_acoustic(2, 16, 2),
        depth=dataclasses.replace(DSM_DEPTH, num_codebooks=16, schedule=(*range(8), *(8,) * 8)),
        conditions=(DESCRIPTION,),
        ignore_text_end=True,
    ),
    "stt_1b": MoshiConfig(
        dim=2048,
        num_heads=16,
        num_layers=16,
        mlp_dim=5632,
        context=750,
        max_period=100000.0,
        text_vocab=8000,
        num_codebooks=32,
        codebook_size=2048,
        delays=(0,) * 33,
        depth=None,
        num_pause_heads=4,
        frame_shift=0.5,
    ),
    "stt_2_6b": MoshiConfig(
        dim=2048,
        num_heads=32,
        num_layers=48,
        mlp_dim=5632,
        context=375,
        max_period=100000.0,
        text_vocab=4000,
        num_codebooks=32,
        codebook_size=2048,
        delays=(0,) * 33,
        depth=None,
        frame_shift=2.5,
        silence_prefix=1.0,
    ),
    "tts_1_6b": MoshiConfig(
        dim=2048,
        num_heads=16,
        num_layers=16,
        mlp_dim=5632,
        context=500,
        max_period=10000.0,
        text_vocab=8000,
        num_codebooks=32,
        codebook_size=2048,
        delays=_acoustic(2, 32),
        depth=dataclasses.replace(
            DSM_DEPTH,
            num_codebooks=32,
            schedule=(*range(8), *(8,) * 8, *(9,) * 8, *(10,) * 8),
        ),
        conditions=(
            ConditionConfig("speaker_wavs", "cross", 512, None),
            ConditionConfig("cfg", "sum", 16, 7, CFG_VALUES),
            ConditionConfig("control", "sum", 2048, 1, ("ok",)),
        ),
        positioned_sources=True,
        two_texts=True,
        frame_shift=1.28,
    ),
    "helium_7b": MoshiConfig(
        dim=4096,
        num_heads=32,
        num_layers=32,
        mlp_dim=11264,
        context=4096,
        max_period=10000.0,
        text_vocab=32000,
        num_codebooks=0,
        codebook_size=2048,
        delays=(0,),
        depth=None,
    ),
    "helium_2b": MoshiConfig(
        dim=2560,
        num_heads=20,
        num_layers=24,
        mlp_dim=7040,
        context=4096,
        max_period=100000.0,
        text_vocab=48000,
        num_codebooks=0,
        codebook_size=2048,
        delays=(0,),
        depth=None,
    ),
}


def _shrink(config: MoshiConfig) -> MoshiConfig:
    """The same structure with few and small layers."""
    depth = config.depth and dataclasses.replace(
        config.depth,
        dim=24,
        num_heads=3,
        num_layers=2,
        mlp_dim=40,
        low_rank=6 if config.depth.low_rank else None,
    )
    conditions = tuple(
        dataclasses.replace(c, dim=min(c.dim, 12 if c.num_values is None else 5))
        for c in config.conditions
    )
    return dataclasses.replace(
        config,
        dim=32,
        num_heads=4,
        num_layers=2,
        mlp_dim=56,
        context=16,
        text_vocab=48,
        codebook_size=40,
        depth=depth,
        conditions=conditions,
    )


PRESETS |= {f"{name}_tiny": _shrink(config) for name, config in list(PRESETS.items())}
PRESETS["moshi_small"] = dataclasses.replace(
    PRESETS["moshi_7b"],
    dim=512,
    num_heads=8,
    num_layers=8,
    mlp_dim=1408,
    depth=dataclasses.replace(MOSHI_DEPTH, dim=256, num_heads=4, num_layers=4, mlp_dim=704),
)
PRESETS["moshi_medium"] = dataclasses.replace(
    PRESETS["moshi_7b"], dim=1024, num_heads=16, num_layers=24, mlp_dim=2816
)
