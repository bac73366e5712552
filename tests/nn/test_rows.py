import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moshijax import shard
from moshijax.kernels.names import ROWS
from moshijax.nn.rows import gather_table, split_frames, split_rows


def compiled(embed):
    """Looks codes up, both split over the mesh, and compiles it."""
    mesh = shard.make_mesh(dict(data=2, fsdp=4))
    table = jax.ShapeDtypeStruct(
        (64, 16), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp"))
    )
    codes = jax.ShapeDtypeStruct((8, 6), jnp.int32, sharding=NamedSharding(mesh, P(ROWS)))

    def run(table, codes):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return embed(table, codes)

    return jax.jit(run).lower(table, codes).compile()


def test_rows_stay_split_although_the_weights_are_split_over_the_same_axis():
    program = compiled(lambda table, codes: split_rows(table[codes]))
    assert program.output_shardings.shard_shape((8, 6, 16)) == (1, 6, 16)
    assert tuple(shard.BATCH) == (ROWS,)


def test_a_table_is_gathered_and_not_what_is_looked_up_in_it():
    program = compiled(lambda table, codes: split_rows(gather_table(table)[codes]))
    assert re.findall(r"= (\S+?)\{\S* (all-[\w-]+)\(", program.as_text()) == [
        ("f32[64,16]", "all-gather")
    ]


@pytest.mark.parametrize(
    ("shape", "length", "found"),
    [
        (dict(fsdp=2, tensor=4), 32, (4, 8)),
        (dict(fsdp=2, tensor=4), 30, (4, 30)),  # Does not divide.
        (dict(fsdp=2, tensor=4), 28, (4, 28)),  # Less than a tile each.
        (dict(fsdp=2, tensor=4), 1, (4, 1)),
        (dict(fsdp=4, data=2), 32, (1, 32)),
    ],
)
def test_frames_are_split_over_the_tensor_axis_where_each_device_gets_a_tile(shape, length, found):
    mesh = shard.make_mesh(shape)
    rows = NamedSharding(mesh, shard.BATCH)
    stream = jax.ShapeDtypeStruct((8, length, 16), jnp.float32, sharding=rows)

    def run(x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return split_frames(x)

    program = jax.jit(run).lower(stream).compile()
    assert program.output_shardings.shard_shape(stream.shape) == (*found, 16)


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((3, 2))
    assert split_rows(x) is x
    assert split_rows(x, axis=1) is x
    assert split_frames(x) is x
    assert gather_table(x) is x
