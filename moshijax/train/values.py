"""What an evaluator measures: numbers, sounds to listen to and figures to look at.

Sounds and figures become files of the work directory, `samples/STEP/SET/NAME.wav` or `.png`.
"""

import dataclasses
import pathlib
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float32, UInt8

from moshijax.data.audio_writer import writing
from moshijax.report.pictures import png_bytes
from moshijax.system.errors import UserError
from moshijax.system.files import replacing, unwritable


FOLDER = "samples"


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """Samples from -1 to 1, in memory of the host; what is over 1 is clipped."""

    samples: Float32[np.ndarray, "samples channels"]
    sample_rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or not self.samples.shape[1] or self.sample_rate < 1:
            raise ValueError(
                f"samples of shape {self.samples.shape} at {self.sample_rate} Hz are no sound: "
                "[samples, channels] is expected"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
    """An image in memory of the host: one channel is grey, three are red, green and blue."""

    image: UInt8[np.ndarray, "H W C"]

    def __post_init__(self) -> None:
        shape = self.image.shape
        if len(shape) != 3 or shape[2] not in (1, 3) or not self.image.size:
            raise ValueError(f"an image of shape {shape} is none: [H, W, 1 or 3] is expected")


Value = SupportsFloat | Sound | Figure


def is_whole(value: Sound | Figure) -> bool:
    """Whether it can be shown: no sample is NaN or infinite."""
    return isinstance(value, Figure) or bool(np.isfinite(value.samples).all())


def path_of(step: int, name: str, value: Sound | Figure) -> pathlib.PurePosixPath:
    """The file of a value of a step, below the work directory.

    Raises:
        UserError: its name does not name a file in the step's folder.
    """
    parts = name.split("/")
    if not all(part.isprintable() and part not in ("", ".", "..") for part in parts):
        raise UserError(
            f"a sound or figure of the evaluation is called {name!r}, which names no file below "
            f"{FOLDER}: give the set and what is measured a plain name each, without '..'"
        )
    suffix = ".wav" if isinstance(value, Sound) else ".png"
    return pathlib.PurePosixPath(FOLDER, str(step), *parts[:-1], parts[-1] + suffix)


def write(path: pathlib.Path, value: Sound | Figure) -> None:
    """Writes a whole file or none of it; its folders are made.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    if isinstance(value, Sound):
        with writing(path, value.sample_rate, value.samples.shape[1]) as append:
            append(value.samples)
    else:
        with replacing(path) as file:
            file.write(png_bytes(value.image))
