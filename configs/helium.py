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

from configs import loop, speech


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment that the switches name."""
    chosen = loop.switches(arg, tiny=False, preset="helium_7b")
    config = ConfigDict(loop.settings(num_steps=500_000, batch_size=1024))
    config.experiment = "moshijax.experiments.lm"
    config.mesh = dict(data=1, fsdp=-1, tensor=1)
    config.eval_every = config.checkpoint_every = 2000
    config.compute_dtype = "bfloat16"
    config.model = speech.language_model(chosen.preset)
    config.loss = speech.lm_loss()
    # Text of its own has no padding to make light of.
    config.loss.padding_weight = 1.0
    config.optimizers = dict(model=loop.adamw(3e-4, warmup_steps=2000))
    config.data = dict(train="text/train-*.array_record", length=4096)
    config.evaluation = dict(sets=dict(test="text/test-*.array_record"), batch_size=1024)
    return speech.tiny_language_model(config, "helium_7b_tiny") if chosen.tiny else config
