import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moshijax.convert.lm.config import feedforward, to_moshi
from moshijax.convert.lm.helium import from_helium, transformers_config
from moshijax.convert.lm.read import from_moshi
from moshijax.lm.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read_back(name):
    config = PRESETS[name]
    config = dataclasses.replace(config, text_padding_end=2, text_padding=4)
    assert from_moshi(to_moshi(config)) == config
    if not config.num_codebooks:
        config = dataclasses.replace(config, text_padding_end=0, codebook_size=2048)
        assert from_helium(transformers_config(config)) == config


@settings(max_examples=300)
@given(st.integers(1, 300), st.integers(1, 2000))
def test_every_width_is_read_back(heads, mlp):
    dim = 2 * heads
    try:
        feedforward(dim, mlp)
    except ValueError:
        # Moshi's code makes another width of the size that alone would give this one.
        assert 3 * mlp + 1 == 2 * 4 * dim
        return
    config = dataclasses.replace(PRESETS["helium_2b"], dim=dim, num_heads=heads, mlp_dim=mlp)
    assert from_moshi(to_moshi(config)) == config
