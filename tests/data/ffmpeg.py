"""Files of sound made by ffmpeg's own muxers, and its decoding of a whole file at once."""

import subprocess

import imageio_ffmpeg
import numpy as np


FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def run(*args, data=None):
    command = [FFMPEG, "-v", "error", "-nostdin" if data is None else "-y", "-y", *map(str, args)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def noise(samples, channels, seed=0):
    """A tone with noise, loud enough for every codec."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples)[:, None] / (20 + np.arange(channels))
    sound = 0.4 * np.sin(t) + 0.1 * rng.standard_normal((samples, channels))
    return sound.astype(np.float32)


def make(path, samples, rate, *options):
    """Encodes samples [samples, channels] to a file whose name says its container."""
    raw = ("-f", "f32le", "-ar", rate, "-ac", samples.shape[1], "-i", "-")
    run(*raw, *options, path, data=samples.astype("<f4").tobytes())
    return path


def pipe(path, samples, rate, form, *options):
    """Encodes samples to a pipe, where nobody can go back to write a length."""
    raw = ("-f", "f32le", "-ar", rate, "-ac", samples.shape[1], "-i", "-")
    data = samples.astype("<f4").tobytes()
    path.write_bytes(run(*raw, *options, "-f", form, "pipe:1", data=data))
    return path


def decode(path, channels):
    """Returns all samples of a file, averaged over its channels."""
    data = run("-i", path, "-map", "0:a:0", "-f", "f32le", "-c:a", "pcm_f32le", "pipe:1")
    return np.frombuffer(data, "<f4").reshape(-1, channels).astype(float).mean(axis=1)
