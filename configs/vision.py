"""What experiments on images share: their data, models, loss and teachers."""

from ml_collections import ConfigDict, config_dict

from configs import loop


def model(preset: str, resolution: int, num_classes: int, load: str | None) -> dict[str, object]:
    """A student or a teacher; `load` is a file or a work directory, None a random model."""
    return dict(
        preset=preset,
        overrides=dict(num_classes=num_classes, dtype="float32", remat=False),
        resolution=resolution,
        load=loop.text(load),
        load_head=True,
    )


def images(name: str, train: str) -> dict[str, object]:
    """Training images: a TFDS name, `folder:PATH` or the embedded set, and its split `train`.

    Mild crops are cut from images resized to `margin` times the crop's side; inception crops are
    TensorFlow's ("tf") or PyTorch's ("rrc"). `channels` are 1 or 3 (None: those of the images).
    """
    return dict(
        name=name,
        train=train,
        data_dir=loop.text(None),
        channels=config_dict.placeholder(int),
        on_corrupt="skip",
        margin=160 / 128,
        inception="tf",
        threads=2,
    )


def evaluation(
    name: str, sets: dict[str, str], batch_size: int, margin: float, crop: str = "cc"
) -> dict[str, object]:
    """Evaluation sets of a data set: `sets` are splits by the names that metrics get.

    Images are resized so that their smaller side is `margin` times the crop's.
    """
    return dict(name=name, sets=sets, batch_size=batch_size, margin=margin, crop=crop)


def loss(distance: str, temperature: float) -> dict[str, object]:
    """What is minimised: a distance to the teachers, or "labels"."""
    return dict(
        distance=distance,
        temperature=temperature,
        options={},
        combine="logits",
        label_smoothing=0.0,
    )


def live_teachers(config: ConfigDict) -> None:
    """Teachers compute their logits in every step.

    With `cache.folder` set, `cache.num_plans` plans and their logits are computed once, kept there
    and replayed. `fixed_draws` is how many views the targets of a fixed teacher are averaged over
    (0: as many as its view design says).
    """
    config.cache = dict(folder=loop.text(None), num_plans=1000)
    config.fixed_draws = 0
