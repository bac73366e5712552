r"""Decoders whose speed others measured on TPUs, as Helium can be made of their sizes.

    python -m moshijax.preflight --topology v5e:16x16 \
        --config tests/preflight/measured.py:row=32b_v5e

MaxText publishes what each reached, with its commands (configs/tpu at e591f30): SiLU-gated MLP,
vocabulary 32,000, sequences of 2,048, float32 weights and AdamW moments, bfloat16 compute.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import helium, loop
from moshijax.preflight.topology import parse


LENGTH = 2048


class Row(NamedTuple):
    """A decoder, where it ran, and what it reached."""

    sizes: dict[str, int]
    topology: str
    mesh: dict[str, int]
    rows: int  # a chip
    remat: str
    chunk_frames: int  # whose logits are in memory at a time
    mfu: float  # measured


B32 = dict(dim=8192, num_heads=64, num_layers=32, mlp_dim=28672)
# MaxText's have 24 and 32 heads. Helium's fill its width, and a v4's vector memory has no room for
# the splash kernel of heads of 256 or 384.
B22 = dict(dim=6144, num_heads=48, num_layers=48, mlp_dim=24576)
B52 = dict(dim=12288, num_heads=96, num_layers=32, mlp_dim=49152)

ROWS = {
    "32b_v5e": Row(B32, "v5e:16x16", dict(fsdp=256), 4, "full", 512, 0.669),
    "32b_v5p": Row(B32, "v5p:4x4x4", dict(fsdp=16, tensor=4), 6, "products", 512, 0.715),
    "22b_v4": Row(B22, "v4:4x4x4", dict(fsdp=64), 13, "full", 256, 0.567),
    "52b_v4": Row(B52, "v4:4x4x12", dict(fsdp=192), 7, "full", 2048, 0.56),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment of one of `ROWS`."""
    row = ROWS[loop.switches(arg, row="32b_v5e").row]
    config = helium.get_config()
    config.model.overrides.update(row.sizes | dict(context=LENGTH, remat=row.remat))
    config.data.length = LENGTH
    config.batch_size = config.evaluation.batch_size = row.rows * parse(row.topology).chips
    config.mesh = dict(data=1, fsdp=1, tensor=1) | row.mesh
    config.loss.chunk_frames = row.chunk_frames
    return config
