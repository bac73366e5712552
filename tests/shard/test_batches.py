import numpy as np
import pytest
from jax.sharding import AbstractMesh

from moshijax import shard
from moshijax.system.errors import UserError


def test_rows_that_do_not_divide_are_told_the_mesh_over_which_they_do():
    def refusal(rows, **sizes):
        mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
        with pytest.raises(UserError, match=f"^batch_size: {rows} rows do not divide") as caught:
            shard.check_batch_size(rows, mesh)
        return str(caught.value).rpartition(": ")[2]

    both = "take a multiple of 128, or a mesh of "
    assert refusal(192, data=1, fsdp=128, tensor=1) == both + "fsdp=64,tensor=2."
    assert refusal(192, data=128, fsdp=1, tensor=1) == both + "data=64,tensor=2."
    assert refusal(24, data=1, fsdp=16, tensor=1).endswith("or a mesh of fsdp=8,tensor=2.")
    assert refusal(3, data=1, fsdp=128, tensor=1) == "take a multiple of 128."


def test_batch_arrives_whole_and_split_over_devices():
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    rows = shard.local_rows(8, mesh)
    np.testing.assert_array_equal(rows, np.arange(8))
    batch = {"x": np.arange(16.0).reshape(8, 2), "mix": np.float32(0.5)}
    placed = shard.to_mesh(batch, 8, mesh)
    np.testing.assert_array_equal(placed["x"], batch["x"])
    assert placed["x"].sharding.shard_shape((8, 2)) == (2, 2)
    assert placed["mix"].sharding.is_fully_replicated
    with pytest.raises(ValueError, match="6 rows do not divide among 4 devices"):
        shard.check_batch_size(6, mesh)
