"""What experiments on speech and its text share: language models and their loss."""

from ml_collections import ConfigDict

from configs import loop


def language_model(preset: str, **overrides: object) -> dict[str, object]:
    """A language model that begins at random, or at what `load` names.

    That is a file of weights, of the preset `load_preset` (None: of `preset`), or a work directory.
    """
    usual = dict(remat="attention", kernel="fused")
    return dict(
        preset=preset,
        overrides=usual | overrides,
        load=loop.text(None),
        load_preset=loop.text(None),
    )


def lm_loss(form: str = "paper", semantic_weight: float = 100.0) -> dict[str, object]:
    """The weights of text padding and of the semantic codebook (Moshi, section 4.3)."""
    return dict(form=form, padding_weight=0.5, semantic_weight=semantic_weight, chunk_frames=512)


def tiny_language_model(config: ConfigDict, preset: str) -> ConfigDict:
    """The same experiment with a small model on generated codes: a minute on a CPU."""
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
