"""One stream through Mimi, a chunk at a time: samples to codes, and codes to samples."""

from collections.abc import Callable

import jax
import numpy as np

from moshijax.codec.mimi import Mimi
from moshijax.nn.streaming import State, make_step


Feed = Callable[[np.ndarray], np.ndarray]


def encoder(mimi: Mimi, num_codebooks: int, chunk_frames: int) -> Feed:
    """Returns a function from the next samples of one stream to their codes.

    It takes float32 samples [samples] of mono sound at the model's rate and returns codes [K, T],
    K = `num_codebooks`, one column for each frame begun. It keeps the stream's state from call to
    call. Every call but the last brings `chunk_frames` whole frames; the last may bring fewer
    samples, which zeros fill up.
    """
    frame = mimi.config.frame_size

    def run(mimi: Mimi, audio: jax.Array, state: State) -> tuple[jax.Array, State]:
        return mimi.encode(audio, state, num_codebooks=num_codebooks)

    feed = live(make_step(run, mimi), mimi.encoder.init_state(1, chunk_frames))

    def encode_block(samples: np.ndarray) -> np.ndarray:
        padded = np.pad(samples, (0, chunk_frames * frame - len(samples)))
        return feed(padded[None, :, None])[0, :, : -(-len(samples) // frame)]

    return encode_block


def decoder(mimi: Mimi, chunk_frames: int) -> Feed:
    """Returns a function from the next codes of one stream to their samples.

    It takes codes [K, T], K being any number of the model's codebooks but the same in every call,
    and returns float32 samples [T * frame_size]. It keeps the stream's state from call to call.
    Every call but the last brings `chunk_frames` frames; the last may bring fewer.
    """

    def run(mimi: Mimi, codes: jax.Array, state: State) -> tuple[jax.Array, State]:
        return mimi.decode(codes, state)

    feed = live(make_step(run, mimi), mimi.decoder.init_state(1, chunk_frames))

    def decode_chunk(codes: np.ndarray) -> np.ndarray:
        padded = np.pad(codes, ((0, 0), (0, chunk_frames - codes.shape[1])))
        return feed(padded[None])[0, : codes.shape[1] * mimi.config.frame_size, 0]

    return decode_chunk


def live(step: Callable[[np.ndarray, State], tuple[jax.Array, State]], state: State) -> Feed:
    """Returns a function of one chunk that keeps the state of its stream."""

    def feed(x: np.ndarray) -> np.ndarray:
        nonlocal state
        y, state = step(x, state)
        return np.asarray(y)

    return feed
