"""Trains Moshi on streams of text and codes, Défossez et al. 2024 (arXiv:2410.00037), section 4.

    python -m moshijax.train --config configs/moshi.py:stage=1 --workdir runs/moshi \
        --config.data.train='codes/train-*.array_record' \
        --config.evaluation.sets.test='codes/test-*.array_record'

Stage 1 has the sizes of the pre-training in table 1: a million steps of 16 hours of audio in
windows of 5 minutes, temporal and depth learning rates of 3e-5 and 2e-4, acoustic delay 2. All
steps are audio: the paper's are half text alone, with an optimizer of its own, and it masks and
shifts the text at random, which this experiment does not.
`--config.model.load=helium.safetensors --config.model.load_preset=helium_7b` begins at Helium.
Shards hold arrays [17, T] of codes (moshijax/data/windows.py); `made:NUMBER` needs no data.

Cost: see the README's table of plans. Expected: no public run is known; the paper's table 6 gives
a text-scored likelihood of 2.77 for a 1B ablation.
Switches: `stage` (1), `preset` (moshi_7b or any other Moshi), `tiny` (CPU, a minute).
"""

from ml_collections import ConfigDict

from configs import loop, speech
from moshijax.system.errors import UserError


STAGES = (1,)
FRAME_RATE = 12.5
WINDOW = round(300 * FRAME_RATE)  # 5 minutes


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment that the switches name."""
    chosen = loop.switches(arg, tiny=False, stage=1, preset="moshi_7b")
    if chosen.stage not in STAGES:
        raise UserError(f"switch stage: {chosen.stage} is unknown, take one of {STAGES}.")
    rows = round(16 * 3600 / 300)  # 16 hours in windows of 5 minutes (section 4.3)
    config = ConfigDict(loop.settings(num_steps=1_000_000, batch_size=rows))
    config.experiment = "moshijax.experiments.lm"
    config.mesh = dict(data=1, fsdp=-1, tensor=1)
    config.eval_every = config.checkpoint_every = 2000
    config.compute_dtype = "bfloat16"
    delays = (0, *(0, 2, 2, 2, 2, 2, 2, 2) * 2)
    config.model = speech.language_model(chosen.preset, delays=delays)
    config.loss = speech.lm_loss()
    # The warm-up's length is not published; this is Hibiki's for text.
    rates = ((r"temporal/.*", 3e-5 / 2e-4), (r"depth/.*", 1.0))
    config.optimizers = dict(model=loop.adamw(2e-4, warmup_steps=2000, rates=rates))
    config.data = dict(train="codes/train-*.array_record", length=WINDOW)
    config.evaluation = dict(sets=dict(test="codes/test-*.array_record"), batch_size=rows)
    return speech.tiny_language_model(config, "moshi_7b_tiny") if chosen.tiny else config
