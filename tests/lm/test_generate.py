import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.live.step import make_step
from moshijax.lm import generate as live
from moshijax.lm.config import UNGENERATED
from moshijax.lm.delays import delay
from moshijax.lm.sampling import Sampling
from tests.lm_models import random_codes, random_model


model = random_model("moshi_7b")
config = model.config
FRAMES = 24
GREEDY = live.Settings(text=Sampling(0.0, 1), audio=Sampling(0.0, 1))
step, generate = jax.jit(live.step), jax.jit(live.generate)


@functools.cache
def user():
    return random_codes(config, 2, FRAMES, 3, zeros=False)[:, 9:]


@functools.cache
def streamed(settings):
    """Frames one by one: what each step chose, and its text logits."""
    state, frames = live.init_state(model, 2), []
    for t in range(FRAMES):
        key = jax.random.fold_in(jax.random.key(0), t)
        frame, state = step(model, state, jnp.asarray(user()[:, :, t]), settings, key)
        frames.append(frame)
    return frames


def test_scan_over_a_recording_is_the_live_stream():
    codes, _ = generate(
        model, live.init_state(model, 2), jnp.asarray(user()), live.Settings(), jax.random.key(0)
    )
    want = np.stack([frame.codes for frame in streamed(live.Settings())], 2)
    np.testing.assert_array_equal(codes, want)
    assert (want[:, :, : config.max_delay] == UNGENERATED).all()
    assert (want[:, :, config.max_delay :] != UNGENERATED).all()


def test_streamed_logits_are_those_of_training_on_the_roll_out():
    frames = streamed(GREEDY)
    chosen = np.stack([frame.chosen for frame in frames], 2)
    # What step s heard was the user's frame s, which training has as frame s - 1.
    heard = np.concatenate([user()[:, :, 1:], user()[:, :, :1]], 2)
    late = np.asarray(delay(jnp.asarray(heard), config.delays[9:], config.initial[9:]))
    own = chosen.copy()
    own[:, 2:, 0] = config.codebook_size  # Before a stream begins it holds its initial code.
    delayed = np.concatenate([own, late], axis=1)
    first = np.broadcast_to(np.array(config.initial)[None, :, None], (2, 17, 1))
    read = jnp.asarray(np.concatenate([first, delayed[:, :, :-1]], 2).astype(np.int32))
    hidden = model.hidden(read)
    logits = model.temporal.text_logits(hidden)
    want = np.stack([frame.text_logits for frame in frames], 1)
    np.testing.assert_allclose(logits, want, atol=2e-5)
    audio = model.audio_logits(hidden, jnp.asarray(delayed.astype(np.int32)))
    found = np.asarray(audio.argmax(-1))
    np.testing.assert_array_equal(found[:, :, 1:], own[:, 1:, 1:])


def test_forced_codes_take_the_place_of_sampled_ones():
    forced = jnp.full((2, 9), UNGENERATED).at[0, 0].set(7).at[1, 3].set(11)
    key = jax.random.key(5)
    state = live.init_state(model, 2)
    frame, _ = step(model, state, jnp.zeros((2, 8), jnp.int32), GREEDY, key, forced=forced)
    free, _ = step(model, state, jnp.zeros((2, 8), jnp.int32), GREEDY, key)
    assert frame.chosen[0, 0] == 7
    assert frame.chosen[1, 3] == 11
    np.testing.assert_array_equal(frame.chosen[1, :3], free.chosen[1, :3])


def test_padding_bonus_and_penalty_change_the_text():
    state = live.init_state(model, 2)
    user_codes, key = jnp.zeros((2, 8), jnp.int32), jax.random.key(5)
    settings = live.Settings(Sampling(0.0, 1), Sampling(0.0, 1), padding_bonus=100.0)
    frame, _ = step(model, state, user_codes, settings, key)
    assert (frame.chosen[:, 0] == config.text_padding).all()
    free, _ = step(model, state, user_codes, GREEDY, key)
    recent = jnp.broadcast_to(free.chosen[:, :1], state.recent.shape)
    settings = live.Settings(Sampling(0.0, 1), Sampling(0.0, 1), repetition_penalty=100.0)
    frame, _ = step(model, state._replace(recent=recent), user_codes, settings, key)
    assert (frame.chosen[:, 0] != free.chosen[:, 0]).any()


def test_every_row_is_guided_by_its_own_scale():
    def guided(scale, blind):
        settings = live.Settings(Sampling(0.0, 1), Sampling(0.0, 1), live.Guidance(scale, blind))
        state, frames = live.init_state(model, 2, guided=True), []
        for t in range(4):
            user_codes = jnp.asarray(user()[:, :, t])
            frame, state = step(model, state, user_codes, settings, jax.random.key(0))
            frames.append(frame.chosen)
        return np.stack(frames)

    one, three = guided(1.0, 2), guided(3.0, 2)
    both = guided(jnp.array([1.0, 3.0]), jnp.array([2, 2]))
    assert (one[:, 1] != three[:, 1]).any()
    np.testing.assert_array_equal(both[:, 0], one[:, 0])
    np.testing.assert_array_equal(both[:, 1], three[:, 1])


def test_compiled_step_is_the_step():
    compiled = make_step(model)
    user_codes, key = jnp.zeros((2, 8), jnp.int32), jax.random.key(5)
    a, after = compiled(live.init_state(model, 2), user_codes, GREEDY, key)
    b, _ = step(model, live.init_state(model, 2), user_codes, GREEDY, key)
    np.testing.assert_array_equal(a.chosen, b.chosen)
    compiled(after, user_codes, GREEDY, key)
    assert after.codes.is_deleted()


@pytest.mark.parametrize(
    ("user_codes", "settings", "message"),
    [
        (jnp.zeros((2, 7), jnp.int32), GREEDY, "7 codebooks, the model hears 8"),
        (jnp.zeros((2, 8), jnp.int32), live.Settings(guidance=live.Guidance(2.0)), "go together"),
    ],
)
def test_what_does_not_fit_is_named(user_codes, settings, message):
    with pytest.raises(ValueError, match=message):
        live.step(model, live.init_state(model, 2), user_codes, settings, jax.random.key(0))
