"""Eight CPU devices, strict shapes, full matrix precision: for every test."""

import os
import signal
import tempfile


os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is what tests spend their time on: no fine optimisation, and nothing twice in a run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jax_cache_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("NO_TORCH_COMPILE", "1")

import hypothesis
import jax
import pytest


# What nohup or a shell's background ignores, the processes that tests start would ignore too.
for number, handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

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
