"""What the values of a config may be: a sentence for each that no run can have.

The keys that every experiment shares are checked by `check`; an experiment checks its own with the
same few functions. All of them take what was found, and its key as the command line spells it.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from moshijax.system.errors import UserError
from moshijax.system.paths import local_path


Found = TypeVar("Found")
DTYPES = ("float32", "bfloat16", "float16")
MAX_SEED = 2**32 - 1  # JAX's keys drop the bits above.
# A larger learning rate is a typing error: published ones end near 30.
MAX_LEARNING_RATE = 1000.0


def refusal(found: object, key: str, allowed: str) -> UserError:
    """The error that says what `config.KEY` may be; `allowed` is in words."""
    return UserError(f"config.{key}: {found!r} is refused: set --config.{key} to {allowed}.")


def whole(found: object, key: str, least: int, most: int | None = None) -> int:
    """A whole number within bounds.

    Args:
        found: the value of a config.
        key: its path below the config, for the error.
        least: the smallest value allowed.
        most: the largest value allowed; None: there is none.

    Raises:
        UserError: it is no whole number, or out of bounds.
    """
    if (
        not isinstance(found, int)
        or isinstance(found, bool)
        or found < least
        or (most is not None and found > most)
    ):
        bounds = f"from {least} on" if most is None else f"from {least} to {most}"
        raise refusal(found, key, f"a whole number {bounds}")
    return found


def number(found: object, key: str, most: float = math.inf, *, positive: bool = False) -> float:
    """A finite number from 0 to `most`, both allowed; 0 is not where it must be `positive`.

    Raises:
        UserError: it is no number, or out of bounds.
    """
    if (
        not isinstance(found, int | float)
        or isinstance(found, bool)
        or not math.isfinite(found)
        or not 0 <= found <= most
        or (positive and not found)
    ):
        bounds = "above 0" if positive else "from 0 on" if math.isinf(most) else "from 0"
        bounds += "" if math.isinf(most) else f" to {most:g}"
        raise refusal(found, key, f"a finite number {bounds}")
    return found


def one_of(found: Found, key: str, allowed: Iterable[object]) -> Found:
    """A value of a config, which must be one of those allowed.

    Raises:
        UserError: it is none of them.
    """
    allowed = tuple(allowed)
    if found not in allowed:
        raise refusal(found, key, f"one of {', '.join(map(str, allowed))}")
    return found


def dtype(found: object, key: str) -> np.dtype:
    """The type that a key names, of those that can be trained in.

    Raises:
        UserError: it names another, or none.
    """
    return jnp.dtype(str(one_of(found, key, DTYPES)))


def check(config: ConfigDict) -> None:
    """Checks what the training loop reads of every experiment, and what belongs together.

    The optimizer's keys are checked where it is made, the mesh's where that is made.

    Raises:
        UserError: a value that no run can have.
    """
    _check_paths(config.to_dict(), "config")
    whole(config.seed, "seed", 0, MAX_SEED)
    for key in ("num_steps", "batch_size", "accumulate", "keep_checkpoints"):
        whole(config[key], key, 1)
    every = ("log_every", "eval_every", "checkpoint_every")
    for key in (*every, "read_ahead", "vmem_kib", "max_rollbacks"):
        whole(config[key], key, 0)
    rows, parts = config.batch_size, config.accumulate
    if rows % parts:
        raise UserError(
            f"config.accumulate: {parts} pieces do not divide a batch of {rows} rows: set "
            f"--config.accumulate to a divisor of {rows}, or --config.batch_size to a multiple "
            f"of {parts}."
        )
    if "evaluation" in config:
        whole(config.evaluation.batch_size, "evaluation.batch_size", 1)
        unknown = sorted(set(config.final_sets) - set(config.evaluation.sets))
        if unknown:
            known = ", ".join(config.evaluation.sets) or "none"
            raise UserError(
                f"config.final_sets: {unknown[0]!r} is no evaluation set: there are {known}."
            )


def _check_paths(found: object, key: str) -> None:
    """Refuses URLs wherever a config may name a path: only weights are read from the hub."""
    if isinstance(found, dict):
        for name, value in found.items():
            _check_paths(value, f"{key}.{name}")
    elif found and isinstance(found, str):
        local_path(key, found.removeprefix("hf://" if key.endswith(".load") else "folder:"))
