import dataclasses

import pytest

from moshijax.convert.lm.helium import from_helium
from moshijax.lm.presets import PRESETS
from tests.convert.lm.released import HELIUM, refused, written


def test_the_preset_of_helium_is_what_its_release_says():
    assert from_helium(HELIUM) == PRESETS["helium_2b"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": "2560"}, 'hidden_size is "2560"; it must'),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4; only 20 is known here"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true; only false"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06; only 1e-08"),
        ({"head_dim": 64}, "head_dim times num_attention_heads, 20, is not hidden_size, 2560"),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'rope_parameters.rope_type is "yarn"; only'),
        ({"pad_token_id": -1}, "pad_token_id is -1; it must"),
    ],
)
def test_another_helium_is_refused_by_field(changes, says, tmp_path):
    assert says in refused(written(tmp_path, HELIUM | changes))


def test_helium_of_either_version_of_transformers_is_read():
    newer = {k: v for k, v in HELIUM.items() if k not in ("rope_theta", "torch_dtype")}
    newer |= {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}}
    want = dataclasses.replace(PRESETS["helium_2b"], max_period=5e4)
    assert from_helium(newer) == want
    assert from_helium({"model_type": "helium", "pad_token_id": None}) == PRESETS["helium_2b"]
