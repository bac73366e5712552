"""What `config.json` leaves out or has as null, against the model that Moshi's own loader makes."""

import pytest
from moshi.models import loaders

from moshijax.convert.lm import abstract_lm
from moshijax.convert.lm.config import to_moshi
from moshijax.convert.lm.names import entries
from moshijax.convert.lm.read import from_moshi
from moshijax.convert.tables import announce
from moshijax.lm.presets import PRESETS
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError
from tests.oracle.torch_lm import NOT_OF_THE_MODEL


pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

ABSENT = object()
# Streams and sizes at which many of the loader's defaults make a model, so that they are taken.
BASE = to_moshi(PRESETS["moshi_7b_tiny"]) | {
    "n_q": 8,
    "delays": [0] * 9,
    "card": 1024,
    "hidden_scale": 4.125,
    "num_heads": 4,
    "depformer_num_heads": 4,
    "depformer_weights_per_step_schedule": None,
    "depformer_low_rank_embeddings": None,
    "extra_heads_num_heads": 0,
    "demux_second_stream": False,
    "text_card_out": None,
}
# Null for nothing at all is taken here, where Moshi's loader has an error of Python's.
KINDER = {"conditioners"}


def changes():
    for name in (*BASE, "depformer_norm", "norm_emb", "conditioners", "fuser", "unknown"):
        yield name, ABSENT
        yield name, None
    yield "depformer_dim_feedforward", [99] * 8
    yield "depformer_dim_feedforward", 96  # four times the width, as is
    yield "hidden_scale", 4
    yield "depformer_weights_per_step_schedule", [0, 1, 2, 2, 3, 3, 3, 3]
    yield "depformer_low_rank_embeddings", 6
    yield "extra_heads_num_heads", 3
    yield "demux_second_stream", True
    yield "n_q", 9


def theirs(fields):
    """Sizes and settings of their model, or the error of their loader."""
    fields = {k: v for k, v in fields.items() if k not in NOT_OF_THE_MODEL}
    model = loaders.get_moshi_lm(None, lm_kwargs=fields, device="meta")
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    layer = model.transformer.layers[0].self_attn
    depth = model.depformer.layers[0].self_attn.num_heads if model.dep_q else None
    return shapes, (
        *(layer.num_heads, layer.context, model.transformer.max_period, depth),
        *(model.text_padding_token_id, model.end_of_text_padding_id, list(model.delays)),
    )


def ours(fields):
    config = from_moshi(fields)
    leaves = named_leaves(abstract_lm(config))
    shapes = {e.name: announce(e, leaves).shape for e in entries(config, "torch")}
    depth = config.depth.num_heads if config.depth else None
    return shapes, (
        *(config.num_heads, config.context, config.max_period, depth),
        *(config.text_padding, config.text_padding_end, list(config.delays)),
    )


def test_every_field_that_is_absent_or_null_is_derived_as_there():
    taken = set()
    for name, value in changes():
        fields = BASE | {name: value}
        if value is ABSENT:
            del fields[name]
        try:
            found = ours(fields)
        except UserError:
            continue
        if value is not None or name not in KINDER:
            assert found == theirs(fields), (name, value)
        taken.add((name, str(value)))
    names = {name for name, value in taken if value == str(ABSENT)}
    assert names >= {
        *("dep_q", "n_q", "card", "num_heads", "max_period", "depformer_dim_feedforward"),
        *("depformer_num_layers", "existing_text_padding_id", "layer_scale", "causal"),
    }
    assert len(taken) > 40
