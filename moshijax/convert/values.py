"""Refuses values that no training leaves, such as NaN, while weights are read."""

import numpy as np

from moshijax.convert.safetensors import brief
from moshijax.convert.weights import Weights
from moshijax.system.errors import UserError


CHUNK = 1 << 18  # numbers, few enough to be still in the cache for the second search
REMEDY = "fetch it anew, or take an earlier checkpoint of its training"


def check_finite(file: Weights, name: str, array: np.ndarray) -> None:
    """Raises UserError if what was read of a tensor is not finite."""
    if array.dtype.kind not in "iub" and (value := not_finite(array)) is not None:
        stored = file.entries[name].dtype
        shown = f"{value} as {array.dtype}" if stored != array.dtype else f"{value}"
        raise UserError(f"{_where(file, name)} holds {shown}, which is no weight: {REMEDY}.")


def not_finite(array: np.ndarray) -> float | None:
    """Returns the first number that is NaN or infinite, if there is one.

    With their bits read as integers, NaN and infinity are larger than all finite numbers of the
    same sign. So the largest signed integer finds those above 0 and the largest unsigned one those
    below, for any type at the speed of memory and without a mask of the array's size.
    """
    width = array.dtype.itemsize
    signed, unsigned = np.dtype(f"i{width}"), np.dtype(f"u{width}")
    plus = int(np.array(np.inf, array.dtype).view(unsigned))
    minus = int(np.array(-np.inf, array.dtype).view(unsigned))
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        if chunk.view(signed).max() >= plus or chunk.view(unsigned).max() >= minus:
            with np.errstate(invalid="ignore"):  # A signalling NaN is told below.
                wide = chunk.astype(np.float64)
            return float(wide[~np.isfinite(wide)][0])
    return None


def check_codebook(file: Weights, name: str, part: str, array: np.ndarray) -> None:
    """Raises UserError if an array of a codebook is one that no training leaves.

    In Moshi's training the usage starts at 1 and stays above 0, since vectors that are hardly used
    are replaced; the sums are 0 only until they are initialised from data.
    """
    if part == "usage" and (least := array.min()) <= 0:
        at = int(array.argmin())
        raise UserError(
            f"{_where(file, name)} says that entry {at} was used {least} times, which must be "
            f"above 0: {REMEDY}, or ask for fewer codebooks."
        )
    if part == "embedding_sum" and not array.any():
        raise UserError(
            f"{_where(file, name)} is 0 throughout: this codebook was never trained; {REMEDY}, or "
            "ask for fewer codebooks."
        )


def _where(file: Weights, name: str) -> str:
    return f"{file.home(name).path}, tensor {brief(name)}"
