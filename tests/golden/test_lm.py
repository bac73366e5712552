"""Parity of language models with PyTorch's Moshi without PyTorch: see make_lm.py."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moshijax.lm import generate as live
from moshijax.lm.conditioning import read_values
from moshijax.lm.sampling import Sampling
from moshijax.nn.transformer import unstack
from tests.lm_models import random_model


PATH = pathlib.Path(__file__).parent / "lm.npz"
GREEDY = live.Settings(text=Sampling(0.0, 1), audio=Sampling(0.0, 1))
logits = jax.jit(lambda model, codes, conditions: model.logits(codes, conditions))
generate = jax.jit(live.generate)


def conditions_of(config):
    return {c.name: read_values(c, ["very_good", None]) for c in config.conditions}


@pytest.fixture(params=["moshi_7b", "hibiki_2b"])
def golden(request):
    with np.load(PATH) as file:
        mine = {k.split(":")[1]: v for k, v in file.items() if k.startswith(request.param)}
    return random_model(request.param), mine


def test_logits_are_those_recorded(golden):
    model, recorded = golden
    ours = logits(model, jnp.asarray(recorded["codes"]), conditions_of(model.config))
    text, audio = np.asarray(ours.text_mask), np.asarray(ours.audio_mask)
    np.testing.assert_allclose(ours.text[text], recorded["text"][text], atol=1e-4)
    np.testing.assert_allclose(ours.audio[audio], recorded["audio"][audio], atol=1e-4)


def test_roll_out_is_the_one_recorded(golden):
    model, recorded = golden
    model = unstack(model)
    prepared = model.prepare(conditions_of(model.config))
    context = live.Context(prepared.added, model.sources(prepared))
    codes, _ = generate(
        model,
        live.init_state(model, 2),
        jnp.asarray(recorded["given"]),
        GREEDY,
        jax.random.key(0),
        context=context,
    )
    np.testing.assert_array_equal(codes, recorded["rolled"])
