"""Quantised files against the names that Moshi's own PyTorch code gives them."""

import jax
import numpy as np
import pytest
import torch

from moshijax.convert.lm import load_lm, save_lm
from moshijax.convert.safetensors import Safetensors
from moshijax.nn.quant import quantize
from tests.lm_models import random_codes, random_model
from tests.oracle import torch_lm


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("name", ["moshi_7b", "stt_1b"])
def test_our_quantised_file_holds_what_their_linear_layers_become(name, tmp_path):
    model = random_model(name)
    file = Safetensors(save_lm(quantize(model), tmp_path / "q8.safetensors", layout="torch"))
    theirs = torch_lm.load(save_lm(model, tmp_path / "base.safetensors"), model.config)
    linears = {n: m for n, m in theirs.named_modules() if isinstance(m, torch.nn.Linear)}
    scales = {f"{n}.weight_scb" for n in linears}
    assert file.keys() == theirs.state_dict().keys() | scales
    # bitsandbytes multiplies on a GPU only: its formula is written into the float layers.
    with torch.no_grad():
        for n, linear in linears.items():
            values, scale = file[f"{n}.weight"], file[f"{n}.weight_scb"]
            assert values.dtype == np.int8
            linear.weight.copy_(torch.from_numpy(values * (scale / 127)[:, None]))
    codes = random_codes(model.config, 2, 12)
    text, text_mask, audio, audio_mask = torch_lm.logits(theirs, codes)
    loaded = load_lm(tmp_path / "q8.safetensors", model.config)
    ours = jax.jit(lambda model, codes: model.logits(codes))(loaded, codes)
    np.testing.assert_allclose(ours.text[text_mask], text[text_mask], atol=1e-5)
    if audio is not None:
        np.testing.assert_allclose(ours.audio[audio_mask], audio[audio_mask], atol=1e-5)
