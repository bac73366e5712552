"""What every experiment's config has: switches, the loop's settings, optimizers."""

from ml_collections import ConfigDict, config_dict

from moshijax.system.errors import UserError


def switches(arg: str | None, **known: object) -> ConfigDict:
    """Reads `tiny,arm=fixed`: a bare name is True, a value has its default's type.

    Raises:
        UserError: a switch that the file does not have, or a value of another type.
    """
    result = ConfigDict(known)
    for part in (arg or "").split(","):
        name, _, value = part.strip().partition("=")
        if not name:
            continue
        if name not in known:
            raise UserError(f"unknown switch {name!r}, this file has {', '.join(sorted(known))}.")
        kind = type(known[name])
        if kind is bool and value not in ("", "true", "false"):
            raise UserError(f"switch {name}: {value!r} is neither true nor false.")
        try:
            result[name] = value != "false" if kind is bool else kind(value)
        except ValueError as error:
            what = "whole number" if kind is int else "number"
            raise UserError(f"switch {name}: {value!r} is no {what}.") from error
    return result


def settings(num_steps: int, batch_size: int) -> dict[str, object]:
    """What the training loop reads, at values that fit most runs.

    Evaluation sets named in `final_sets` are evaluated after the last step only. `vmem_kib` is the
    share of a TPU's vector memory that one operation may fill, in KiB (0: the chip's default):
    more is faster and takes longer to compile. `average` is the decay of a moving average of the
    parameters, such as 0.9999; where there is one, it is what is evaluated and exported.
    """
    return dict(
        seed=0,
        num_steps=num_steps,
        batch_size=batch_size,
        accumulate=1,
        mesh=dict(data=-1, fsdp=1, tensor=1),
        log_every=50,
        eval_every=1000,
        final_sets=(),
        checkpoint_every=1000,
        keep_checkpoints=3,
        read_ahead=4,
        vmem_kib=0,
        max_rollbacks=3,
        profile=text(None),
        change=(),
        average=config_dict.placeholder(float),
    )


def steps(epochs: float, images: int, batch_size: int) -> int:
    """Updates in so many passes over a set of so many images."""
    return round(epochs * images / batch_size)


def warmup(published: int, num_steps: int) -> int:
    """The published warm-up, but never more than a quarter of the run.

    The fixed 1,500 steps would be three quarters of 1,000 epochs of Flowers.
    """
    return min(published, num_steps // 4)


def adam(learning_rate: float, weight_decay: float, warmup_steps: int) -> dict[str, object]:
    """The optimizer of FunMatch (Beyer et al. 2022, section 3 and appendix).

    Weight decay follows the schedule but is not multiplied by `learning_rate`, and is for kernels
    alone; the first moment is kept in bfloat16; gradients are clipped at a global norm of 1.
    """
    return dict(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule="cosine",
        warmup_steps=warmup_steps,
        clip_norm=1.0,
        options=dict(adam=dict(mu_dtype="bfloat16")),
        kinds=((r".*", "adam"),),
        decay=((r"kernel", 1.0), (r"scale|bias", 0.0)),
        rates=((r".*", 1.0),),
        frozen=((r".*", False),),
    )


def adamw(
    learning_rate: float,
    warmup_steps: int,
    *,
    schedule: str = "cosine",
    rates: tuple[tuple[str, float], ...] = ((r".*", 1.0),),
) -> dict[str, object]:
    """The optimizer of language models: AdamW (0.9, 0.95), decay 0.1 of every learning rate.

    Betas and decay are Moshi's (section 4.3) and Helium's (section 4.2); the clip is
    moshi-finetune's, since the paper names none. `rates` multiply the learning rate of the
    parameters whose names match.
    """
    return dict(
        learning_rate=learning_rate,
        weight_decay=0.1 * learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        clip_norm=1.0,
        options=dict(adam=dict(b1=0.9, b2=0.95)),
        kinds=((r".*", "adam"),),
        # AdamW multiplies the decay by each parameter's own learning rate.
        decay=rates,
        rates=rates,
        frozen=((r".*", False),),
    )


def text(value: str | None) -> object:
    """A text that may be absent and that the command line can still set."""
    return config_dict.placeholder(str) if value is None else value
