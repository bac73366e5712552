import itertools
import json
import math
import pathlib

import jax
import pytest

from configs import distill_imagenet, distill_vision, helium, moshi, moshi_live
from configs.loop import warmup
from distill import distances
from distill.vision import teachers, views
from distill.vision.rules import RULES
from moshijax import shard
from moshijax.cli import config_files
from moshijax.experiments import live
from moshijax.experiments import lm as experiments_lm
from moshijax.nn.paths import named_leaves
from moshijax.system.errors import UserError
from moshijax.train import loop, optim, program
from moshijax.train.log import read_metrics


FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = [path.stem for path in config_files.experiments(FOLDER)]
MODULES = {"distill_vision": distill_vision, "distill_imagenet": distill_imagenet}
LANGUAGE = {"moshi": moshi, "helium": helium}
PLANNED = {"moshi_live": moshi_live}
PUBLISHED = [f"data={d},duration={t}" for d, t in distill_vision.PUBLISHED]
PUBLISHED += [f"quickstart,arm={arm}" for arm in distill_vision.ARMS]
IMAGENET = [
    f"epochs={e},teacher={t},resolution={r},arm={a}"
    for e, t, r, a in itertools.product(
        (30, 9600), distill_imagenet.TEACHERS, (224, 160), ("funmatch", "labels")
    )
]
ALL = [("distill_vision", arg) for arg in PUBLISHED] + [
    ("distill_imagenet", arg) for arg in IMAGENET
]


def test_every_file_is_tested():
    assert set(FILES) == set(MODULES) | set(LANGUAGE) | set(PLANNED)


@pytest.mark.parametrize(("file", "arg"), ALL, ids=lambda x: x)
def test_config_is_sound_at_full_size(file, arg):
    config = MODULES[file].get_config(arg)
    assert json.loads(config.to_json())["num_steps"] == config.num_steps
    assert config.view in views.DESIGNS
    assert config.loss.distance in ("labels", *distances.DISTANCES)
    student = teachers.model_config(config.student)
    for spec in config.teachers.values():
        assert teachers.model_config(spec).num_classes == student.num_classes


@pytest.mark.parametrize("file", MODULES)
def test_published_models_have_one_rule_and_one_optimizer_each(file):
    config = MODULES[file].get_config()
    mesh = shard.make_mesh(dict(data=2, fsdp=4))
    shapes = jax.eval_shape(lambda: teachers.make_model(config.student, jax.random.key(0)))
    optimizer = optim.make(config.optimizers.model, config.num_steps, shapes)
    state = jax.eval_shape(optimizer.init, shapes)
    placed = named_leaves(shard.shard_like(state, mesh, RULES))
    assert len(placed) == 2 * len(named_leaves(shapes)) + 2


@pytest.mark.parametrize("file", MODULES)
def test_tiny_config_trains_and_resumes(file, tmp_path):
    config = MODULES[file].get_config("tiny")
    config.num_steps = config.optimizers.model.warmup_steps + 1
    config.mesh = dict(data=1, fsdp=1, tensor=-1)
    loop.run(config, str(tmp_path))
    loop.run(config, str(tmp_path))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["kind"] for r in rows][-1] == "event"
    assert any("test/kl" in r for r in rows)


@pytest.mark.parametrize(
    ("file", "arg"), [("moshi", "stage=1"), ("helium", None), ("helium", "preset=helium_2b")]
)
def test_language_model_config_is_sound_at_full_size(file, arg):
    config = LANGUAGE[file].get_config(arg)
    assert json.loads(config.to_json())["num_steps"] == config.num_steps
    task = experiments_lm.make(config, shard.abstract_mesh()).task
    state = jax.eval_shape(task.init, jax.random.key(0))
    mesh = shard.make_mesh(dict(data=2, fsdp=4))
    placed = named_leaves(shard.shard_like(state, mesh, task.rules))
    assert len(placed) == 3 * len(named_leaves(state.model)) + 2
    # Nothing large is whole on every device.
    placed = named_leaves(shard.shard_like(state.model, mesh, task.rules))
    for name, leaf in named_leaves(state.model).items():
        assert leaf.size < 1e6 or placed[name].num_devices / 2 <= leaf.size / math.prod(
            placed[name].shard_shape(leaf.shape)
        ), name


def test_language_models_train_on_the_published_numbers_of_tokens():
    config = helium.get_config()
    assert config.batch_size * config.data.length == 4_194_304  # 4.2 M pieces
    config = moshi.get_config()
    assert config.batch_size * config.data.length / 12.5 / 3600 == 16  # hours


@pytest.mark.parametrize("file", LANGUAGE)
def test_tiny_language_model_learns(file, tmp_path):
    config = LANGUAGE[file].get_config("tiny")
    config.num_steps, config.log_every = 20, 5
    config.mesh = dict(data=1, fsdp=-1, tensor=1)
    loop.run(config, str(tmp_path))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    assert any("test/text_perplexity" in row for row in rows)


@pytest.mark.parametrize("mesh", [dict(data=1, tensor=8), dict(data=4, tensor=2)])
def test_a_live_step_on_a_mesh_is_that_of_one_device(mesh):
    config = moshi_live.get_config("tiny,batch=4")
    config.compute_dtype = "float32"
    config.model.overrides.update(num_heads=8)
    experiment = live.make(config, shard.abstract_mesh())
    task, key = experiment.task, jax.random.key(0)
    task.frozen = task.make(key)
    codes = {"codes": jax.random.randint(key, (4, 8), 0, 40)}
    want = []
    for devices in (jax.devices()[:1], jax.devices()):
        shape = mesh if len(devices) > 1 else dict(data=1, tensor=1)
        placed = program.place(experiment, shard.make_mesh(shape, devices), config.seed)
        state = placed.init(key)
        for _ in range(3):
            state, out = placed.update["frame"](state, placed.frozen, codes, key)
        want.append(jax.device_get((out["codes"], state.temporal[1].k, state.frames)))
    assert (want[0][0] == want[1][0]).all()
    assert abs(want[0][1] - want[1][1]).max() < 1e-5
    assert want[1][2].tolist() == [3] * 4


def test_epochs_become_the_published_numbers_of_steps():
    steps = {arg: distill_vision.get_config(arg).num_steps for arg in PUBLISHED[:12]}
    assert steps["data=flowers,duration=fast"] == 19922
    assert steps["data=pet,duration=fast"] == 6469
    assert steps["data=food,duration=long"] == 399463
    assert round(distill_imagenet.get_config("epochs=300").num_steps, -3) == 92000
    assert round(distill_imagenet.get_config("epochs=9600").num_steps, -4) == 2_940_000


def test_warmup_never_fills_a_short_run():
    assert warmup(1500, 19922) == 1500
    assert warmup(1500, 1992) == 498
    assert distill_imagenet.get_config("epochs=30").optimizers.model.warmup_steps < 5000
    assert distill_vision.get_config("data=pet").optimizers.model.warmup_steps == 1500


def test_published_decay_is_what_adamw_would_call_a_tenth():
    optimizer = distill_vision.get_config("data=flowers,duration=fast").optimizers.model
    assert optimizer.weight_decay / optimizer.learning_rate == pytest.approx(0.1)
    assert distill_imagenet.get_config().optimizers.model.weight_decay == pytest.approx(0.01 * 0.03)


@pytest.mark.parametrize(
    ("file", "arg", "message"),
    [
        ("distill_vision", "fast", "unknown switch 'fast'"),
        ("distill_vision", "arm=best", "switch arm: 'best' is unknown"),
        ("distill_vision", "data=cars", "switches data and duration"),
        ("distill_vision", "arm=teacher", "none is trained"),
        ("distill_imagenet", "teacher=t512", "switch teacher: 't512' is unknown"),
        ("distill_imagenet", "tiny=maybe", "neither true nor false"),
        ("distill_imagenet", "epochs=3x", "switch epochs: '3x' is no whole number"),
        ("moshi", "stage=2", "switch stage: 2 is unknown"),
    ],
)
def test_wrong_switches_are_named(file, arg, message):
    with pytest.raises(UserError, match=message):
        (MODULES | LANGUAGE)[file].get_config(arg)
