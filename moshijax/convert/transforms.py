"""How a tensor of a file becomes parameters of ours, and back."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """How a tensor of a file becomes parameters of ours, and back."""

    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    join: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file and the paths of the parameters that it holds."""

    name: str
    paths: tuple[str, ...]
    transform: Transform


SAME = Transform(lambda a: (a,), lambda a: a)
LINEAR = Transform(lambda a: (a.T,), lambda a: a.T)
CONV = Transform(lambda a: (a.transpose(2, 1, 0),), lambda a: a.transpose(2, 1, 0))
POINTWISE = Transform(lambda a: (a[:, :, 0].T,), lambda a: a.T[:, :, None])
QKV = Transform(
    lambda a: tuple(part.T for part in a.reshape(3, -1, a.shape[1])),
    lambda q, k, v: np.concatenate([q.T, k.T, v.T]),
)


def conv_transpose(stride: int) -> Transform:
    """A kernel [I, O, K] and ours by phase, [taps, I, stride, O], the last tap first."""
    return Transform(
        lambda a: (a.reshape(*a.shape[:2], -1, stride).transpose(2, 0, 3, 1)[::-1],),
        lambda a: a[::-1].transpose(1, 3, 0, 2).reshape(a.shape[1], a.shape[3], -1),
    )


def depthwise_transpose(stride: int) -> Transform:
    """A depthwise kernel [C, 1, K] and ours by phase, [taps, 1, stride, C], the last tap first."""
    return Transform(
        lambda a: (a.reshape(*a.shape[:2], -1, stride).transpose(2, 1, 3, 0)[::-1],),
        lambda a: a[::-1].transpose(3, 1, 0, 2).reshape(a.shape[3], 1, -1),
    )


def halves(num_heads: int) -> Transform:
    """A projection whose heads are rotated by halves, and ours, rotated by pairs."""

    def split(a: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = a.reshape(num_heads, 2, -1, a.shape[1]).swapaxes(1, 2)
        return (rows.reshape(a.shape).T,)

    def join(a: np.ndarray) -> np.ndarray:
        pairs = a.shape[1] // num_heads // 2  # named, for a matrix without rows
        rows = a.T.reshape(num_heads, pairs, 2, a.shape[0]).swapaxes(1, 2)
        return rows.reshape(a.shape[1], a.shape[0])

    return Transform(split, join)
