import jax
import numpy as np

from moshijax.codec.chunks import decode_in_chunks, encode_in_chunks
from moshijax.codec.config import PRESETS
from moshijax.codec.mimi import for_inference
from moshijax.convert.random import random_mimi
from moshijax.nn.streaming import make_step
from tests import contract
from tests.codes import assert_same_codes


TINY = PRESETS["tiny"]
FRAME = TINY.frame_size
mimi = for_inference(random_mimi(TINY))
audio = jax.random.normal(jax.random.key(0), (2, 11 * FRAME - 5, 1)) * 0.3
encode = jax.jit(lambda m, x: m.encode(x, num_codebooks=3)[0])
decode = jax.jit(lambda m, codes: m.decode(codes)[0])


def test_chunks_give_the_codes_and_sound_of_the_whole():
    codes = encode(mimi, audio)
    pieces = jax.jit(lambda m, x: encode_in_chunks(m, x, num_codebooks=3, chunk_frames=4))(
        mimi, audio
    )
    padded = np.pad(np.asarray(audio), ((0, 0), (0, 5), (0, 0)))
    latents, _ = contract.run(mimi.encoder, jax.numpy.asarray(padded), None)
    assert pieces.shape == (2, 3, 11)
    assert_same_codes(pieces, codes, mimi.quantizer, latents)
    sound = jax.jit(lambda m, c: decode_in_chunks(m, c, chunk_frames=4))(mimi, codes)
    np.testing.assert_allclose(sound, decode(mimi, codes), atol=1e-5)


def test_step_of_a_live_stream_donates_its_state():
    step = make_step(lambda m, codes, state: m.decode(codes, state), mimi)
    codes = encode(mimi, audio)
    first = mimi.decoder.init_state(2, 1)
    state, sound = first, []
    for t in range(3):
        y, state = step(codes[:, :, t : t + 1], state)
        sound.append(y)
    want = decode(mimi, codes)[:, : 3 * FRAME]
    np.testing.assert_allclose(np.concatenate(sound, 1), want, atol=1e-5)
    assert first.transformer[0].k.is_deleted()
