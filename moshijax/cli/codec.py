"""Mimi at the command line: audio files to files of codes, and back.

    python -m moshijax.codec encode in.wav out.npz
    python -m moshijax.codec decode out.npz out.wav
    python -m moshijax.codec roundtrip in.m4a out.wav --codebooks 16 --stream
    ffmpeg ... | python -m moshijax.codec encode - out.npz

Audio may have any sample rate and number of channels, and any format that FFmpeg or libsndfile
reads, also the sound of a video; `-` is the standard input. Codes are an npz of `codes`
[codebooks, frames] and `sample_rate`. Memory does not grow with the length.
"""

import argparse
from collections.abc import Iterable, Sequence

import numpy as np

from moshijax.cli.audio import PUBLISHED, load, progress, warn
from moshijax.cli.terminal import complaining, make_parser
from moshijax.codec.chunks import CHUNK_FRAMES
from moshijax.codec.config import PRESETS, MimiConfig
from moshijax.data import codes as codes_files
from moshijax.data.audio import Recording
from moshijax.data.audio_writer import check_output, writing
from moshijax.live.mimi import decoder, encoder
from moshijax.system import libtpu
from moshijax.system.errors import UserError
from moshijax.system.files import check_distinct


def encode(args: argparse.Namespace) -> str:
    """Writes the codes of an audio file."""
    config, books = PRESETS[args.preset], count_codebooks(args)
    codes_files.check_output(args.output)
    check_distinct(args.output, args.input, args.mimi)
    recording = Recording(args.input, warn)
    mimi = load(args.mimi, config, books)
    feed = encoder(mimi, books, args.chunk)
    blocks = recording.read_blocks(config.sample_rate, args.chunk * config.frame_size)
    # An hour of frames is 1.4 MB as bytes, and 100 MB as one array a frame.
    frames = bytearray()
    for block in progress(blocks, recording.seconds, config.sample_rate):
        frames += feed(block).T.astype(np.int32).tobytes()
    whole = np.frombuffer(frames, np.int32).reshape(-1, books).T
    codes_files.write_codes(args.output, whole, config.sample_rate)
    return f"{args.output}: {whole.shape[0]} codebooks, {whole.shape[1]} frames"


def decode(args: argparse.Namespace) -> str:
    """Writes the audio of a file of codes."""
    config = PRESETS[args.preset]
    codes = codes_files.read_codes(
        args.input,
        sample_rate=config.sample_rate,
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
    )
    check_output(args.output)
    check_distinct(args.output, args.input, args.mimi)
    feed = decoder(load(args.mimi, config, codes.shape[0]), args.chunk)
    chunks = (codes[:, t : t + args.chunk] for t in range(0, codes.shape[1], args.chunk))
    seconds = codes.shape[1] / config.frame_rate
    return write(args.output, (feed(chunk) for chunk in chunks), seconds, config)


def roundtrip(args: argparse.Namespace) -> str:
    """Encodes and decodes an audio file; the length stays, the sample rate is the model's."""
    config, books = PRESETS[args.preset], count_codebooks(args)
    check_output(args.output)
    check_distinct(args.output, args.input, args.mimi)
    recording = Recording(args.input, warn)
    mimi = load(args.mimi, config, books)
    to_codes, to_audio = encoder(mimi, books, args.chunk), decoder(mimi, args.chunk)
    blocks = recording.read_blocks(config.sample_rate, args.chunk * config.frame_size)
    sound = (to_audio(to_codes(block))[: len(block)] for block in blocks)
    return write(args.output, sound, recording.seconds, config)


def count_codebooks(args: argparse.Namespace) -> int:
    """Returns the codebooks asked for, or as many as Moshi hears (Moshi, section 3.3)."""
    most = PRESETS[args.preset].num_codebooks
    if args.codebooks is None:
        return min(8, most)
    if not 1 <= args.codebooks <= most:
        raise UserError(
            f"--codebooks {args.codebooks}: the preset {args.preset} has 1 to {most} codebooks"
        )
    return args.codebooks


def write(path: str, sound: Iterable[np.ndarray], seconds: float | None, config: MimiConfig) -> str:
    """Writes audio as it comes."""
    samples = 0
    with writing(path, config.sample_rate) as append:
        for block in progress(sound, seconds, config.sample_rate):
            append(block)
            samples += len(block)
    return f"{path}: {samples / config.sample_rate:.2f} s at {config.sample_rate} Hz"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = make_parser("python -m moshijax.codec", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, source, target in (
        (encode, "audio file, or - for the standard input,", "npz of codes"),
        (decode, "npz of codes", "wav, flac, ogg or mp3 file"),
        (roundtrip, "audio file, or - for the standard input,", "wav, flac, ogg or mp3 file"),
    ):
        text = (run.__doc__ or "").split("\n")[0]
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("input", metavar="IN", help=f"{source} to read")
        command.add_argument("output", metavar="OUT", help=f"{target} to write")
        command.add_argument(
            "--mimi",
            default=PUBLISHED,
            metavar="FILE",
            help="safetensors of the weights: a path, a name hf://owner/repository/file, or "
            "`random` to try without (default: the published ones, %(default)s)",
        )
        command.add_argument(
            "--preset", choices=PRESETS, default="mimi", help="size of the model (default: mimi)"
        )
        command.add_argument(
            "--stream",
            action="store_const",
            dest="chunk",
            const=1,
            default=CHUNK_FRAMES,
            help=f"a frame at a time, as a live stream would, instead of {CHUNK_FRAMES}: slower, "
            "with the same codes",
        )
        if run is not decode:
            command.add_argument(
                "--codebooks", type=int, metavar="K", help="1 to 32 (default: 8); each is 138 bit/s"
            )
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; what is wrong with its input is one sentence."""
    args = parser().parse_args(argv)
    libtpu.hush()
    with complaining("moshijax.codec"):
        print(args.run(args))
