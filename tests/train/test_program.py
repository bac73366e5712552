import functools
import types

import jax
import jax.numpy as jnp
import pytest

from configs import moshi
from moshijax import shard
from moshijax.experiments import lm
from moshijax.preflight import topology
from moshijax.preflight.examine import examine
from moshijax.train import flops, loop
from moshijax.train.program import compiler_options, place
from moshijax.train.task import find
from tests.preflight import stack


def device(platform, kind):
    return types.SimpleNamespace(platform=platform, device_kind=kind)


@pytest.mark.parametrize("kind", ["TPU v5", "TPU v5 lite"])
def test_a_tpu_may_fill_more_of_its_vector_memory(kind):
    name = "xla_tpu_scoped_vmem_limit_kib"
    assert compiler_options(device("tpu", kind))[name] == 24576
    assert compiler_options(device("tpu", kind), 40960)[name] == 40960
    assert name not in compiler_options(device("tpu", "TPU v4"))


def test_a_v5p_gathers_streams_beside_its_products_over_a_tensor_axis():
    name = "xla_tpu_enable_async_collective_fusion_fuse_all_gather"
    assert compiler_options(device("tpu", "TPU v5"), tensor=4)[name] is True
    assert name not in compiler_options(device("tpu", "TPU v5"), tensor=1)
    assert name not in compiler_options(device("tpu", "TPU v5 lite"), tensor=4)


def test_other_compilers_are_told_nothing():
    assert compiler_options(device("gpu", "NVIDIA H200"), 40960) == {}
    assert compiler_options(jax.devices()[0], 40960) == {}
    assert compiler_options(None, 40960) == {}


def logged(config, monkeypatch):
    """The MFU that a run would log for a step a second on devices of 1 FLOP/s in all."""
    monkeypatch.setattr(flops, "peak_flops", lambda devices: 1.0)
    mesh = shard.make_mesh(config.mesh)
    experiment = find(config)(config, mesh.abstract_mesh)
    run = types.SimpleNamespace(
        share_of_peak={},
        experiment=experiment,
        program=place(experiment, mesh, 0),
        mesh=mesh,
        key=jax.random.key(0),
    )
    ((kind, batch),) = experiment.batches.items()
    loop.Run.measure(run, kind, batch)
    return run.share_of_peak[kind]


def planned(config, monkeypatch):
    """The model's FLOPs in a plan of a slice that libtpu does not know, so uncompiled."""

    def unknown(slice_):
        raise topology.UnknownSliceError("not here")

    monkeypatch.setattr(topology, "devices", unknown)
    monkeypatch.setattr(topology, "check_libtpu", lambda: None)
    return examine(config, topology.parse("v5e:2x4")).flops


def test_mfu_is_of_the_same_flops_in_a_log_and_in_a_plan(monkeypatch):
    config = moshi.get_config("tiny")
    config.model.overrides.update(kernel="xla", remat="full")
    codes = jax.ShapeDtypeStruct((8, 17, 32), jnp.int32)
    own = lm.make(config, shard.abstract_mesh()).task.model_flops({"codes": codes})
    assert logged(config, monkeypatch) == planned(config, monkeypatch).model == own
    config = stack.get_config()
    config.layers, config.dim, config.mlp_dim, config.length = 2, 8, 16, 4
    once = 6 * (2 * 2 * 8 * 16) * 64 * 4
    assert planned(config, monkeypatch).executed == 7 / 6 * once  # It computes products again.
    assert logged(config, monkeypatch) == planned(config, monkeypatch).model == once


def test_mfu_leaves_out_scores_that_a_mask_hides():
    config = moshi.get_config("tiny")
    config.model.overrides.update(kernel="xla", remat="none")
    task = lm.make(config, shard.abstract_mesh()).task
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    batch = {"codes": jnp.zeros((8, 17, 32), jnp.int32)}
    update = functools.partial(task.update, "audio")
    counted = flops.own_flops(update, shapes, {}, batch, jax.random.key(0))
    assert task.model_flops(batch) < counted
