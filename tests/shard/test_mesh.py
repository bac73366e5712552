from unittest.mock import Mock

import jax
import pytest

from moshijax import shard
from moshijax.system.errors import UserError


def test_mesh_takes_what_is_left_and_refuses_what_does_not_fit():
    assert dict(shard.make_mesh(dict(fsdp=4)).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    with pytest.raises(ValueError, match="does not make 8 devices"):
        shard.make_mesh(dict(data=3))
    with pytest.raises(ValueError, match=r"unknown axes \['model'\]"):
        shard.make_mesh(dict(model=2))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (dict(data=-1, fsdp=-1), "data and fsdp are -1, but one axis alone can take what"),
        (dict(data=0), "mesh.data: 0 is no size: take a whole number from 1 on, or -1"),
        (dict(fsdp=-2), "mesh.fsdp: -2 is no size"),
        (dict(fsdp="4"), "mesh.fsdp: '4' is no size"),
        (dict(fsdp=4.0), "mesh.fsdp: 4.0 is no size"),
        (dict(tensor=True), "mesh.tensor: True is no size"),
        (dict(data=-1, fsdp=3), "mesh: data=-1,fsdp=3 does not make 8 devices: take sizes whose"),
        (dict(data=-1, fsdp=16), "does not make 8 devices"),
        (dict(data=2, fsdp=2, tensor=4), "data=2,fsdp=2,tensor=4 does not make 8 devices"),
        (8, "mesh: 8 is no table of sizes"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_in_a_sentence(shape, sentence):
    with pytest.raises(UserError, match=sentence):
        shard.mesh_sizes(shape, 8)


def test_slices_share_the_data_axis_alone():
    kind = dict(process_index=0, platform="cpu", device_kind="cpu")
    chips = [Mock(spec=jax.Device, id=i, slice_index=i // 4, **kind) for i in range(8)]
    grid = shard.device_grid(dict(data=4, fsdp=2, tensor=1), chips)
    assert grid.shape == (4, 2, 1)
    assert [{chip.slice_index for chip in row.flat} for row in grid] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match="data=1 does not divide among 2 slices: take a multiple"):
        shard.device_grid(dict(data=1, fsdp=8, tensor=1), chips)
