"""Sounds that are played on the page."""

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float
from markupsafe import Markup

from moshijax.report.page import data_url, render


class Player(NamedTuple):
    """A sound under its title: samples from -1 to 1, of one channel or [samples, channels]."""

    title: str
    samples: Float[np.ndarray, "samples"] | Float[np.ndarray, "samples channels"]
    sample_rate: int
    caption: str = ""


def players(items: Iterable[Player]) -> Markup:
    """Sounds beside each other, each under its title and caption."""
    shown = [(player, flac(player.samples, player.sample_rate)) for player in items]
    return render("players", items=shown)


def flac(
    samples: Float[np.ndarray, "samples"] | Float[np.ndarray, "samples channels"],
    sample_rate: int,
) -> str:
    """A data URL: 16 bits a sample, of which nothing is lost; what is over 1 is clipped.

    Raises:
        ValueError: there are no samples, or some are NaN or infinite.
    """
    if not samples.size or not np.isfinite(samples).all():
        raise ValueError(f"samples of shape {samples.shape} are none, or not all of them finite")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return data_url("audio/flac", buffer.getvalue())
