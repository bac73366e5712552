import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moshijax import sharding
from moshijax.nn.rows import ROWS, split_rows


def test_rows_stay_split_although_the_weights_are_split_over_the_same_axis():
    mesh = sharding.make_mesh(dict(data=2, fsdp=4))
    table = jax.ShapeDtypeStruct(
        (64, 16), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp"))
    )
    codes = jax.ShapeDtypeStruct((8, 6), jnp.int32, sharding=NamedSharding(mesh, P(ROWS)))

    def embed(table, codes):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return split_rows(table[codes])

    compiled = jax.jit(embed).lower(table, codes).compile()
    assert compiled.output_shardings.shard_shape((8, 6, 16)) == (1, 6, 16)
    assert tuple(sharding.BATCH) == (ROWS,)


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((3, 2))
    assert split_rows(x) is x
    assert split_rows(x, axis=1) is x
