"""Every body of every kernel against the kernel's reference, on a CPU."""

import ast
import dataclasses
import functools
import importlib
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moshijax.kernels
from moshijax.kernels.cache import KVCache
from moshijax.kernels.dispatch import Kernel


PACKAGE = pathlib.Path(moshijax.kernels.__file__).parent
ROOT = PACKAGE.parent.parent


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Shapes of the arrays of a kernel, drawn in a type, or a function that makes them."""

    arrays: tuple[Any, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def draw(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


def integers(shape, bits):
    def make(key, dtype):
        most = 2 ** (bits - 1)
        return jax.random.randint(key, shape, -most, most).astype(f"int{bits}")

    return make


def mask(queries, keys, rows=1):
    """Each query sees at least one key: causal at the end, and one more."""

    def make(key, dtype):
        ages = keys - queries + np.arange(queries)[:, None] - np.arange(keys)[None]
        return jnp.asarray(np.broadcast_to(ages >= 0, (rows, queries, keys)))

    return make


def cache(slots, ends):
    def make(key, dtype):
        a, b = jax.random.split(key)
        shape = (len(ends), 2, 4, slots)
        k, v = draw(a, shape, dtype), draw(b, (*shape[:2], slots, 4), dtype)
        return KVCache(k, v, jnp.array(ends, jnp.int32))

    return make


def filled(slots, ends):
    """The slots that have been written: no body may need others."""

    def make(key, dtype):
        return jnp.arange(slots)[None, None] < jnp.array(ends)[:, None, None]

    return make


def positions(slots, ends, length):
    def make(key, dtype):
        last = jnp.array(ends, jnp.int32)[:, None] + length - 1
        return last - (last - jnp.arange(slots, dtype=jnp.int32)[None]) % slots

    return make


def scale(shape):
    def make(key, dtype):
        return jnp.abs(jax.random.normal(key, shape)) + 0.1

    return make


def angles(function):
    def make(key, dtype):
        return function(jnp.arange(5 * 4, dtype=jnp.float32).reshape(1, 5, 1, 4))

    return make


QKV = ((2, 3, 2, 4), (2, 2, 4, 9), (2, 2, 9, 4))
INPUTS = {
    "matmul.PRODUCT": [Inputs(((b, t, 6), (6, 5))) for b, t in ((1, 1), (2, 1), (2, 4))],
    "attend.ATTEND": [Inputs((*QKV, mask(3, 9))), Inputs((*QKV, mask(3, 9, rows=2)))],
    # Off the window, and a multiple of it.
    "attend.WHOLE": [Inputs(((2, n, 2, 4),) * 3, {"context": 4}) for n in (3, 13, 16)],
    "attend.FEW_KEYS": [
        Inputs(((3, t, 2, 4), (3, s, 2, 4), (3, s, 2, 4), mask(t, s))) for t, s in ((8, 8), (1, 5))
    ],
    # The second begins before the end of the ring and goes on at its start.
    "cache.WRITE": [
        Inputs((cache(6, ends), (2, 3, 2, 4), (2, 3, 2, 4), positions(6, ends, 3)))
        for ends in ((0, 2), (5, 22))
    ],
    # A quarter, a half and the whole of the ring.
    "cache.READ": [
        Inputs(((2, 1, 2, 4), cache(300, ends), filled(300, ends)))
        for ends in ((1, 70), (150, 20), (299, 700))
    ],
    "rope.TURN": [Inputs(((2, 5, 3, 8), angles(jnp.cos), angles(jnp.sin)))],
    "quant_matmul.CHANNELS": [
        Inputs(((b, t, 512), integers((512, 6), bits)))
        for b, t, bits in ((1, 1, 8), (2, 3, 8), (1, 1, 4))
    ],
    "quant_matmul.BLOCKS": [
        Inputs(((b, t, 256), integers((256, 6), bits), scale((256 // width, 6))))
        for b, t, bits, width in ((1, 1, 8, 8), (2, 3, 4, 8), (1, 3, 8, 128), (1, 70, 4, 32))
    ],
    # Windows shorter than, equal to and longer than the stream; lengths on and off a block of 512.
    "fused.FUSED": [
        Inputs(((1, n, 2, 16),) * 3, {"context": context})
        for n, context in ((700, 150), (700, 700), (512, 2000), (1100, 600))
    ],
}
# Pallas' bodies run where their machine is not.
OWN_OPTIONS = {("fused.FUSED", "splash"): {"interpret": True}}
# What no CPU runs: a test looks at what is lowered instead (test_fused.py).
LOWERED = {("fused.FUSED", "cudnn")}
# XLA:CPU does not run these products of bfloat16 into float32 ("unsupported element type").
IN_FLOAT32_ALONE = {("quant_matmul.BLOCKS", "block_by_block")}


def kernels():
    """Returns every kernel of the package by the name of its file and its own."""
    found = {}
    for info in pkgutil.iter_modules([str(PACKAGE)]):
        module = importlib.import_module(f"moshijax.kernels.{info.name}")
        found |= {f"{info.name}.{n}": x for n, x in vars(module).items() if isinstance(x, Kernel)}
    return found


KERNELS = kernels()
CASES = [
    pytest.param(name, body, inputs, dtype, id=f"{name}-{body}-{i}-{dtype}")
    for name, kernel in KERNELS.items()
    for body, function in kernel.bodies.items()
    if function is not kernel.reference and (name, body) not in LOWERED
    for i, inputs in enumerate(INPUTS.get(name, []))
    for dtype in ("float32", "bfloat16")
    if dtype == "float32" or (name, body) not in IN_FLOAT32_ALONE
]


def make(inputs, dtype):
    """Draws the arrays of a case, and the weights that make one number of a result."""
    keys = jax.random.split(jax.random.key(0), len(inputs.arrays))
    return tuple(
        array(key, dtype) if callable(array) else draw(key, array, dtype)
        for key, array in zip(keys, inputs.arrays, strict=True)
    )


def is_floating(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(
    body: Callable[..., Any], options: tuple[tuple[str, Any], ...], arrays: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The result of a body, and the gradient of its weighted sum by all that is floating."""
    leaves, tree = jax.tree.flatten(arrays)
    chosen = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

    def total(floating):
        own = list(leaves)
        for i, leaf in zip(chosen, floating, strict=True):
            own[i] = leaf
        result = body(*jax.tree.unflatten(tree, own), **dict(options))
        floats = [x.astype(jnp.float32) for x in jax.tree.leaves(result) if is_floating(x)]
        weights = [jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape) for x in floats]
        return sum((x * w).sum() for x, w in zip(floats, weights, strict=True)), result

    (_, result), gradient = jax.value_and_grad(total, has_aux=True)([leaves[i] for i in chosen])
    return result, gradient


def in_float32(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if is_floating(x) else x, tree)


@pytest.mark.parametrize(("name", "body", "inputs", "dtype"), CASES)
def test_a_body_equals_the_reference_in_value_and_gradient(name, body, inputs, dtype):
    kernel, arrays = KERNELS[name], make(inputs, dtype)
    options = inputs.options | OWN_OPTIONS.get((name, body), {})
    got, gradient = value_and_gradient(kernel.bodies[body], tuple(options.items()), arrays)
    reference, given = kernel.reference, tuple(inputs.options.items())
    want, wanted = value_and_gradient(reference, given, in_float32(arrays))
    own = jax.eval_shape(functools.partial(reference, **inputs.options), *arrays)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, own)
    for a, b in zip(jax.tree.leaves((got, gradient)), jax.tree.leaves((want, wanted)), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()))


def test_every_kernel_has_inputs_and_is_where_this_test_finds_it():
    assert KERNELS.keys() == INPUTS.keys()
    assert all(INPUTS.values())
    built = []
    for path in (*ROOT.glob("moshijax/**/*.py"), *ROOT.glob("distill/**/*.py")):
        tree = ast.parse(path.read_text())
        called = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        built += [name for name in called if name.split(".")[-1] == "Kernel"]
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert "platform_dependent" not in names or path.name == "dispatch.py", path
    assert len(built) == len(KERNELS)


def test_bodies_that_are_treated_apart_are_there():
    apart = (*LOWERED, *OWN_OPTIONS, *IN_FLOAT32_ALONE)
    assert all(body in KERNELS[name].bodies for name, body in apart)
