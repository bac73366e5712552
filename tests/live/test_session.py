import jax.numpy as jnp
import numpy as np

from moshijax.live.session import Session
from moshijax.lm.generate import Settings
from moshijax.lm.sampling import Sampling
from tests.lm_models import random_codes, random_model


GREEDY = Settings(text=Sampling(0.0, 1), audio=Sampling(0.0, 1))


def test_a_text_goes_on_as_the_whole_of_it_would():
    model = random_model("helium_2b")
    session, nothing = Session(model, GREEDY), np.zeros(0, np.int32)
    written = [session.feed(nothing, piece).text for piece in (5, 6, 7)]
    written += [session.feed(nothing).text for _ in range(6)]
    assert written[:3] == [5, 6, 7]
    likeliest = model.logits(jnp.array(written)[None, None]).text.argmax(-1)[0]
    np.testing.assert_array_equal(likeliest[3:], written[3:])


def test_the_first_frame_is_heard():
    model = random_model("moshi_7b")
    user = random_codes(model.config, 2, 3, zeros=False)[:, 9:]
    other = user[0].copy()
    other[:, 0] = user[1, :, 0]
    said = []
    for codes in (user[0], other):
        session = Session(model, GREEDY)
        said.append([session.feed(codes[:, t]) for t in range(3)])
    # Ready from the first frame on, and not deaf to it.
    assert said[0][0].text is not None
    assert any((a.codes != b.codes).any() for a, b in zip(*said, strict=True))
