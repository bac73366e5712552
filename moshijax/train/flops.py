"""Arithmetic of a program, counted from its jaxpr, and the peak of a device.

XLA's own count takes the body of a loop once; here it is taken as often as it runs.
"""

import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import PyTree

from moshijax.train import chips


RECOMPUTED = "rematted_computation"  # What JAX calls the second forward pass of a checkpoint.


def _shape(operand: Var | Literal) -> tuple[int, ...]:
    """The shape of what an equation takes or gives."""
    if not isinstance(operand.aval, ShapedArray):
        raise TypeError(f"{operand.aval} is no array")
    return operand.aval.shape


def _dot(eqn: JaxprEqn) -> float:
    (contract, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(_shape(eqn.invars[0])[axis] for axis in contract)
    return 2.0 * depth * math.prod(_shape(eqn.outvars[0]))


def _conv(eqn: JaxprEqn) -> float:
    kernel = _shape(eqn.invars[1])
    out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
    # Of a dilated input one element in so many is not a zero put in: the zeros are not multiplied.
    zeros = math.prod(eqn.params["lhs_dilation"])
    window = math.prod(kernel) / kernel[out_axis]
    return 2.0 * window * math.prod(_shape(eqn.outvars[0])) / zeros


def _inner(value: object) -> list[Jaxpr]:
    values = value if isinstance(value, tuple | list) else [value]
    found = [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in values]
    return [v for v in found if isinstance(v, Jaxpr)]


def _times(eqn: JaxprEqn) -> int:
    """How often the jaxprs inside an equation run, over all devices."""
    params = eqn.params
    if eqn.primitive.name == "scan":
        return params["length"]
    if eqn.primitive.name == "pallas_call":
        # All blocks of the grid count: a jaxpr does not say which of them a mask skips.
        return math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    if eqn.primitive.name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def count(jaxpr: Jaxpr, recomputed: bool = True) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, loops multiplied out.

    Without `recomputed`, what a checkpointed function computes a second time is left out:
    what remains are the model's own FLOPs, from which the MFU is computed.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if not recomputed and RECOMPUTED in str(eqn.source_info.name_stack):
            continue
        if name == "dot_general":
            total += _dot(eqn)
        elif name == "conv_general_dilated":
            total += _conv(eqn)
        elif name == "cond":
            total += max(count(branch, recomputed) for branch in _inner(eqn.params["branches"]))
        else:
            inner = [j for v in eqn.params.values() for j in _inner(v)]
            total += _times(eqn) * sum(count(j, recomputed) for j in inner)
    return total


def count_kernels(jaxpr: Jaxpr) -> float:
    """FLOPs of the same kind, but only those inside of Pallas kernels."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = [j for v in eqn.params.values() for j in _inner(v)]
        inside = count if eqn.primitive.name == "pallas_call" else count_kernels
        total += _times(eqn) * sum(map(inside, inner))
    return total


def own_flops(
    function: Callable[..., object], *args: PyTree[jax.Array | jax.ShapeDtypeStruct]
) -> float:
    """FLOPs of one call with these arguments (arrays or shapes), nothing computed again."""
    return count(jax.jit(function).trace(*args).jaxpr.jaxpr, recomputed=False)


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


def peak_flops(devices: Sequence[jax.Device] | np.ndarray) -> float:
    """Peak FLOP/s of all devices: by their data sheet, on a CPU as measured once, else NaN."""
    chip = chips.find(devices[0].device_kind)
    if chip is not None:
        return chip.flops * len(devices)
    if devices[0].platform == "cpu":
        return _measured_peak()  # All CPU devices share the same cores.
    return math.nan
