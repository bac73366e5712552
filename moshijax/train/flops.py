"""Arithmetic of a program, counted from its jaxpr, and the peak of a device.

XLA's own count takes the body of a loop once; here it is taken as often as it runs.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr


# Dense bf16 peaks in FLOP/s a chip, from the vendors' data sheets.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def _dot(eqn: Any) -> float:
    (contract, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contract)
    return 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)


def _conv(eqn: Any) -> float:
    kernel = eqn.invars[1].aval.shape
    out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
    # A dilated input is mostly zeros, which cost nothing to a good convolution.
    zeros = math.prod(eqn.params["lhs_dilation"])
    window = math.prod(kernel) / kernel[out_axis]
    return 2.0 * window * math.prod(eqn.outvars[0].aval.shape) / zeros


def _inner(value: Any) -> list[Jaxpr]:
    values = value if isinstance(value, tuple | list) else [value]
    found = [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in values]
    return [v for v in found if isinstance(v, Jaxpr)]


def count(jaxpr: Jaxpr) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, loops multiplied out."""
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot(eqn)
        elif name == "conv_general_dilated":
            total += _conv(eqn)
        elif name == "cond":
            total += max(count(branch) for branch in _inner(eqn.params["branches"]))
        else:
            times = eqn.params["length"] if name == "scan" else 1
            total += times * sum(count(j) for v in eqn.params.values() for j in _inner(v))
    return total


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of one call of `function` with these arguments (arrays or shapes)."""
    return count(jax.jit(function).trace(*args).jaxpr.jaxpr)


def _measured_peak(size: int = 1024) -> float:
    """The best rate of a few float32 matrix products on the default device."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def peak_flops(devices: Any) -> float:
    """Peak FLOP/s of all devices: by their data sheet, on a CPU as measured once."""
    kind = devices[0].device_kind
    for prefix in sorted(PEAKS, key=len, reverse=True):
        if kind.startswith(prefix):
            return PEAKS[prefix] * len(devices)
    if devices[0].platform == "cpu":
        return _measured_peak()  # All CPU devices share the same cores.
    return math.nan
