"""What a mesh with a tensor axis takes, by the compiler's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moshijax import shard
from moshijax.preflight import topology
from moshijax.train.program import compiler_options


pytest.importorskip("libtpu")
pytestmark = pytest.mark.aot

SLICE = topology.parse("v5e:4x4")
SIZES = dict(data=1, fsdp=4, tensor=4)


def test_a_product_with_a_gathered_weight_stays_whole():
    mesh = shard.make_mesh(SIZES, topology.devices(SLICE))

    def split(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*spec)))

    product = jax.jit(jnp.matmul, out_shardings=NamedSharding(mesh, P("fsdp", None, "tensor")))
    lowered = product.lower(split((32, 2048, 4096), "fsdp"), split((4096, 8192), "fsdp", "tensor"))
    options = compiler_options(mesh.devices.flat[0])
    text = lowered.compile(compiler_options=options).as_text()
    assert "all-gather" in text
    assert "collective-permute" not in text
