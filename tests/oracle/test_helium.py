"""Helium against transformers' own, for a small version, through files both ways."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers

from moshijax.convert.lm import abstract_lm, load_lm, save_lm
from moshijax.lm.presets import PRESETS
from moshijax.nn.paths import named_leaves, with_leaves
from tests.lm_models import random_codes, random_model


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

LENGTH = 40


@pytest.fixture(scope="module", params=["helium_2b", "helium_7b"])
def model(request):
    """Its window is longer than the texts: transformers has none."""
    config = PRESETS[f"{request.param}_tiny"]
    leaves = named_leaves(random_model(request.param))
    # Transformers has no vector for the start: ours is that of the piece that begins a text.
    table = leaves["temporal/text_embedding/table"]
    leaves["temporal/text_embedding/table"] = table.at[-1].set(table[1])
    return with_leaves(abstract_lm(dataclasses.replace(config, context=64)), leaves)


def logits_of(folder, codes):
    theirs = transformers.HeliumForCausalLM.from_pretrained(folder, dtype=torch.float32)
    begin = np.full((codes.shape[0], 1), 1)
    text = np.concatenate([begin, codes[:, 0, :-1]], axis=1)
    with torch.no_grad():
        return theirs.eval()(torch.from_numpy(text)).logits.numpy(), theirs


def test_our_file_gives_transformers_the_same_logits(model, tmp_path):
    codes = random_codes(model.config, 2, LENGTH, zeros=False)
    theirs, _ = logits_of(save_lm(model, tmp_path, layout="transformers").parent, codes)
    ours = jax.jit(lambda model, codes: model.logits(codes).text)(model, codes)
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_their_file_gives_us_the_same_model(model, tmp_path):
    codes = random_codes(model.config, 2, 4, zeros=False)
    path = save_lm(model, tmp_path / "ours", layout="transformers")
    _, theirs = logits_of(path.parent, codes)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_lm(tmp_path / "theirs" / "model.safetensors", model.config)
    want, got = named_leaves(model), named_leaves(again)
    for name, leaf in want.items():
        np.testing.assert_array_equal(got[name], leaf, err_msg=name)
