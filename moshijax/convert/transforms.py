"""Transforms between the layouts of a file and ours: transpose, split, join, permute."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """How a tensor of a file becomes parameters of ours (`split`), and back (`join`)."""

    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    join: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file and the paths of the parameters that it holds."""

    name: str
    paths: tuple[str, ...]
    transform: Transform


# A file has kernels as PyTorch does, [out, in] and [out, in, taps]; ours are [in, out] and
# [taps, in, out].
SAME = Transform(lambda a: (a,), lambda a: a)
LINEAR = Transform(lambda a: (a.T,), lambda a: a.T)
CONV = Transform(lambda a: (a.transpose(2, 1, 0),), lambda a: a.transpose(2, 1, 0))
POINTWISE = Transform(lambda a: (a[:, :, 0].T,), lambda a: a.T[:, :, None])
# q, k and v are one matrix [3 out, in] in a file and three [in, out] here.
QKV = Transform(
    lambda a: tuple(part.T for part in a.reshape(3, -1, a.shape[1])),
    lambda q, k, v: np.concatenate([q.T, k.T, v.T]),
)


def conv_transpose(stride: int) -> Transform:
    """From a kernel [I, O, K] to one for each phase of the output, [taps, I, stride, O].

    K is taps * stride; the last tap comes first.
    """
    return Transform(
        lambda a: (a.reshape(*a.shape[:2], -1, stride).transpose(2, 0, 3, 1)[::-1],),
        lambda a: a[::-1].transpose(1, 3, 0, 2).reshape(a.shape[1], a.shape[3], -1),
    )


def depthwise_transpose(stride: int) -> Transform:
    """From a depthwise kernel [C, 1, K] to ours by phase, [taps, 1, stride, C], last tap first."""
    return Transform(
        lambda a: (a.reshape(*a.shape[:2], -1, stride).transpose(2, 1, 3, 0)[::-1],),
        lambda a: a[::-1].transpose(3, 1, 0, 2).reshape(a.shape[3], 1, -1),
    )


def halves(num_heads: int) -> Transform:
    """Permutes q or k for RoPE: theirs turns (i, i + H/2) of a head, ours (2i, 2i + 1)."""

    def split(a: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = a.reshape(num_heads, 2, -1, a.shape[1]).swapaxes(1, 2)
        return (rows.reshape(a.shape).T,)

    def join(a: np.ndarray) -> np.ndarray:
        pairs = (
            a.shape[1] // num_heads // 2
        )  # Not -1, which cannot be inferred for a matrix without rows.
        rows = a.T.reshape(num_heads, pairs, 2, a.shape[0]).swapaxes(1, 2)
        return rows.reshape(a.shape[1], a.shape[0])

    return Transform(split, join)
