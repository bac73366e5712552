import base64
import io

import numpy as np
import pytest
import soundfile

from moshijax.report.players import Player, flac, players


def decoded(url):
    kind, data = url.split(",")
    assert kind == "data:audio/flac;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32", always_2d=True)


@pytest.mark.parametrize("shape", [(1000,), (1000, 2)])
def test_a_page_holds_the_samples_themselves(shape):
    samples = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    heard, rate = decoded(flac(samples, 24_000))
    assert rate == 24_000
    np.testing.assert_allclose(heard, samples.reshape(1000, -1), atol=2**-15)


def test_what_is_too_loud_is_clipped_and_not_turned_over():
    heard, _ = decoded(flac(np.array([1.7, -3.0, 0.5], np.float32), 8000))
    np.testing.assert_allclose(heard[:, 0], [1, -1, 0.5], atol=2**-14)


@pytest.mark.parametrize("samples", [[], [0.0, np.nan], [np.inf]])
def test_no_sound_can_be_made_of_nothing_or_of_nan(samples):
    with pytest.raises(ValueError, match="samples of shape"):
        flac(np.array(samples, np.float32), 24_000)


def test_a_player_has_a_title_and_perhaps_a_caption():
    sound = np.zeros(10, np.float32)
    text = players([Player("Before", sound, 24_000), Player("After", sound, 24_000, "8 codebooks")])
    assert text.count("<audio controls") == 2
    assert "<b>Before</b></figcaption>" in text
    assert "<b>After</b><br>8 codebooks</figcaption>" in text
