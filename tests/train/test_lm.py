import jax
import numpy as np
import pytest

from configs import helium, moshi
from moshijax import shard
from moshijax.convert.lm import save_lm
from moshijax.experiments import lm as experiment
from moshijax.lm.rules import RULES
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError
from moshijax.train import lm, loop
from moshijax.train.checkpoints import load_leaves
from tests.lm_models import random_model


MESH = dict(data=1, fsdp=4, tensor=2)


def tiny(load, load_preset=None, module=moshi, **changes):
    """A run of one step that moves nothing."""
    config = module.get_config("tiny")
    config.update(num_steps=1, mesh=MESH, **changes)
    config.data.train = config.evaluation.sets.test = "made:8"
    config.optimizers.model.update(learning_rate=0.0, weight_decay=0.0, warmup_steps=0)
    config.model.load, config.model.load_preset = load and str(load), load_preset
    return config


def leaves_of(config):
    """What a run begins with, by name."""
    mesh = shard.make_mesh(MESH)
    return experiment.initial_leaves(config.model, lm.model_config(config.model), mesh)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save_lm(random_model("helium_7b"), tmp_path_factory.mktemp("helium") / "helium.st")


@pytest.fixture(scope="module")
def begun(file, tmp_path_factory):
    """A Moshi that began at a Helium which is gone since, its config and its work directory."""
    workdir = tmp_path_factory.mktemp("moshi")
    copy = workdir / "helium.st"
    copy.write_bytes(file.read_bytes())
    config = tiny(copy, "helium_7b_tiny")
    state = loop.run(config, str(workdir))
    copy.unlink()
    return state, config, workdir


def test_moshi_begins_at_helium_and_the_rest_is_random(begun):
    model, wanted = named_leaves(begun[0].model), named_leaves(random_model("helium_7b"))
    random = named_leaves(lm.LMTask(tiny(None)).make(jax.random.key(0)))
    shared = {name for name in wanted if model[name].shape == wanted[name].shape}
    assert shared >= {n for n in wanted if n.startswith("temporal/transformer/")}
    for name in shared:
        np.testing.assert_array_equal(model[name], wanted[name], err_msg=name)
    drawn = [n for n in model if n not in shared and n.endswith("kernel")]
    assert any(name.startswith("depth/") for name in drawn)
    for name in drawn:
        np.testing.assert_allclose(model[name].std(), random[name].std(), rtol=0.2, err_msg=name)


def test_a_file_is_read_onto_the_mesh(file):
    for name, leaf in leaves_of(tiny(file, "helium_7b_tiny")).items():
        spec = shard.parameter_spec(name, leaf.shape, shard.make_mesh(MESH), RULES)
        assert leaf.sharding.spec == spec, name


def test_a_run_begins_at_the_weights_of_a_folder(file, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes())
    config = tiny(tmp_path, "helium_7b_tiny")
    expected = leaves_of(tiny(file, "helium_7b_tiny"))
    for name, leaf in leaves_of(config).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_a_run_begins_at_another_runs_model_on_its_mesh(begun, tmp_path):
    state, _, workdir = begun
    (workdir / "exported.safetensors").write_bytes(b"")  # It stays a run, whatever lies in it.
    config = tiny(workdir)
    leaves = leaves_of(config)
    assert {n.removeprefix("model/") for n in leaves} == set(named_leaves(state.model))
    for name, leaf in named_leaves(state.model).items():
        assert leaves[f"model/{name}"].sharding == leaf.sharding, name
        np.testing.assert_array_equal(leaves[f"model/{name}"], leaf, err_msg=name)
    loop.run(config, str(tmp_path))
    for name, leaf in load_leaves(str(tmp_path), "model").items():
        np.testing.assert_array_equal(leaf, leaves[f"model/{name}"], err_msg=name)


def test_nothing_is_loaded_when_a_run_goes_on(begun):
    state, config, workdir = begun
    again = loop.run(config, str(workdir))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_one_sentence(file):
    with pytest.raises(ValueError, match=r"does not fit this language model.* helium_7b_tiny"):
        leaves_of(tiny(file))
    with pytest.raises(ValueError, match=r"model.load_preset: 'helium_7' is unknown, take one of"):
        leaves_of(tiny(file, "helium_7"))
    wide = tiny(file, "helium_7b_tiny")
    wide.model.overrides.update(dim=96, num_heads=2, num_layers=5)
    with pytest.raises(
        ValueError, match=r"model.load: temporal/.* is \[.*\], the model's is \[.* such arrays"
    ):
        leaves_of(wide)
    nothing = tiny(file.parent, module=helium)
    with pytest.raises(ValueError, match="has no checkpoint: train it first"):
        leaves_of(nothing)


@pytest.mark.parametrize(
    ("key", "found", "message"),
    [
        ("accumulate", 3, "config.accumulate: 3 pieces do not divide a batch of 8 rows"),
        ("compute_dtype", "int32", "config.compute_dtype: 'int32' .* one of float32, bfloat16"),
        ("data.length", 0, "config.data.length: 0 is refused"),
        ("loss.chunk_frames", 0, "config.loss.chunk_frames: 0 is refused"),
        ("loss.form", "papre", "config.loss.form: 'papre' is refused"),
        ("loss.padding_weight", -0.5, "config.loss.padding_weight: -0.5 is refused"),
        ("evaluation.batch_size", 0, "config.evaluation.batch_size: 0 is refused"),
    ],
)
def test_a_wrong_value_is_refused_by_run_and_plan_before_anything_is_done(
    tmp_path, key, found, message
):
    config = tiny(None)
    config.update_from_flattened_dict({key: found})
    for attempt in (
        lambda: loop.run(config, str(tmp_path / "run")),
        lambda: experiment.make(config, shard.abstract_mesh()),
    ):
        with pytest.raises(UserError, match=message):
            attempt()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        ("dim", 0, "model.overrides.dim: 0 is refused"),
        ("num_layers", -1, "model.overrides.num_layers: -1 .* a whole number from 1 on"),
        ("context", 0, "model.overrides.context: 0 is refused"),
        ("num_heads", 2.5, "model.overrides.num_heads: 2.5 is refused"),
        ("max_period", float("nan"), "model.overrides.max_period: nan is refused"),
        ("delays", (0, -1) * 8, "model.overrides.delays: -1 .* a whole number from 0 on"),
        ("delays", ("0",) * 17, "model.overrides.delays: .* a sequence of int"),
        ("depth", 3, "model.overrides.depth: 3 .* None, or take a preset"),
        ("conditions", ("x",), "model.overrides.conditions: .*of ConditionConfig"),
        ("num_pause_heads", -1, "model.overrides.num_pause_heads: -1 is refused"),
        ("silence_prefix", "x", "model.overrides.silence_prefix: 'x' is refused"),
        ("two_texts", "yes", "model.overrides.two_texts: 'yes' .* one of False, True"),
        ("width", 8, "model.overrides: .*'width'; fields are dim, num_heads"),
    ],
)
def test_a_size_that_no_model_can_have_is_refused(name, found, message):
    config = tiny(None)
    with config.unlocked():
        config.model.overrides[name] = found
    with pytest.raises(UserError, match=message):
        experiment.make(config, shard.abstract_mesh())


@pytest.mark.parametrize("preset", ["hibiki_1b_tiny", "tts_1_6b_tiny"])
def test_models_of_more_than_shards_hold_are_refused(preset):
    config = tiny(None)
    del config.model.overrides.delays
    config.model.preset = preset
    with pytest.raises(UserError, match=f"model.preset: '{preset}' reads conditions"):
        experiment.make(config, shard.abstract_mesh())


@pytest.mark.parametrize("key", ["data.train", "evaluation.sets.test"])
def test_every_set_is_opened_before_a_run_begins(tmp_path, key):
    config = tiny(None)
    config.update_from_flattened_dict({key: f"{tmp_path}/none-*.array_record"})
    with pytest.raises(UserError, match=f"{key}: .*: no file has this name"):
        loop.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
