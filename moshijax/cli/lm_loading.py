"""What the command line opens: configuration, tokenizer, weights, conditions."""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import sentencepiece
from flax import nnx
from jaxtyping import Array

from moshijax.convert.hub import locate
from moshijax.convert.lm import load_lm
from moshijax.convert.lm.beside import AUDIO, TEXT, read_config, read_sampling
from moshijax.convert.weights import find_beside
from moshijax.live.session import Session
from moshijax.lm.conditioning import Values, read_values
from moshijax.lm.config import MoshiConfig
from moshijax.lm.generate import Guidance, Settings
from moshijax.lm.moshi import Moshi, cast, read_end_as_padding
from moshijax.lm.presets import PRESETS
from moshijax.lm.sampling import Sampling
from moshijax.nn.lora import fuse_lora
from moshijax.nn.quant import bits_of, quantize
from moshijax.nn.transformer import unstack
from moshijax.system.errors import UserError


def find_config(args: argparse.Namespace, codebook_size: int | None) -> MoshiConfig:
    """The configuration: of `--preset`, else of a config.json beside the file, else Moshi's.

    Raises:
        UserError: there are no weights at a path, or the codec is another than the model's.
    """
    if args.lm == "random":
        config = PRESETS[args.preset or ("helium_7b_tiny" if args.text_only else "moshi_7b_tiny")]
        size = config.codebook_size if codebook_size is None else codebook_size
        vocab = config.text_vocab
        if args.tokenizer is not None:
            vocab = load_tokenizer(args.tokenizer, None).vocab_size()
        return dataclasses.replace(config, codebook_size=size, text_vocab=vocab)
    if not args.lm.startswith("hf:") and not locate(args.lm).exists():
        raise UserError(f"--lm {args.lm}: there is no such file or folder; check the path")
    if args.preset is not None:
        config = PRESETS[args.preset]
    else:
        file = find_beside(args.lm, "config.json")
        config = read_config(file) if file is not None else PRESETS["moshi_7b"]
    if codebook_size is not None and config.codebook_size != codebook_size:
        raise UserError(
            f"--mimi-preset {args.mimi_preset} has codebooks of {codebook_size} entries, the "
            f"model's have {config.codebook_size}: take the codec that it was trained with"
        )
    return config


def load_tokenizer(path: str, config: MoshiConfig | None) -> sentencepiece.SentencePieceProcessor:
    """Loads a SentencePiece model.

    Raises:
        UserError: no such model, or one of another size than the language model's text.
    """
    file = locate(path)
    if not file.is_file():
        raise UserError(f"--tokenizer {path}: there is no such file; check the path")
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise UserError(f"--tokenizer {path} is no SentencePiece model: fetch it anew") from error
    if config is not None and tokenizer.vocab_size() != config.text_vocab:
        raise UserError(
            f"--tokenizer {path} has {tokenizer.vocab_size()} pieces, the model's text has "
            f"{config.text_vocab}: take the tokenizer that it was trained with"
        )
    return tokenizer


def find_sampling(args: argparse.Namespace) -> tuple[Sampling, Sampling]:
    """How text and codes are drawn: as given, else as a config.json tells, else as by Moshi."""
    file = None
    if args.lm != "random" and args.preset is None:
        file = find_beside(args.lm, "config.json")
    text, audio = (TEXT, AUDIO) if file is None else read_sampling(file)

    def chosen(usual: Sampling, temperature: float | None, top_k: int | None) -> Sampling:
        return Sampling(
            usual.temperature if temperature is None else temperature,
            usual.top_k if top_k is None else top_k,
            args.top_p,
        )

    return (
        chosen(text, args.text_temperature, args.text_top_k),
        chosen(audio, args.audio_temperature, args.audio_top_k),
    )


def open_session(args: argparse.Namespace, config: MoshiConfig) -> Session:
    """Loads or draws the model and starts a session."""
    text, audio = find_sampling(args)
    model = open_model(args, config)
    # Guidance needs a second prediction: without conditions, that of the model blind to its text.
    blind = not config.conditions
    guidance = None if args.guidance is None else Guidance(args.guidance, no_text=blind)
    settings = Settings(
        text=text,
        audio=audio,
        guidance=guidance,
        padding_bonus=args.padding_bonus,
        repetition_penalty=args.repetition_penalty,
    )
    return Session(model, settings, conditions=read_conditions(args, config), seed=args.seed)


def open_model(args: argparse.Namespace, config: MoshiConfig) -> Moshi:
    """Loads or draws the model, in the type and in the bits asked for, with its adapters fused.

    Raises:
        UserError: its kernels are of other bits already.
    """
    dtype = jnp.dtype(args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"))
    if args.lm == "random":

        def draw(key: Array) -> Moshi:
            return cast(Moshi(config, rngs=nnx.Rngs(key)), dtype)

        model = unstack(jax.jit(draw)(jax.random.key(args.seed)))
    else:
        model = load_lm(args.lm, config, dtype=dtype, inference=True)
    if config.ignore_text_end:
        model = read_end_as_padding(model)
    had = bits_of(model)
    if args.bits is not None and had - {args.bits}:
        raise UserError(
            f"--bits {args.bits}: --lm {args.lm} is of {min(had)} bits already: leave --bits out."
        )
    if not had:
        model = fuse_lora(model)
    return model if args.bits is None or had else quantize(model, args.bits)


def read_conditions(args: argparse.Namespace, config: MoshiConfig) -> dict[str, Values]:
    """The values of the conditions, one row; with guidance a second, to be guided away from."""
    wanted = {"description": "very_good"} | dict(pair.split("=", 1) for pair in args.condition)
    shunned = {"description": "very_bad"} | dict(pair.split("=", 1) for pair in args.shun)
    rows = [wanted] if args.guidance is None else [wanted, shunned]
    return {c.name: read_values(c, [row.get(c.name) for row in rows]) for c in config.conditions}
