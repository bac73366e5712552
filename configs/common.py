"""What experiment files share: switches after the colon, and the usual settings."""

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


def loop_settings(num_steps: int, batch_size: int) -> dict[str, object]:
    """What the training loop reads, at sizes that fit most runs.

    Evaluation sets named in `final_sets` are left for the last step. `vmem_kib` is what of a TPU's
    vector memory one operation may fill (0: the chip's usual): more is faster and compiles longer.
    `average` is what an average of the parameters keeps of itself each step, such as 0.9999; it is
    what is evaluated and exported.
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


def adam(learning_rate: float, weight_decay: float, warmup_steps: int) -> dict[str, object]:
    """The optimizer of the published runs (Beyer et al. 2022, section 3 and appendix).

    Weight decay is not multiplied by the learning rate and spares everything but kernels;
    the first moment is kept in bfloat16; gradients are clipped at a global norm of 1.
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


def text(value: str | None) -> object:
    """A text that may be absent and that the command line can still set."""
    return config_dict.placeholder(str) if value is None else value


def model(preset: str, resolution: int, num_classes: int, load: str | None) -> dict[str, object]:
    """A model of an experiment; `load` is an npz file or a work directory."""
    return dict(
        preset=preset,
        overrides=dict(num_classes=num_classes, dtype="float32", remat=False),
        resolution=resolution,
        load=text(load),
        load_head=True,
    )


def steps(epochs: float, images: int, batch_size: int) -> int:
    """Updates in so many passes over the images."""
    return round(epochs * images / batch_size)


def warmup(published: int, num_steps: int) -> int:
    """The published warm-up, but never more than a quarter of the run.

    The fixed 1,500 steps would be three quarters of 1,000 epochs of Flowers.
    """
    return min(published, num_steps // 4)


def images(name: str, train: str) -> dict[str, object]:
    """Training images: a TFDS name, `folder:PATH` or the embedded set, and a split.

    Mild crops are cut from images `margin` times as large; inception crops are TensorFlow's
    ("tf") or PyTorch's ("rrc").
    """
    return dict(
        name=name,
        train=train,
        data_dir=text(None),
        channels=config_dict.placeholder(int),
        on_corrupt="skip",
        margin=160 / 128,
        inception="tf",
        threads=2,
    )


def evaluation(
    name: str, sets: dict[str, str], batch_size: int, margin: float, crop: str = "cc"
) -> dict[str, object]:
    """Evaluation sets by name; `margin` is the resized side over the crop's."""
    return dict(name=name, sets=sets, batch_size=batch_size, margin=margin, crop=crop)


def loss(distance: str, temperature: float) -> dict[str, object]:
    """What is minimised: a distance to the teachers, or "labels"."""
    return dict(
        distance=distance,
        temperature=temperature,
        options={},
        combine="logits",
        label_smoothing=0.0,
    )


def live_teachers(config: ConfigDict) -> None:
    """Teachers see every step's view, unless plans and logits are cached.

    With a `folder`, `cache` keeps that many plans there; `fixed_draws` is how many views a fixed
    teacher's targets are averaged over (0: as many as its design has).
    """
    config.cache = dict(folder=text(None), num_plans=1000)
    config.fixed_draws = 0


def adamw(
    learning_rate: float,
    warmup_steps: int,
    *,
    schedule: str = "cosine",
    rates: tuple[tuple[str, float], ...] = ((r".*", 1.0),),
) -> dict[str, object]:
    """The optimizer of language models: AdamW (0.9, 0.95), decay 0.1 of every learning rate.

    Betas and decay are Moshi's (section 4.3) and Helium's (section 4.2); the clip is
    moshi-finetune's, since the paper names none.
    """
    return dict(
        learning_rate=learning_rate,
        weight_decay=0.1 * learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        clip_norm=1.0,
        options=dict(adam=dict(b1=0.9, b2=0.95)),
        kinds=((r".*", "adam"),),
        # What a learning rate is multiplied by, its decay is too.
        decay=rates,
        rates=rates,
        frozen=((r".*", False),),
    )


def language_model(preset: str, **overrides: object) -> dict[str, object]:
    """A language model; `load` is a weights file of `load_preset`, or a work directory."""
    usual = dict(remat="attention", kernel="fused")
    return dict(
        preset=preset,
        overrides=usual | overrides,
        load=text(None),
        load_preset=text(None),
    )


def lm_loss(form: str = "paper", semantic_weight: float = 100.0) -> dict[str, object]:
    """Weights of text padding and the semantic codebook (Moshi, section 4.3)."""
    return dict(form=form, padding_weight=0.5, semantic_weight=semantic_weight, chunk_frames=512)


def tiny_language_model(config: ConfigDict, preset: str) -> ConfigDict:
    """The same experiment with a small model on made codes: a minute on a CPU."""
    config.num_steps, config.batch_size = 40, 8
    config.log_every, config.eval_every, config.checkpoint_every = 10, 20, 20
    config.compute_dtype = "float32"
    config.model.preset = preset
    config.data.update(train="made:256", length=32)
    config.evaluation.update(sets=dict(test="made:16"), batch_size=8)
    config.loss.chunk_frames = 16
    config.optimizers.model.warmup_steps = 5
    config.optimizers.model.learning_rate, config.optimizers.model.weight_decay = 1e-2, 1e-3
    return config
