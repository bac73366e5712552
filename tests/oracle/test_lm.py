"""Language models against Moshi's own PyTorch code, for a small version of each preset."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.convert.lm import save_lm
from moshijax.lm import generate as live
from moshijax.lm.conditioning import Vectors, read_values
from moshijax.lm.config import UNGENERATED
from moshijax.lm.losses import LossConfig, lm_loss
from moshijax.lm.sampling import Sampling
from moshijax.nn.transformer import unstack
from tests.lm_models import NAMES, random_codes, random_model
from tests.oracle import torch_lm


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

LENGTH = 24  # more than the window of 16
FRAMES = 60
# Of one model also with XLA's full optimisation.
OPTIMISED = [
    pytest.param(name, marks=pytest.mark.optimised if name == "moshi_7b" else ()) for name in NAMES
]
GREEDY = live.Settings(text=Sampling(0.0, 1), audio=Sampling(0.0, 1))

logits = jax.jit(lambda model, codes, conditions: model.logits(codes, conditions))
loss = jax.jit(lm_loss, static_argnums=2)
prepare = jax.jit(lambda model, conditions: context_of(model, conditions))
step = jax.jit(live.step)


def context_of(model, conditions):
    prepared = model.prepare(conditions)
    return live.Context(prepared.added, model.sources(prepared))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    @functools.cache
    def write(name):
        return save_lm(random_model(name), tmp_path_factory.mktemp(name) / "model.safetensors")

    return write


def rows_of(config, batch, seed=0):
    """Conditions of each row, as Moshi's code takes them."""
    rng = np.random.default_rng(seed)
    values = {"description": ["very_good", None], "cfg": ["1.5", "3.0"], "control": ["ok", None]}

    def one(c, row):
        if c.num_values is None:
            return rng.standard_normal((5, c.dim)).astype(np.float32)
        return values[c.name][(row + seed) % 2]

    return [{c.name: one(c, row) for c in config.conditions} for row in range(batch)]


def conditions_of(config, rows):
    """The same conditions as ours takes them."""
    conditions = {}
    for c in config.conditions:
        column = [row[c.name] for row in rows]
        if c.num_values is None:
            vectors = jnp.stack([jnp.asarray(v) for v in column])
            conditions[c.name] = Vectors(vectors, jnp.ones(vectors.shape[:2], bool))
        else:
            conditions[c.name] = read_values(c, column)
    return conditions


@pytest.mark.parametrize("name", NAMES)
def test_training_logits_and_masks_are_those_of_pytorch(name, path):
    model = random_model(name)
    config = model.config
    codes = random_codes(config, 2, LENGTH)
    rows = rows_of(config, 2) if config.conditions else None
    text, text_mask, audio, mask = torch_lm.logits(torch_lm.load(path(name), config), codes, rows)
    ours = logits(model, jnp.asarray(codes), conditions_of(config, rows) if rows else {})
    np.testing.assert_array_equal(ours.text_mask, text_mask)
    np.testing.assert_allclose(ours.text[text_mask], text[text_mask], atol=1e-5)
    assert text[text_mask].std() > 0.3
    if audio is not None:
        np.testing.assert_array_equal(ours.audio_mask, mask)
        np.testing.assert_allclose(ours.audio[mask], audio[mask], atol=1e-5)
        assert audio[mask].std() > 0.3


@pytest.mark.parametrize("form", ["paper", "finetune"])
def test_losses_are_those_of_the_logits_of_pytorch(form, path):
    import torch

    model = random_model("moshi_7b")
    config = model.config
    codes = random_codes(config, 2, LENGTH)
    text, text_mask, audio, mask = (
        torch.from_numpy(a) for a in torch_lm.logits(torch_lm.load(path("moshi_7b"), config), codes)
    )
    targets = torch.from_numpy(codes).long()

    def entropy(logits, codes, mask):
        found = torch.nn.functional.cross_entropy(logits[mask], codes[mask], reduction="none")
        return torch.zeros(mask.shape).masked_scatter(mask, found)

    own = targets[:, 1 : 1 + config.num_generated]
    text_entropy = entropy(text, targets[:, 0], text_mask)
    light = targets[:, 0] == 3 if form == "paper" else (targets[:, 0] == 3) | (targets[:, 0] == 0)
    weight = torch.where(light, 0.5, 1.0) * text_mask
    factor = torch.tensor([100.0] + [1.0] * 7)[None, :, None]
    audio_entropy = entropy(audio, own, mask)
    if form == "paper":
        each = audio_entropy.sum((0, 2)) / mask.sum((0, 2))
        want = (text_entropy * weight).sum() / text_mask.sum() + (
            each * factor[0, :, 0]
        ).sum() / 107
    else:
        weights = factor * mask
        want = (text_entropy * weight).sum() / weight.sum()
        want += (audio_entropy * weights).sum() / weights.sum()
    for chunk in (5, LENGTH):
        ours, _ = loss(model, jnp.asarray(codes), LossConfig(form, 0.5, 100.0, chunk))
        np.testing.assert_allclose(ours, want.item(), rtol=1e-5)


def roll_out(model, user_codes, resets, active, settings, context, guided=False):
    state = live.init_state(model, user_codes.shape[0], guided=guided)
    frames, pauses = [], []
    for t in range(user_codes.shape[2]):
        if resets[t].any():
            state = live.restart(model, jnp.asarray(resets[t]), state)
        frame, state = step(
            model,
            state,
            jnp.asarray(user_codes[:, :, t]),
            settings,
            jax.random.key(t),
            context=context,
            active=jnp.asarray(active[t]),
        )
        frames.append(frame.codes)
        pauses.append(frame.pauses)
    return np.stack(frames, 2), np.array(pauses)


def schedule():
    """Row 0 starts again after 25 frames, row 1 sits out five."""
    resets = np.zeros((FRAMES, 2), bool)
    resets[25, 0] = True
    active = np.ones((FRAMES, 2), bool)
    active[30:35, 1] = False
    return resets, active


def users_codes(config):
    return random_codes(config, 2, FRAMES, 3, zeros=False)[:, 1 + config.num_generated :]


@pytest.mark.parametrize("name", OPTIMISED)
def test_greedy_roll_out_is_that_of_pytorch(name, path):
    model = unstack(random_model(name))
    config = model.config
    user_codes = users_codes(config)
    resets, active = schedule()
    rows = rows_of(config, 2) if config.conditions else None
    theirs, heads = torch_lm.roll_out(
        torch_lm.load(path(name), config), user_codes, resets, active, rows
    )
    context = prepare(model, conditions_of(config, rows)) if rows else None
    ours, pauses = roll_out(model, user_codes, resets, active, GREEDY, context)
    valid = (theirs != UNGENERATED).all(1)
    assert valid.mean() > 0.8
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(theirs[valid.nonzero()[0], 0, valid.nonzero()[1]])) > 5
    if config.num_pause_heads:
        np.testing.assert_allclose(
            np.moveaxis(pauses, 2, 1)[active.all(1)], heads[active.all(1)], atol=1e-5
        )


@pytest.mark.parametrize("mode", ["conditions", "blind", "no_text"])
def test_guided_roll_out_is_that_of_pytorch(mode, path):
    name = "hibiki_1b" if mode == "conditions" else "moshi_7b"
    model = unstack(random_model(name))
    config = model.config
    user_codes = users_codes(config)
    resets, active = schedule()
    rows, context, options, guidance = None, None, {}, live.Guidance(2.5)
    if mode == "conditions":
        rows = rows_of(config, 2) + rows_of(config, 2, seed=1)
        context = prepare(model, conditions_of(config, rows))
    elif mode == "blind":
        options = {"cfg_is_masked_until": [20, 7]}
        guidance = live.Guidance(2.5, jnp.array([20, 7]))
    else:
        options = {"cfg_is_no_text": True}
        guidance = live.Guidance(2.5, no_text=True)
    torch_model = torch_lm.load(path(name), config)
    theirs, _ = torch_lm.roll_out(
        torch_model, user_codes, resets, active, rows, cfg_coef=2.5, **options
    )
    settings = dataclasses.replace(GREEDY, guidance=guidance)
    ours, _ = roll_out(model, user_codes, resets, active, settings, context, guided=True)
    np.testing.assert_array_equal(ours, theirs)
    plain, _ = roll_out(
        model, user_codes, resets, active, GREEDY, context and live.Context(context.added[:2], None)
    )
    assert (plain != ours).any()
