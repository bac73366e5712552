"""Checks of a config: the range of each value, and whether its parts fit each other."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from distill.vision import teachers, views
from distill.vision.data import EvalBatches, TrainBatches
from distill.vision.reader import ON_CORRUPT, Reader
from distill.vision.sources import Source
from moshijax.system.errors import UserError
from moshijax.train import settings


MAX_RESOLUTION = 4096
EVALUATION_CROPS = ("cc", "rs", "ic")
INCEPTION_CROPS = ("tf", "rrc")
MOST_TEMPERATURE = 1e6


def models_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """The student and every teacher, by the config's key."""
    return {"student": config.student} | {f"teachers.{n}": s for n, s in config.teachers.items()}


def check(config: ConfigDict) -> None:
    """Checks each value by itself, before anything is opened.

    Raises:
        UserError: a value that no run can have.
    """
    settings.check(config)
    for key, spec in models_of(config).items():
        settings.whole(spec.resolution, f"{key}.resolution", 1, MAX_RESOLUTION)
        teachers.model_config(spec)
    settings.one_of(config.view, "view", views.DESIGNS)
    settings.number(config.mixup, "mixup", MOST_TEMPERATURE)
    settings.number(config.loss.temperature, "loss.temperature", MOST_TEMPERATURE, positive=True)
    settings.number(smoothing := config.loss.label_smoothing, "loss.label_smoothing")
    if smoothing >= 1:
        raise settings.refusal(smoothing, "loss.label_smoothing", "a number from 0 to below 1")
    settings.whole(config.fixed_draws, "fixed_draws", 0)
    settings.whole(config.cache.num_plans, "cache.num_plans", 1)
    _check_images(config)


def _check_images(config: ConfigDict) -> None:
    data, evaluation = config.data, config.evaluation
    settings.one_of(data.on_corrupt, "data.on_corrupt", ON_CORRUPT)
    settings.one_of(data.inception, "data.inception", INCEPTION_CROPS)
    settings.one_of(data.channels, "data.channels", (None, 1, 3))
    settings.whole(data.threads, "data.threads", 1)
    settings.one_of(evaluation.crop, "evaluation.crop", EVALUATION_CROPS)
    for found, key in ((data.margin, "data.margin"), (evaluation.margin, "evaluation.margin")):
        if settings.number(found, key) < 1:
            raise settings.refusal(found, key, "a number from 1 on: the image's side over a crop's")
    if not evaluation.sets:
        raise UserError("config.evaluation.sets: there is none: name one, such as test='test'.")


def check_classes(config: ConfigDict, number: int, source: Source) -> None:
    """Refuses a model whose number of classes is not that of the images."""
    for key, spec in models_of(config).items():
        num_classes = teachers.model_config(spec).num_classes
        if num_classes != number:
            raise UserError(
                f"{key}: {num_classes} classes do not fit the {number} of {source.name}: set "
                "overrides.num_classes."
            )


def check_readable(config: ConfigDict, batches: Iterable[TrainBatches | EvalBatches]) -> None:
    """Decodes one image of every set and compares its channels with the models'."""
    for data in batches:
        reader: Reader = data.reader
        _, pixels = reader.decode(reader.read(0))
        for key, spec in models_of(config).items():
            wanted = teachers.model_config(spec).in_channels
            if pixels.shape[2] != wanted:
                raise UserError(
                    f"{key}: takes images of {wanted} channels, those of {data.source.name} are "
                    f"read with {pixels.shape[2]}: set --config.data.channels={wanted}, or "
                    f"overrides.in_channels."
                )
