"""Moshi's own PyTorch language model, built from a file and a configuration of ours."""

import os


os.environ["NO_TORCH_COMPILE"] = "1"

import numpy as np
import torch
from moshi.models import loaders
from moshi.models.lm import LMGen

from moshijax.convert.lm.config import to_moshi


NOT_OF_THE_MODEL = ("model_type", "stt_config", "tts_config")


def load(path, config, **overrides):
    """Builds the model in float32."""
    fields = {k: v for k, v in to_moshi(config).items() if k not in NOT_OF_THE_MODEL}
    return loaders.get_moshi_lm(
        None if path is None else str(path),
        lm_kwargs=fields | overrides,
        device="cpu",
        dtype=torch.float32,
    )


def conditions(model, rows):
    """Prepared conditions; `rows` has a dict for each row: text values and arrays [S, C]."""
    from moshi.conditioners import ConditionAttributes, TensorCondition

    if model.condition_provider is None:
        return None
    attributes = [
        ConditionAttributes(
            text={k: v for k, v in row.items() if not isinstance(v, np.ndarray)},
            tensor={
                k: TensorCondition.from_tensor(torch.from_numpy(v)[None])
                for k, v in row.items()
                if isinstance(v, np.ndarray)
            },
        )
        for row in rows
    ]
    with torch.no_grad():
        return model.condition_provider.prepare_and_provide(attributes)


def logits(model, codes, rows=None):
    """Text logits and mask; audio logits and mask where there is a depth transformer."""
    fused = None if rows is None else conditions(model, rows)
    codes = torch.from_numpy(codes).long()
    with torch.no_grad():
        if model.depformer is not None:
            out = model(codes, fused)
            return (
                out.text_logits[:, 0].numpy(),
                out.text_mask[:, 0].numpy(),
                out.logits.numpy(),
                out.mask.numpy(),
            )
        initial = model._get_initial_token().expand(codes.shape[0], -1, -1)
        read = torch.cat([initial, codes], dim=2)[:, :, :-1]
        _, text = model.forward_text(read)
        return text[:, 0].numpy(), (codes[:, 0] != -1).numpy(), None, None


def roll_out(model, user_codes, resets, active, rows=None, on_text=None, **options):
    """Greedy codes [B, K_own, T] of the user's [B, K_user, T]; some rows restart or sit out."""
    batch, _, length = user_codes.shape
    prepared = None if rows is None else conditions(model, rows)
    generator = LMGen(
        model,
        use_sampling=False,
        support_out_of_sync=True,
        condition_tensors=prepared,
        on_text_hook=on_text,
        **options,
    )
    frames, pauses = [], []
    with torch.no_grad(), generator.streaming(batch):
        for t in range(length):
            if resets[t].any():
                generator.reset_streaming(reset_mask=torch.from_numpy(resets[t]))
            generator.set_exec_mask(torch.from_numpy(active[t]))
            # Past the first frames the counter that `reset` zeroes would withhold every row.
            generator._streaming_state.offset_cpu = 1000
            out, heads = generator.step_with_extra_heads(
                torch.from_numpy(user_codes[:, :, t : t + 1]).long()
            )
            frames.append(out[:, :, 0].numpy())
            pauses.append([head[:, 0].numpy() for head in heads])
    return np.stack(frames, 2), np.array(pauses)
