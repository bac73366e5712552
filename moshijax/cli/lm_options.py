"""Refuses options that are out of range, or that have no effect beside the others."""

import argparse
import math
from collections.abc import Sequence

from moshijax.lm.config import MoshiConfig
from moshijax.system.errors import UserError


MAX_SEED = 2**32 - 1  # JAX's keys drop the bits above.
SOUND = ("mimi", "mimi_preset", "audio_temperature", "audio_top_k")


def flag(name: str) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}"


def check(args: argparse.Namespace, given: Sequence[str]) -> None:
    """Checks what needs no model; `given` are the options that are not at their defaults.

    Raises:
        UserError: an option cannot be, or is one of the other mode.
    """
    _check_mode(args, given)
    _check_text(args)
    _check_numbers(args)


def _check_mode(args: argparse.Namespace, given: Sequence[str]) -> None:
    if args.text_only and args.input is not None:
        raise UserError(
            f"{args.input!r} is surplus: with --text-only nobody is heard; leave out IN and OUT"
        )
    if not args.text_only and args.input is None:
        raise UserError("IN is missing: name the recording of the user, or take --text-only")
    other = (
        (*SOUND, "guidance", "condition", "shun") if args.text_only else ("prompt", "num_pieces")
    )
    for name in other:
        if name in given:
            where = "with" if args.text_only else "without"
            raise UserError(f"{flag(name)} means nothing {where} --text-only: leave it out")
    if args.shun and args.guidance is None:
        raise UserError("--shun means nothing without --guidance: add it, or leave this out")


def _check_text(args: argparse.Namespace) -> None:
    texts = [("--prompt", args.prompt)]
    for name in ("condition", "shun"):
        for pair in getattr(args, name):
            if "=" not in pair:
                raise UserError(f"{flag(name)}: {pair!r} is not NAME=VALUE")
            texts.append((flag(name), pair))
    for name, text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # Python decodes a byte of an argument that is not UTF-8 as a lone surrogate.
            byte = ord(text[error.start]) & 0xFF
            raise UserError(
                f"{name}: byte 0x{byte:02X} at place {error.start + 1} is not UTF-8; "
                "convert the text, for example by iconv -f latin1 -t utf-8"
            ) from error


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("text_temperature", "audio_temperature", "guidance"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{flag(name)} {value} is no finite number from 0 on")
    for name in ("text_top_k", "audio_top_k", "num_pieces"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise UserError(f"{flag(name)} {value} is below 0")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p} is not above 0 and at most 1")
    if not math.isfinite(args.padding_bonus):
        raise UserError(f"--padding-bonus {args.padding_bonus} is no finite number")
    if not 0 < args.repetition_penalty < math.inf:
        raise UserError(f"--repetition-penalty {args.repetition_penalty} is not finite and above 0")
    if not 0 <= args.seed <= MAX_SEED:
        raise UserError(f"--seed {args.seed} is not from 0 to {MAX_SEED}")


def check_model(args: argparse.Namespace, given: Sequence[str], config: MoshiConfig) -> None:
    """Checks what a model must have for the options that are given.

    Raises:
        UserError: it has not.
    """
    names = sorted(condition.name for condition in config.conditions)
    for option in ("condition", "shun"):
        for name in (pair.split("=", 1)[0] for pair in getattr(args, option)):
            if name not in names:
                has = f"has {', '.join(names)}" if names else "has none"
                raise UserError(f"{flag(option)}: {name} is unknown; the model {has}")
    if config.num_generated or args.text_only:
        return
    if args.output is not None:
        raise UserError(
            f"{args.output!r} is surplus: --lm {args.lm} writes no sound; leave out OUT"
        )
    for name in ("guidance", "audio_temperature", "audio_top_k"):
        if name in given:
            raise UserError(
                f"{flag(name)} means nothing for --lm {args.lm}, which says nothing: leave it out"
            )
