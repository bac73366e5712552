"""Decoders that others measured, as they are planned here."""

import math

import jax
import pytest

from moshijax import shard
from moshijax.preflight import topology
from moshijax.preflight.examine import check, plan
from tests.preflight import measured


@pytest.mark.parametrize(
    ("row", "billions"), [("32b_v5e", 31.7), ("22b_v4", 29.4), ("52b_v4", 78.1)]
)
def test_measured_decoders_have_their_sizes_and_rows(row, billions):
    found = measured.ROWS[row]
    slice_ = topology.parse(found.topology)
    config = measured.get_config(f"row={row}")
    sizes = check(config, slice_)
    assert sizes == dict(data=1, fsdp=slice_.chips, tensor=1)
    planned = plan(config, sizes)
    model = jax.eval_shape(planned.task.init, jax.random.key(0)).model
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(model)) / 1e9 == pytest.approx(
        billions, rel=0.01
    )
    codes = shard.batch_shapes(planned.batches["text"], shard.abstract_mesh(sizes))["codes"]
    assert codes.sharding.shard_shape(codes.shape) == (found.rows, 1, 2048)
