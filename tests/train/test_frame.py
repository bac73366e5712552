"""An experiment with everything that the frame offers, added without touching it.

Two kinds of batches, an optimizer for each, a first batch that initialises, averaged parameters, a
frozen teacher that is sharded over the mesh: killed and resumed bitwise, planned, exported.
"""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from moshijax.cli import export
from moshijax.convert.parts import write_parts
from moshijax.convert.safetensors import Lazy, Safetensors
from moshijax.data.mix import Mix
from moshijax.train import evaluators, loop
from moshijax.train.checkpoints import load_leaves, load_parameters
from moshijax.train.learner import Learner, State, averaged
from moshijax.train.log import read_metrics
from moshijax.train.task import Experiment
from moshijax.train.values import Figure, Sound
from tests.train.toy import OPTIMIZER
from tests.train.toy import config as toy_config


RULES = ((r"head/kernel", P("tensor", "fsdp")), (r"head/bias|norm/\w+", P(None)))


ROOT = pathlib.Path(__file__).parent.parent.parent
WIDTH = 16
ROWS = {"pairs": 16, "copies": 8}


class StudentTask:
    """A linear student that matches a frozen linear teacher, and now and then copies its input."""

    def __init__(self, config, frozen):
        self.rules = RULES
        self.frozen = frozen
        shapes = jax.eval_shape(self.model, jax.random.key(0))
        self.learner = Learner(config, shapes)

    def model(self, key):
        kernel = jax.random.normal(key, (WIDTH, WIDTH)) / 8
        return {"head": {"kernel": kernel}, "norm": {"bias": jnp.zeros(WIDTH)}}

    def init(self, key):
        return self.learner.begin(self.model(key))

    def begin(self, state, frozen, batch, key):
        centre = {"bias": batch["x"].mean(0)}
        both = (tree | {"norm": centre} for tree in (state.model, state.average))
        return State(next(both), state.optimizers, next(both))

    def update(self, kind, state, frozen, batch, key):
        def loss(model, rows):
            y = (rows["x"] - model["norm"]["bias"][None]) @ model["head"]["kernel"]
            taught = rows["x"] @ frozen["head"]["kernel"] if kind == "pairs" else rows["x"]
            return jnp.mean((y - taught) ** 2)

        value, grads = jax.value_and_grad(loss)(state.model, batch)
        state, norms = self.learner.update(kind, state, grads)
        return state, norms | {"loss": value}

    def evaluate(self, state, frozen, batch):
        model = averaged(state)
        y = (batch["x"] - model["norm"]["bias"][None]) @ model["head"]["kernel"]
        error = jnp.mean((y - batch["x"] @ frozen["head"]["kernel"]) ** 2, axis=1)
        return {"error": (error * batch["mask"]).sum(), "count": batch["mask"].sum()}

    def summarize(self, sums):
        return {"error": float(sums["error"] / sums["count"])}


class Rows:
    """Random rows of a kind; raises a signal in a step where the environment says so."""

    num_batches = 1

    def __init__(self, kind):
        self._kind, self.batch_size = kind, ROWS[kind]

    def kind(self, step):
        return self._kind

    def prepare(self, workdir):
        (workdir / f"{self._kind}.txt").write_text("prepared")

    def close(self):
        pass

    def batch(self, step, order=0, rows=None):
        if f"{self._kind}:{step}" == os.environ.get("KILLED_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng([step, order, len(self._kind)])
        x = 1 + rng.standard_normal((self.batch_size, WIDTH), np.float32)
        return {"x": x if rows is None else x[rows]}


class Held(Rows):
    """A held-out batch, half of it padding."""

    def batch(self, number, rows=None):
        mask = np.float32(np.arange(self.batch_size) < self.batch_size // 2)
        return super().batch(0, 9, rows) | {"mask": mask if rows is None else mask[rows]}


class Spectrum:
    """An evaluator that is no sum: singular values, also to be heard and seen, a random probe."""

    def __call__(self, state, frozen, key, mesh):
        kernel = averaged(state)["head"]["kernel"]
        yield "largest", float(jnp.linalg.norm(kernel, 2))
        yield "probe", float(jax.random.normal(key, ()))
        values = np.linalg.svd(np.asarray(kernel), compute_uv=False)
        noise = np.asarray(jax.random.normal(key, (1, 2))) / 100
        wave = np.sin(np.outer(np.arange(800) / 8, values[:2])) / 4 + noise
        yield "tone", Sound(wave.astype(np.float32), 8000)
        yield "kernel", Figure((128 + 100 * np.tanh(kernel))[..., None].astype(np.uint8))


def teacher(mesh):
    """The frozen teacher on the mesh, or its shape."""
    shape = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    if isinstance(mesh, AbstractMesh):
        return {"head": {"kernel": shape}}
    return {"head": {"kernel": jax.random.normal(jax.random.key(7), shape.shape) / 4}}


def export_model(leaves, path, part_bytes):
    arrays = {name: np.asarray(leaf) for name, leaf in leaves}
    tensors = {
        n: Lazy(x.shape, x.dtype, functools.partial(np.asarray, x)) for n, x in arrays.items()
    }
    write_parts(path, tensors, {}, part_bytes)


def make(config, mesh):
    task = StudentTask(config, teacher(mesh))
    shapes = {k: {"x": jax.ShapeDtypeStruct((n, WIDTH), np.float32)} for k, n in ROWS.items()}
    read = not isinstance(mesh, AbstractMesh)
    sets = {"held": Held("pairs")} if read else {}
    return Experiment(
        task=task,
        batches=shapes,
        unit="rows",
        train_data=Mix({k: Rows(k) for k in ROWS}, dict(pairs=2, copies=1)) if read else None,
        evaluators=evaluators.sums_over(task, sets, mesh)
        | ({"spectrum": Spectrum()} if read else {}),
        shares=dict(pairs=2 / 3, copies=1 / 3),
        counts={kind: {"rows": n} for kind, n in ROWS.items()},
        export=export_model,
    )


def get_config(arg=None):
    return toy_config(
        experiment="tests.train.test_frame",
        num_steps=9,
        mesh=dict(data=2, fsdp=2, tensor=2),
        average=0.5,
        optimizers=dict(pairs=OPTIMIZER, copies=OPTIMIZER | dict(learning_rate=1e-3)),
    )


def start(workdir, **environment):
    line = [sys.executable, "-m", "moshijax.train", "--config", "tests/train/test_frame.py"]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        **environment,
    }
    return subprocess.run(
        [*line, "--workdir", str(workdir)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frame") / "run"
    return folder, loop.train(get_config(), make, str(folder))


def test_each_kind_has_its_metrics_its_steps_and_its_optimizer(trained):
    folder, state = trained
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    assert {"pairs/loss", "copies/loss", "pairs/grad_norm", "mfu"} <= set().union(*rows)
    assert {name: int(one.count) for name, one in state.optimizers.items()} == dict(
        pairs=6, copies=3
    )
    assert {p.stem for p in folder.glob("*.txt")} == {"pairs", "copies"}


def test_the_first_batch_initialises_once(trained):
    folder, _ = trained
    first = Rows("pairs").batch(1)["x"].mean(0)
    config = get_config()
    config.num_steps = config.optimizers.pairs.warmup_steps + 1
    for optimizer in config.optimizers.values():
        optimizer.learning_rate = optimizer.weight_decay = 0.0
    state = loop.train(config, make, str(folder.parent / "still"))
    np.testing.assert_allclose(state.model["norm"]["bias"], first, rtol=1e-6)
    assert np.abs(first).max() > 0.5


def test_the_average_is_what_is_evaluated(trained):
    folder, state = trained
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "eval"]
    largest = np.linalg.norm(np.asarray(state.average["head"]["kernel"]), 2)
    assert rows[-1]["spectrum/largest"] == pytest.approx(largest, rel=1e-5)
    assert np.abs(state.average["head"]["kernel"] - state.model["head"]["kernel"]).max() > 1e-4
    assert rows[-1]["held/error"] < rows[0]["held/error"]
    assert rows[-1]["spectrum/probe"] != rows[0]["spectrum/probe"]


def test_frozen_arrays_are_spread_over_the_mesh():
    from moshijax import shard
    from moshijax.train.program import place

    mesh = shard.make_mesh(get_config().mesh.to_dict())
    frozen = place(make(get_config(), mesh), mesh, 0).frozen["head"]["kernel"]
    assert frozen.sharding.shard_shape(frozen.shape) == (WIDTH // 2, WIDTH // 2)


def test_killed_and_resumed_it_is_bitwise_the_same(trained, tmp_path):
    folder, _ = trained
    assert start(tmp_path, KILLED_AT="copies:2").returncode == -signal.SIGKILL
    done = start(tmp_path)
    assert done.returncode == 0, done.stderr
    parts = ("model", "average", "optimizers")
    want, got = (
        {f"{part}/{n}": x for part in parts for n, x in load_leaves(str(where), part).items()}
        for where in (folder, tmp_path)
    )
    assert want.keys() == got.keys()
    for name, leaf in want.items():
        np.testing.assert_array_equal(got[name], leaf, err_msg=name)
    heard = {path.relative_to(folder): path.read_bytes() for path in folder.glob("samples/*/*/*")}
    assert {str(path) for path in heard} == {
        f"samples/{step}/spectrum/{name}" for step in (6, 9) for name in ("tone.wav", "kernel.png")
    }
    assert all((tmp_path / path).read_bytes() == data for path, data in heard.items())


def test_sounds_and_figures_are_files_that_the_metrics_name(trained):
    folder, state = trained
    row = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "eval"][-1]
    samples, rate = soundfile.read(folder / row["spectrum/tone"])
    assert (samples.shape, rate) == ((800, 2), 8000)
    image = cv2.imread(str(folder / row["spectrum/kernel"]), cv2.IMREAD_UNCHANGED)
    kernel = np.asarray(state.average["head"]["kernel"])
    np.testing.assert_array_equal(image, (128 + 100 * np.tanh(kernel)).astype(np.uint8))


def test_the_average_is_exported(trained, tmp_path):
    folder, state = trained
    export.main([str(folder), str(tmp_path / "out.safetensors")])
    file = Safetensors(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(file["head/kernel"], state.average["head"]["kernel"])
    assert json.loads((folder / "config.json").read_text())["average"] == 0.5


@pytest.mark.aot
def test_both_kinds_are_planned_for_a_slice():
    from moshijax.preflight import topology
    from moshijax.preflight.examine import examine, kinds

    config = get_config()
    config.mesh = dict(data=1, fsdp=-1, tensor=1)
    slice_ = topology.parse("v5e:2x4")
    assert kinds(config, slice_) == ["pairs", "copies"]
    reports = [examine(config, slice_, kind=kind) for kind in ("pairs", "copies")]
    assert all(report.fits for report in reports)


def test_what_is_loaded_of_a_run_is_its_average(trained):
    folder, state = trained
    found = load_parameters(str(folder))
    np.testing.assert_array_equal(found["head/kernel"], state.average["head"]["kernel"])
