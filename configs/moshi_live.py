"""A live step of Moshi on a pod slice, for preflight: does it fit, and how long does a frame take?

    python -m moshijax.preflight --config configs/moshi_live.py:batch=64 --topology v5e:2x4,v6e:2x4

A frame must take less than 80 ms. Weights and caches are bfloat16 and split over `tensor`.
Cost: none. Expected: see the README's table of plans.
Switches: `batch` (sessions), `preset` (moshi_7b or any other that hears), `tiny`.
"""

from ml_collections import ConfigDict

from configs import loop, speech


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment that the switches name."""
    chosen = loop.switches(arg, tiny=False, batch=1, preset="moshi_7b")
    hour = round(3600 * 12.5)
    config = ConfigDict(loop.settings(num_steps=hour, batch_size=chosen.batch))
    config.experiment = "moshijax.experiments.live"
    config.mesh = dict(data=1, fsdp=1, tensor=-1)
    config.compute_dtype = "bfloat16"
    preset = "moshi_7b_tiny" if chosen.tiny else chosen.preset
    config.model = speech.language_model(preset, kernel="xla", remat="full")
    return config
