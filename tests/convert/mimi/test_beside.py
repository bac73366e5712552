import json
import pathlib

import pytest

from moshijax.codec.config import PRESETS
from moshijax.convert.lm.config import to_moshi
from moshijax.convert.lm.helium import transformers_config as helium_config
from moshijax.convert.mimi import load_mimi, save_mimi
from moshijax.convert.mimi.beside import check_folder
from moshijax.convert.mimi.config import transformers_config
from moshijax.convert.random import random_mimi
from moshijax.lm.presets import PRESETS as MODELS
from moshijax.system.errors import UserError


TINY = PRESETS["tiny"]
OWN = transformers_config(TINY)
WEIGHTS = pathlib.Path("model.safetensors")


def describe(folder, fields):
    (folder / "config.json").write_text(json.dumps(fields))


def test_a_folder_written_for_transformers_is_read(tmp_path):
    model = random_mimi(TINY)
    save_mimi(model, tmp_path, layout="transformers")
    loaded = load_mimi(tmp_path, TINY)
    assert (loaded.encoder.seanet.first.kernel[...] == model.encoder.seanet.first.kernel[...]).all()
    describe(tmp_path, helium_config(MODELS["helium_2b_tiny"]))
    with pytest.raises(UserError, match=r"config.json is of Helium in transformers' layout, where"):
        load_mimi(tmp_path, TINY)
    # A file that is named itself is judged by what is in it.
    load_mimi(tmp_path / "model.safetensors", TINY)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (OWN | {"sliding_window": 20}, r"sliding_window is 20, but the configuration asked for"),
        (OWN | {"sampling_rate": "24"}, r'sampling_rate is "24", but the .* has 24000: choose'),
        (OWN | {"rope_parameters": {"rope_theta": 5}}, r"rope_parameters.rope_theta is 5, but"),
        (OWN | {"rope_parameters": 5}, r"rope_parameters is 5; it must be an object"),
        (transformers_config(PRESETS["mimi"]), r"is .*, but the configuration asked for has"),
        (to_moshi(MODELS["moshi_7b"]), r"is of a language model of Moshi's family, where a codec"),
        ({"model_type": "encodec"}, r'has model_type "encodec", which is no model that is read'),
        ([], r"holds no JSON object"),
    ],
)
def test_a_folder_of_another_model_or_another_mimi_is_refused(fields, says, tmp_path):
    describe(tmp_path, fields)
    with pytest.raises(UserError, match=says) as caught:
        check_folder(tmp_path, WEIGHTS, TINY)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "fields",
    [
        OWN | {"num_quantizers": 32, "frame_rate": None, "rope_parameters": None},
        {"model_type": "mimi"},
        {"seanet": {}, "quantizer": {}},
    ],
)
def test_what_says_nothing_else_is_taken(fields, tmp_path):
    check_folder(tmp_path, WEIGHTS, TINY)
    describe(tmp_path, fields)
    check_folder(tmp_path, WEIGHTS, TINY)
    describe(tmp_path, to_moshi(MODELS["moshi_7b"]))
    check_folder(tmp_path, pathlib.Path("tokenizer.safetensors"), TINY)
