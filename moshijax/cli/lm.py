r"""Speaks with a recorded user, or goes on with a text.

    python -m moshijax.lm.run --lm model.safetensors --mimi mimi.safetensors \
        --tokenizer tokenizer.model user.wav dialogue.wav
    python -m moshijax.lm.run --lm random --mimi random --mimi-preset small user.wav dialogue.wav
    python -m moshijax.lm.run --lm helium.safetensors --preset helium_2b \
        --tokenizer tokenizer.model --text-only --prompt "The sea"

The written file has two channels: what the model says, a frame after it was decided, and the user.
Text comes on the terminal as it is said; without a tokenizer pieces are numbers. A speech-to-text
model writes no sound.
"""

import argparse
import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from moshijax.cli import audio, lm_options
from moshijax.cli.audio import PUBLISHED, load, warn
from moshijax.cli.lm_loading import find_config, load_tokenizer, open_session
from moshijax.cli.terminal import RARE, complaining, make_parser
from moshijax.codec.config import PRESETS as MIMI_PRESETS
from moshijax.convert.lm.beside import AUDIO, TEXT
from moshijax.data.audio import Recording, cut
from moshijax.data.audio_writer import check_output, writing
from moshijax.live.mimi import decoder, encoder
from moshijax.live.text import TextStream
from moshijax.lm.config import MoshiConfig
from moshijax.lm.presets import PRESETS
from moshijax.system import libtpu
from moshijax.system.errors import UserError
from moshijax.system.files import check_distinct
from moshijax.system.stdio import unread


END = 2  # the piece of SentencePiece's that ends a text
LIMIT = 60.0  # seconds that a translation may go on after its user


def converse(args: argparse.Namespace) -> str:
    """Feeds a recording frame by frame; writes both sides."""
    if args.output is not None:
        check_distinct(args.output, args.input, args.lm, args.mimi, args.tokenizer)
    recording = Recording(args.input, warn)
    mimi_config = MIMI_PRESETS[args.mimi_preset]
    config = find_config(args, mimi_config.codebook_size)
    speaker = Speaker(args, config)
    if not config.num_user_codebooks:
        raise UserError(
            f"--lm {args.lm} hears nobody: take a model that hears, or --text-only for a text model"
        )
    lm_options.check_model(args, changed(args), config)
    speaks = config.num_generated > 0
    if speaks and args.output is None:
        raise UserError("OUT is missing: name the file for both sides of the dialogue")
    if speaks:
        check_output(args.output)
    books = max(config.num_user_codebooks, config.num_generated)
    if args.mimi == "random":
        mimi_config = dataclasses.replace(mimi_config, num_codebooks=books)
    if books > mimi_config.num_codebooks:
        raise UserError(
            f"--mimi-preset {args.mimi_preset} has {mimi_config.num_codebooks} codebooks, the "
            f"model has {books}: take another preset"
        )
    mimi = load(args.mimi, mimi_config, books)
    encode, decode = encoder(mimi, config.num_user_codebooks, 1), decoder(mimi, 1)
    session = open_session(args, config)
    frame, rate = mimi_config.frame_size, mimi_config.sample_rate
    frames = user_frames(recording, config, rate, frame)
    start, count, said = time.monotonic(), 0, np.zeros(frame, np.float32)

    def sides() -> Iterator[np.ndarray]:
        nonlocal count, said
        for block, silent in frames:
            # The end of the user's speech is a code of its own, beyond the codebook: there is no
            # sound for it, so the codec is not fed.
            end = np.full(config.num_user_codebooks, config.codebook_size, np.int32)
            output = session.feed(end if silent == "end" else encode(block)[:, 0])
            yield np.stack([said, block], axis=1)
            count, said = count + 1, np.zeros(frame, np.float32)
            if output.text is not None:
                speaker.say(output.text)
            if output.codes is not None:
                said = decode(output.codes[:, None])
            # A model that writes text alone stops when nobody reads it.
            if (output.text == END and silent) or (not speaks and unread()):
                break
        yield np.stack([said, np.zeros_like(said)], axis=1)

    if speaks:
        with writing(args.output, rate, channels=2) as append:
            for block in progress(sides(), recording.seconds, rate):
                append(block)
    else:
        for _ in progress(sides(), recording.seconds, rate):
            pass
    speaker.end()
    took = time.monotonic() - start
    where = f"{args.output}: " if speaks else ""
    return f"{where}{count} frames, {count / mimi_config.frame_rate:.2f} s, in {took:.2f} s"


def user_frames(
    recording: Recording, config: MoshiConfig, rate: int, frame: int
) -> Iterator[tuple[np.ndarray, str]]:
    """Yields frames of sound, and a kind: "" for the user, "end" and "after" for a silence.

    Speech-to-text has silence before and after (`silence_prefix`, `frame_shift` and a second), to
    the sample, as it was trained; a translator is told the end, then has silence until it ends
    too; the others hear `max_delay` frames more, so that all that the user said is answered.
    """
    silence = np.zeros(frame, np.float32)
    sound: Iterable[np.ndarray] = recording.read_blocks(rate, frame)
    if config.num_generated == 0:
        seconds = (config.silence_prefix, config.frame_shift + 1.0)
        before, after = (np.zeros(int(s * rate), np.float32) for s in seconds)
        sound = cut(itertools.chain([before], sound, [after]), frame)
    for block in sound:
        yield np.pad(block, (0, frame - len(block))), ""
    if config.ignore_text_end:
        yield silence, "end"
        for _ in range(round(LIMIT * rate / frame)):
            yield silence, "after"
        return
    for _ in range(config.max_delay):
        yield silence, ""


def write_text(args: argparse.Namespace) -> str:
    """Goes on with a text."""
    config = find_config(args, None)
    if config.num_codebooks:
        raise UserError(
            f"--text-only: --lm {args.lm} has {config.num_codebooks} audio streams; take a text "
            "model such as --preset helium_2b"
        )
    speaker = Speaker(args, config)
    # A text begins with the model's initial code, which is not a piece of the tokenizer.
    pieces = read_prompt(args, config)
    session = open_session(args, config)
    nothing = np.zeros(0, np.int32)
    start, number = time.monotonic(), 0
    for piece in pieces:
        session.feed(nothing, piece)
        speaker.say(piece)
    for _ in range(args.num_pieces):
        piece = session.feed(nothing).text
        number += 1
        if piece is None or piece == END or unread():
            break
        speaker.say(piece)
    speaker.end()
    return f"{number} pieces in {time.monotonic() - start:.2f} s"


def read_prompt(args: argparse.Namespace, config: MoshiConfig) -> list[int]:
    """The pieces of the prompt: text with a tokenizer, numbers without."""
    if args.tokenizer is not None:
        return list(load_tokenizer(args.tokenizer, config).encode(args.prompt))
    words = args.prompt.split()
    number = re.compile("[0-9]{1,9}")  # Python's int takes neither every digit nor any number.
    if not all(number.fullmatch(word) and int(word) < config.text_vocab for word in words):
        raise UserError(
            f"--prompt {args.prompt!r}: without --tokenizer give numbers of pieces below "
            f"{config.text_vocab}"
        )
    return [int(word) for word in words]


class Speaker:
    """Prints pieces as they come: text with a tokenizer, numbers without."""

    def __init__(self, args: argparse.Namespace, config: MoshiConfig):
        self.silent = (config.text_padding, config.text_padding_end)
        given = args.tokenizer is not None
        self.text = TextStream(load_tokenizer(args.tokenizer, config)) if given else None

    def say(self, piece: int) -> None:
        """Prints the characters that a piece completes."""
        if piece not in self.silent and piece >= 0:
            print(self.text.feed(piece) if self.text else f"<{piece}>", end="", flush=True)

    def end(self) -> None:
        """Prints what was held back."""
        print(self.text.end() if self.text else "", flush=True)


def progress(
    blocks: Iterator[np.ndarray], seconds: float | None, rate: int
) -> Iterator[np.ndarray]:
    """Shows a bar, unless the text goes to the same terminal."""
    return blocks if sys.stdout.isatty() else audio.progress(blocks, seconds, rate)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = make_parser("python -m moshijax.lm.run", __doc__)
    add = top.add_argument
    rare = top.add_argument_group(RARE).add_argument
    add("input", nargs="?", metavar="IN", help="recording of the user, or - for the standard input")
    add("output", nargs="?", metavar="OUT", help="wav, flac or ogg file of both sides")
    add("--lm", required=True, metavar="FILE", help="weights: a path, hf://..., or `random`")
    add(
        "--preset",
        choices=PRESETS,
        metavar="NAME",
        help="structure (else config.json's, else Moshi's)",
    )
    add("--mimi", default=PUBLISHED, metavar="FILE", help="weights of the codec, or `random`")
    rare("--mimi-preset", choices=MIMI_PRESETS, default="mimi", help="size of the codec")
    add("--tokenizer", metavar="FILE", help="SentencePiece model of the text")
    add("--text-only", action="store_true", help="go on with --prompt by a text model")
    add(
        "--prompt", metavar="TEXT", default="", help="text (without a tokenizer: numbers of pieces)"
    )
    add(
        "--num-pieces",
        metavar="N",
        type=int,
        default=100,
        help="most pieces to write (default: 100)",
    )
    for stream, usual in (("text", TEXT), ("audio", AUDIO)):
        told = f"(default: config.json's, else {usual.temperature})"
        rare(f"--{stream}-temperature", metavar="T", type=float, help=f"0: the likeliest {told}")
        told = f"(default: config.json's, else {usual.top_k})"
        rare(f"--{stream}-top-k", metavar="K", type=int, help=f"0: all {told}")
    rare(
        "--top-p", metavar="P", type=float, default=1.0, help="share of the likeliest to draw from"
    )
    rare(
        "--padding-bonus", metavar="X", type=float, default=0.0, help="above 0 the model says less"
    )
    rare("--repetition-penalty", metavar="X", type=float, default=1.0, help="1: none")
    add("--guidance", type=float, metavar="SCALE", help="classifier-free guidance, such as 3")
    rare("--condition", action="append", default=[], metavar="NAME=VALUE", help="of the model")
    rare("--shun", action="append", default=[], metavar="NAME=VALUE", help="guided away from")
    add("--bits", type=int, choices=(4, 8), help="weights in so many bits")
    rare("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU")
    add("--seed", metavar="N", type=int, default=0, help="of all that is drawn (default: 0)")
    return top


def changed(args: argparse.Namespace) -> list[str]:
    """The options that are not at their defaults."""
    top = parser()
    return [name for name, value in vars(args).items() if value != top.get_default(name)]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what is wrong with its input is one sentence."""
    # Intermixed: there may be options between IN and OUT.
    args = parser().parse_intermixed_args(argv)
    libtpu.hush()
    with complaining("moshijax.lm.run"):
        lm_options.check(args, changed(args))
        print(write_text(args) if args.text_only else converse(args))
