import types

import jax
import pytest

from moshijax.train.program import compiler_options


def device(platform, kind):
    return types.SimpleNamespace(platform=platform, device_kind=kind)


@pytest.mark.parametrize("kind", ["TPU v5", "TPU v5 lite"])
def test_a_tpu_may_fill_more_of_its_vector_memory(kind):
    name = "xla_tpu_scoped_vmem_limit_kib"
    assert compiler_options(device("tpu", kind)) == {name: 24576}
    assert compiler_options(device("tpu", kind), 40960) == {name: 40960}


def test_other_compilers_are_told_nothing():
    assert compiler_options(device("tpu", "TPU v4")) == {}
    assert compiler_options(device("gpu", "NVIDIA H200"), 40960) == {}
    assert compiler_options(jax.devices()[0], 40960) == {}
    assert compiler_options(None, 40960) == {}
