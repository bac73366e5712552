"""One stream through Mimi, a chunk at a time: samples to codes, and codes to samples."""

from collections.abc import Callable

import jax
import numpy as np

from moshijax.codec.mimi import Mimi
from moshijax.nn.streaming import State, make_step


Feed = Callable[[np.ndarray], np.ndarray]


def encoder(mimi: Mimi, num_codebooks: int, chunk_frames: int) -> Feed:
    """Returns a function that takes the samples of a stream, and returns their codes [K, T].

    All calls but the last bring `chunk_frames` whole frames.
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
    """Returns a function that takes the codes [K, T] of a stream, and returns their samples."""

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
