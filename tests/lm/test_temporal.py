import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshijax.lm.conditioning import Vectors, read_values
from moshijax.nn.streaming import batch_axes
from moshijax.nn.transformer import unstack
from tests import contract
from tests.lm_models import random_model


LENGTH = 24  # more than the window of 16
x = jax.random.normal(jax.random.key(1), (2, LENGTH, 32))
stacked = random_model("moshi_7b").temporal.transformer
MODULES = {"stack": stacked, "list": unstack(stacked)}


@pytest.mark.parametrize("name", MODULES)
@given(sizes=st.permutations([1, 7, 8, 8]) | st.sampled_from([[24]]))
def test_temporal_transformer_streams(name, sizes):
    contract.assert_streams(MODULES[name], x, sizes, MODULES[name].init_state(2, 24))


def test_rows_restart_and_pause():
    axes = batch_axes(stacked.init_state)
    contract.assert_rows_restart_and_pause(stacked, x, 7, stacked.init_state(2, 7), axes)


def test_a_source_is_attended_to_in_every_chunk():
    model = random_model("tts_1_6b")
    conditions = {
        "speaker_wavs": Vectors(
            jax.random.normal(jax.random.key(2), (2, 5, 12)), jnp.ones((2, 5), bool)
        ),
        "cfg": read_values(model.config.conditions[1], ["1.5", None]),
        "control": read_values(model.config.conditions[2], ["ok", "ok"]),
    }
    sources = model.sources(model.prepare(conditions))
    transformer = model.temporal.transformer

    def run(transformer, x, state):
        return transformer(x, state, sources)

    whole, _ = run(transformer, x, None)
    pieces, _ = contract.stream(transformer, x, [8, 8, 8], transformer.init_state(2, 8), run=run)
    assert jnp.abs(pieces - whole).max() < 1e-4
    without, _ = transformer(x)
    assert jnp.abs(without - whole).max() > 0.1
