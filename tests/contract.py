"""What every streaming module must hold, in one function.

A test calls `assert_streams(module, x, sizes, state)` with a module (or a function with a
module's signature bound by `functools.partial` to a module-level function), a whole input, the
lengths of its chunks and the state of its `init_state`.
"""

import jax
import jax.numpy as jnp
import numpy as np


def call(module, x, state):
    return module(x, state)


run = jax.jit(call)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def stream(module, x, sizes, state, run=run):
    """Runs the chunks one after the other; the state must keep its shapes and dtypes."""
    assert sum(sizes) == x.shape[1]
    outputs, start = [], 0
    for size in sizes:
        y, new = run(module, x[:, start : start + size], state)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert shapes(new) == shapes(state)
        outputs.append(y)
        start, state = start + size, new
    return jnp.concatenate(outputs, axis=1), state


def assert_streams(module, x, sizes, state, *, atol=1e-5):
    """Checks that chunks give the whole, that rows are apart and that time runs forward."""
    whole, end = run(module, x, None)
    assert end is None
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size]
    assert len(set(buffers)) == len(buffers), "a state that shares a buffer cannot be donated"
    assert np.abs(whole).max() > 100 * atol, "the output is too small to tell anything"
    pieces, _ = stream(module, x, sizes, state)
    np.testing.assert_allclose(pieces, whole, atol=atol, rtol=0)
    assert_rows_are_apart(module, x, sizes, state, pieces)
    assert_causal(module, x, sizes, state, pieces)


def assert_rows_are_apart(module, x, sizes, state, y):
    """A row of NaN leaves the other rows as they were."""
    with_garbage, _ = stream(module, x.at[0].set(jnp.nan), sizes, state)
    assert x.shape[0] > 1
    np.testing.assert_array_equal(with_garbage[1:], y[1:])


def assert_causal(module, x, sizes, state, y):
    """What comes in the last chunk leaves what came before it as it was, whole or in pieces."""
    if len(sizes) < 2:
        return
    start = x.shape[1] - sizes[-1]
    kept = y.shape[1] * start // x.shape[1]
    spoilt = x.at[:, start:].set(jnp.nan)
    pieces, _ = stream(module, spoilt, sizes, state)
    np.testing.assert_array_equal(pieces[:, :kept], y[:, :kept])
    assert np.isnan(pieces[:, kept:]).any()
    # A mask gives future values the weight 0, which a NaN would survive: large numbers instead.
    whole, _ = run(module, x.at[:, start:].set(1e4), None)
    np.testing.assert_allclose(whole[:, :kept], y[:, :kept], atol=1e-5, rtol=0)


def assert_same_gradients(module, x, sizes, state, *, atol=1e-4):
    """The gradients of the chunks, with respect to module and input, are those of the whole."""

    def loss(module, x, sizes):
        if sizes is None:
            y, _ = call(module, x, None)
        else:
            y, _ = stream(module, x, sizes, state, run=call)
        weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.sum(y * weights)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    whole, pieces = gradient(module, x, None), gradient(module, x, tuple(sizes))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        np.testing.assert_allclose(a, b, atol=atol * max(1.0, float(np.abs(a).max())), rtol=0)
    assert max(float(np.abs(a).max()) for a in jax.tree.leaves(whole)) > 100 * atol


def assert_rows_restart_and_pause(module, x, size, state, axes):
    """A row that starts again begins a stream; a row that sits out goes on where it was."""
    from moshijax.nn.streaming import hold_rows, select_rows

    fresh = state
    first, second, third = x[:, :size], x[:, size : 2 * size], x[:, 2 * size : 3 * size]
    a, state = run(module, first, state)
    again = jnp.arange(x.shape[0]) == 0
    restarted = select_rows(again, fresh, state, axes)
    y, _ = run(module, jnp.where(again[:, None, None], first, second), restarted)
    b, after = run(module, second, state)
    np.testing.assert_allclose(y[0], a[0], atol=1e-6)
    np.testing.assert_allclose(y[1:], b[1:], atol=1e-6)
    held = hold_rows(~again, after, state, axes)
    c, _ = run(module, jnp.where(again[:, None, None], second, third), held)
    d, _ = run(module, third, after)
    np.testing.assert_allclose(c[0], b[0], atol=1e-6)
    np.testing.assert_allclose(c[1:], d[1:], atol=1e-6)
