"""What teacher and student see: one sampled plan, rendered for each model.

A plan holds, for every image of a batch, the box and the flip of each model's view and
the mixup coefficient (Beyer et al. 2022, section 3). It is a pure function of the seed,
the data order, the step and the row, whichever rows a process holds, and it can be stored
as arrays and rendered again. Boxes are in pixels of the original image: every model gets
the same piece of it at its own resolution.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int64, UInt8

from distill.vision import crops
from moshijax.data.order import Purpose, Stream
from moshijax.system.errors import UserError


class View(NamedTuple):
    """Where in the original image a model looks, row by row."""

    box: Float32[np.ndarray, "B 4"]  # top, left, height, width
    flip: Bool[np.ndarray, " B"]


class Plan(NamedTuple):
    """One batch's rows of the data set, views and mixup coefficient."""

    index: Int64[np.ndarray, " B"]
    student: View
    teacher: View
    mix: np.float32  # mixup's lambda: an image's own share; 1: no mixup


class Design(NamedTuple):
    """The crops of student and teacher, and whether they are the same.

    A fixed teacher's view does not change with the step, so that its targets can be
    computed once; `ensemble` is how many such views they are averaged over.
    """

    student: str
    teacher: str
    shared: bool = False
    fixed: bool = False
    ensemble: int = 1


# The designs of the paper's figure 3; mixup comes on top of any of them.
DESIGNS = {
    "fix/rs": Design("rs", "rs", shared=True, fixed=True),
    "fix/cc": Design("rc", "cc", fixed=True),
    "fix/ic_ens": Design("ic", "ic", fixed=True, ensemble=1000),
    "ind/rc": Design("rc", "rc"),
    "ind/ic": Design("ic", "ic"),
    "same/rc": Design("rc", "rc", shared=True),
    "same/ic": Design("ic", "ic", shared=True),
}


def design_of(name: str) -> Design:
    """Looks a design up by its code."""
    if name not in DESIGNS:
        raise ValueError(f"Unknown view design {name!r}; choose one of {', '.join(DESIGNS)}.")
    return DESIGNS[name]


def sample_plan(
    design: str,
    *,
    seed: int,
    order: int,
    step: int,
    batch_size: int,
    rows: Int[np.ndarray, " B"],
    index: Int[np.ndarray, " B"],
    sizes: Int[np.ndarray, "B 2"],
    resolution: int,
    mixup: float,
    inception: str = "tf",
    margin: float = crops.MARGIN,
) -> Plan:
    """Samples the plan of the global batch's `rows`, which are the data set's `index`.

    `sizes` are the heights and widths of these images. Every draw is made for the whole
    batch and then selected, so that a row's view does not depend on the other rows held.
    """
    chosen = design_of(design)
    sampler = crops.Sampler(sizes, rows, batch_size, resolution, inception, margin)
    student = _view(chosen.student, sampler, Stream(seed, order, step, Purpose.STUDENT_VIEW))
    teacher = student
    if not chosen.shared:
        teacher = _view(chosen.teacher, sampler, Stream(seed, order, step, Purpose.TEACHER_VIEW))
    return Plan(
        np.asarray(index, np.int64),
        student,
        teacher,
        _mix(mixup, Stream(seed, order, step, Purpose.MIX)),
    )


def sample_view(
    crop: str,
    *,
    seed: int,
    draw: int,
    batch: int,
    batch_size: int,
    rows: Int[np.ndarray, " B"],
    sizes: Int[np.ndarray, "B 2"],
    resolution: int,
    margin: float = crops.MARGIN,
    inception: str = "tf",
) -> View:
    """Samples one view of the images of an evaluation batch; `draw` numbers repetitions."""
    sampler = crops.Sampler(sizes, rows, batch_size, resolution, inception, margin)
    return _view(crop, sampler, Stream(seed, draw, batch, Purpose.EVALUATION_VIEW))


def _view(crop: str, sampler: crops.Sampler, stream: Stream) -> View:
    box = sampler.boxes(crop, stream.generator)
    if crop in crops.FIXED:  # a crop without randomness is not flipped either
        return View(box, np.zeros(len(box), bool))
    # Attempts of a crop are counted from 1.
    coin = stream.generator(0).random(sampler.batch_size, np.float32)
    return View(box, coin[sampler.rows] < 0.5)


def _mix(concentration: float, stream: Stream) -> np.float32:
    """Draws lambda from Beta(p, p), folded to at least 1/2, which keeps the law of the pairs."""
    if concentration < 0:
        raise ValueError(
            f"mixup must be 0 (none) or a positive concentration, not {concentration}."
        )
    if concentration == 0:
        return np.float32(1)
    share = stream.generator(0).beta(concentration, concentration)
    return np.float32(max(share, 1 - share))


def to_arrays(plan: Plan) -> dict[str, np.ndarray]:
    """A plan as named arrays, for `numpy.savez`."""
    return {
        "index": plan.index,
        "student_box": plan.student.box,
        "student_flip": plan.student.flip,
        "teacher_box": plan.teacher.box,
        "teacher_flip": plan.teacher.flip,
        "mix": np.asarray(plan.mix, np.float32),
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Plan:
    """The plan that `to_arrays` wrote.

    Raises:
        UserError: they are of something else.
    """
    names = ("index", "student_box", "student_flip", "teacher_box", "teacher_flip", "mix")
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"A stored plan lacks the arrays {', '.join(missing)}; sample it again.")
    index, box, flip, teacher_box, teacher_flip, mix = (np.asarray(arrays[n]) for n in names)
    return Plan(index, View(box, flip), View(teacher_box, teacher_flip), np.float32(mix))


def to_float(images: UInt8[Array, "*B H W C"]) -> Float32[Array, "*B H W C"]:
    """Maps bytes to [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def mix(images: Float[Array, "B *rest"], coefficient: Float[Array, ""]) -> Float[Array, "B *rest"]:
    """Blends each image of the global batch with the one before it."""
    share = coefficient.astype(images.dtype)
    return share * images + (1 - share) * jnp.roll(images, 1, axis=0)
