"""Trains Helium, Moshi's text model, on packed text (arXiv:2410.00037, section 4.2).

    python -m moshijax.train --config configs/helium.py --workdir runs/helium \
        --config.data.train='text/train-*.array_record' \
        --config.evaluation.sets.test='text/test-*.array_record'

500,000 steps of 4.2 million pieces (1,024 windows of 4,096), learning rate 3e-4 with warm-up and
cosine: 2.1 trillion pieces. Shards hold arrays [1, T] of pieces; `made:NUMBER` needs no data.

Cost: see the README's table of plans. Expected, from the paper's table 2: MMLU 54.3 (5-shot),
ARC easy 79.6 and HellaSwag 76.3 (0-shot).
Switches: `preset` (helium_7b or helium_2b), `tiny` (CPU, a minute).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment that the switches name."""
    chosen = common.switches(arg, tiny=False, preset="helium_7b")
    config = ConfigDict(common.loop_settings(num_steps=500_000, batch_size=1024))
    config.experiment = "moshijax.train.lm"
    config.mesh = dict(data=1, fsdp=-1, tensor=1)
    config.eval_every = config.checkpoint_every = 2000
    config.compute_dtype = "bfloat16"
    config.model = common.language_model(chosen.preset)
    config.loss = common.lm_loss()
    # Text of its own has no padding to make light of.
    config.loss.padding_weight = 1.0
    config.optimizer = common.adamw(3e-4, warmup_steps=2000)
    config.data = dict(train="text/train-*.array_record", length=4096)
    config.evaluation = dict(sets=dict(test="text/test-*.array_record"), batch_size=1024)
    return _tiny(config) if chosen.tiny else config


def _tiny(config: ConfigDict) -> ConfigDict:
    """The same experiment with a small model on made text."""
    config.num_steps, config.batch_size = 40, 8
    config.log_every, config.eval_every, config.checkpoint_every = 10, 20, 20
    config.compute_dtype = "float32"
    config.model.preset = "helium_7b_tiny"
    config.data.update(train="made:256", length=32)
    config.evaluation.update(sets=dict(test="made:16"), batch_size=8)
    config.loss.chunk_frames = 16
    config.optimizer.warmup_steps = 5
    config.optimizer.learning_rate, config.optimizer.weight_decay = 1e-2, 1e-3
    return config
