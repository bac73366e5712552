"""Eight CPU devices, strict shapes, full matrix precision: for every test."""

import os


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NO_TORCH_COMPILE", "1")

import hypothesis
import jax
import pytest


jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def strict_dtypes():
    """Forbids silent dtype promotion in the code under test."""
    with jax.numpy_dtype_promotion("strict"):
        yield
