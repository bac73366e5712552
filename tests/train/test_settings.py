import math

import pytest

from configs import distill_vision, helium, moshi
from moshijax.system.errors import UserError
from moshijax.train import settings
from tests.train.toy import config


@pytest.mark.parametrize(
    ("key", "found", "allowed"),
    [
        ("seed", -1, f"a whole number from 0 to {2**32 - 1}"),
        ("seed", 2**32, f"a whole number from 0 to {2**32 - 1}"),
        ("num_steps", 0, "a whole number from 1 on"),
        ("batch_size", 0, "a whole number from 1 on"),
        ("batch_size", -8, "a whole number from 1 on"),
        ("accumulate", 0, "a whole number from 1 on"),
        ("keep_checkpoints", 0, "a whole number from 1 on"),
        ("log_every", -1, "a whole number from 0 on"),
        ("eval_every", -1, "a whole number from 0 on"),
        ("checkpoint_every", -5, "a whole number from 0 on"),
        ("read_ahead", -1, "a whole number from 0 on"),
        ("vmem_kib", -1, "a whole number from 0 on"),
        ("max_rollbacks", -1, "a whole number from 0 on"),
    ],
)
def test_a_value_that_no_run_can_have_is_named_with_what_is_allowed(key, found, allowed):
    with pytest.raises(UserError) as refused:
        settings.check(config(**{key: found}))
    assert str(refused.value) == (
        f"config.{key}: {found} is refused: set --config.{key} to {allowed}."
    )


def test_pieces_divide_the_batch():
    with pytest.raises(UserError, match="3 pieces do not divide a batch of 16 rows"):
        settings.check(config(accumulate=3))
    settings.check(config(accumulate=16))


def test_evaluation_has_rows_and_its_last_sets_exist():
    evaluation = dict(batch_size=0, sets=dict(test="made:4"))
    with pytest.raises(UserError, match=r"config.evaluation.batch_size: 0 is refused"):
        settings.check(config(evaluation=evaluation))
    evaluation = dict(batch_size=4, sets=dict(test="made:4"))
    with pytest.raises(UserError, match=r"config.final_sets: 'tset' is no .*: there are test\."):
        settings.check(config(evaluation=evaluation, final_sets=("tset",)))


@pytest.mark.parametrize("module", [distill_vision, helium, moshi])
@pytest.mark.parametrize("arg", [None, "tiny"])
def test_the_configs_of_the_project_are_allowed(module, arg):
    settings.check(module.get_config(arg))


@pytest.mark.parametrize("found", [-1.0, math.nan, math.inf, 11.0, "much", True, None])
def test_numbers_are_finite_and_within_bounds(found):
    with pytest.raises(UserError, match=r"config.part.x: .* a finite number from 0 to 10\."):
        settings.number(found, "part.x", 10.0)
    with pytest.raises(UserError, match=r"a finite number above 0\."):
        settings.number(0.0, "x", positive=True)


@pytest.mark.parametrize("name", ["int32", "bool", "complex64", "float65", "float64", ""])
def test_types_that_nothing_is_trained_in_are_refused(name):
    with pytest.raises(UserError, match="one of float32, bfloat16, float16"):
        settings.dtype(name, "compute_dtype")
    assert settings.dtype("bfloat16", "x").itemsize == 2


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("model.load", "gs://lab/weights.safetensors"),
        ("data.train", "gs://lab/train-*.array_record"),
        ("evaluation.sets.test", "s3://lab/test"),
    ],
)
def test_a_url_in_place_of_a_path_is_refused_wherever_it_is(key, found):
    c = moshi.get_config("tiny")
    c.update_from_flattened_dict({key: found})
    with pytest.raises(UserError, match=rf"^config\.{key}: '{found[:8]}.* is a URL.*mount"):
        settings.check(c)


def test_weights_alone_are_read_from_the_hub():
    c, name = moshi.get_config("tiny"), "hf://kyutai/moshiko/model.safetensors"
    c.model.load = name
    settings.check(c)
    c.data.train = name
    with pytest.raises(UserError, match=r"^config\.data\.train: 'hf://.* is a URL"):
        settings.check(c)


def test_a_url_of_an_image_folder_or_a_cache_is_refused():
    for key, found in (("data.name", "folder:gs://lab/x"), ("cache.folder", "gs://lab/cache")):
        c = distill_vision.get_config("tiny")
        c.update_from_flattened_dict({key: found})
        with pytest.raises(UserError, match=rf"^config\.{key}: 'gs://lab.* is a URL"):
            settings.check(c)
