"""Distils BiT-R152x2 into R50 on ImageNet, Beyer et al. 2022 (arXiv:2106.05237), table 3.

    python -m distill --config configs/distill_imagenet.py:epochs=300 --workdir runs/i1k_300

Teachers: R152x2_T_224.npz and R152x2_T_384.npz of the BiT release, looked for in `weights/`.
Data: TFDS imagenet2012, prepared once as array_record.
Cost, as published: 300 epochs take 15 h on a v3-32; 4.5e19 FLOP (9,600 epochs: 1.4e21).
Expected top-1 on the validation set, from table 3 of the paper, T224 -> R50 at 224 px: 73.89 (30
epochs), 78.00 (90), 80.30 (300), 81.17 (600), 81.54 (1,200), 82.18 (4,800), 82.31 (9,600);
`teacher=t384`: 80.46 (300), 81.82, 82.33, 82.64; `teacher=ensemble`: 82.12 (1,200), 82.71, 82.82;
`resolution=160` with T224: 78.17 (300), 79.61 (1,200), 80.49 (9,600).

Switches: `epochs` (30 to 9600), `teacher` (t224, t384, ensemble), `resolution` (224, 160: the
student's), `arm` (funmatch, consistent, fixed, labels), `tiny` (CPU, 20 s; random teachers).
"""

from ml_collections import ConfigDict

from configs import loop, vision
from moshijax.system.errors import UserError


TRAIN_IMAGES = 1_255_543  # 98% of 1,281,167

TEACHERS = {"t224": ("t224",), "t384": ("t384",), "ensemble": ("t224", "t384")}

# Arm -> what is matched, view design, mixup.
ARMS = {
    "funmatch": ("kl", "same/ic", 1.0),
    "consistent": ("kl", "same/ic", 0.0),
    "fixed": ("kl", "fix/rs", 0.0),
    "labels": ("labels", "same/ic", 1.0),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """The experiment that the switches name."""
    chosen = loop.switches(
        arg, tiny=False, epochs=300, teacher="t224", resolution=224, arm="funmatch"
    )
    for switch, known in dict(teacher=TEACHERS, arm=ARMS).items():
        if chosen[switch] not in known:
            raise UserError(
                f"switch {switch}: {chosen[switch]!r} is unknown, take one of {', '.join(known)}."
            )
    num_steps = loop.steps(chosen.epochs, TRAIN_IMAGES, batch_size=4096)
    config = ConfigDict(loop.settings(num_steps, batch_size=4096))
    config.experiment = "distill.vision.experiment"
    config.eval_every = config.checkpoint_every = 2500
    config.data = vision.images("imagenet2012", "train[:98%]")
    config.data.threads = 16
    sets = dict(minitrain="train[:2%]", validation="train[99%:]", test="validation")
    config.evaluation = vision.evaluation("imagenet2012", sets, 4096, margin=256 / 224)
    config.student = vision.model("r50x1", chosen.resolution, 1000, load=None)
    config.teachers = {
        name: vision.model("r152x2", int(name[1:]), 1000, f"weights/R152x2_T_{name[1:]}.npz")
        for name in TEACHERS[chosen.teacher]
    }
    config.optimizers = dict(model=loop.adam(0.03, 3e-4, loop.warmup(5000, num_steps)))
    distance, config.view, config.mixup = ARMS[chosen.arm]
    config.loss = vision.loss(distance, temperature=1.0)
    vision.live_teachers(config)
    return _tiny(config) if chosen.tiny else config


def _tiny(config: ConfigDict) -> ConfigDict:
    """The same experiment with small random networks on the embedded images."""
    config.num_steps, config.batch_size = 20, 16
    config.log_every, config.eval_every, config.checkpoint_every = 5, 10, 5
    config.data = vision.images("fashion_mnist_sample", "train[:256]")
    sets = dict(test="test[:100]")
    config.evaluation = vision.evaluation("fashion_mnist_sample", sets, 64, margin=256 / 224)
    config.student = vision.model("tiny", config.student.resolution // 7, 10, load=None)
    config.teachers = {
        name: vision.model("tiny", spec.resolution // 7, 10, load=None)
        for name, spec in config.teachers.items()
    }
    config.optimizers.model.warmup_steps = 5
    return config
