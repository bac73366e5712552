import jax
import jax.numpy as jnp
import pytest

from moshijax.kernels.dispatch import Kernel


def _plain(x, factor):
    return x * factor


def _by_sine(x, factor):
    return jnp.sin(x) * factor


def _by_cosine(x, factor):
    return jnp.cos(x) * factor


def other(x, factor):
    return x


BOTH = Kernel(_plain, _by_sine, _by_cosine)


def lowered(platform, **bodies):
    run = jax.jit(lambda x: BOTH(x, factor=2.0, **bodies))
    return run.trace(jnp.ones(3)).lower(lowering_platforms=(platform,)).as_text()


def test_each_platform_gets_its_body_and_others_the_default():
    text = {p: lowered(p, tpu=_by_sine, cpu=_by_cosine) for p in ("tpu", "cpu", "cuda")}
    assert {p: ("sine" in t, "cosine" in t) for p, t in text.items()} == {
        "tpu": (True, False),
        "cpu": (True, True),
        "cuda": (False, False),
    }
    assert "cosine" in lowered("cuda", tpu=_by_sine, default=_by_cosine)


def test_bodies_that_a_kernel_does_not_list_are_refused():
    assert list(BOTH.bodies) == ["plain", "by_sine", "by_cosine"]
    with pytest.raises(ValueError, match="other is no body of this kernel: plain, by_sine, by_c"):
        BOTH(jnp.ones(3), factor=2.0, tpu=other)
