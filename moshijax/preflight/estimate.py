"""From a compiled program to seconds, days and prices."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moshijax.preflight.collectives import Transfer
from moshijax.preflight.work import Work
from moshijax.train.chips import Chip


SECONDS_A_DAY = 86400.0

RULE = (
    "A step takes the cycles that the compiler estimates, less the slack that it has on what "
    "multiplies no matrices, kernels at the peak of their whole grid, and the collectives beside "
    "which nothing runs; but no less than all arithmetic at peak, or all collectives at the rate "
    "of the links. Feeding the chips is not counted."
)
AT_BEST = "Not compiled: all arithmetic at peak, which no program reaches."


class Flops(NamedTuple):
    """Arithmetic of a step on all chips, counted from its jaxpr with loops multiplied out."""

    executed: float
    model: float  # Forward and backward once, nothing computed a second time.
    kernels: float  # Of those executed: in Pallas kernels.


class Estimate(NamedTuple):
    """Seconds of a step: three lower bounds, what adds up, and what is expected."""

    compute: float  # All arithmetic at peak.
    memory: float  # All traffic of the main memory at its bandwidth.
    links: float  # All collectives.
    busy: float  # The compiler's estimate, calibrated: no Pallas kernels, no collectives.
    kernels: float
    exposed: float  # Collectives beside which nothing runs.
    step: float
    mfu: float
    bound: str  # What the step waits for most.
    rule: str


class Run(NamedTuple):
    """The whole run of a config."""

    steps: int
    per_day: Mapping[str, float]  # By unit.
    days: float
    chip_hours: float
    price: float | None


def estimate(
    flops: Flops, devices: int, chip: Chip, work: Work | None, transfers: Sequence[Transfer]
) -> Estimate:
    """The time of a step.

    Args:
        flops: of a step on all devices.
        devices: how many there are.
        chip: what each of them is.
        work: of one chip, from the compiled program; None: only a lower bound is known.
        transfers: collectives of a step on one chip.
    """
    compute = flops.executed / devices / chip.flops
    kernels = flops.kernels / devices / chip.flops
    memory = work.bytes / chip.bandwidth if work else 0.0
    busy = work.seconds if work else 0.0
    links = sum(t.seconds for t in transfers)
    exposed = sum(t.seconds for t in transfers if not t.overlapped)
    step = max(busy + kernels + exposed, compute, links)
    parts = {"compute": compute, "memory": memory, "interconnect": links}
    return Estimate(
        compute=compute,
        memory=memory,
        links=links,
        busy=busy,
        kernels=kernels if work else 0.0,
        exposed=exposed,
        step=step,
        mfu=flops.model / devices / chip.flops / step,
        bound=max(parts, key=lambda name: parts[name]),
        rule=RULE if work else AT_BEST,
    )


def whole_run(
    step: float, steps: int, counts: Mapping[str, int], chips: int, price: float | None
) -> Run:
    """What so many steps come to.

    Args:
        step: seconds of one.
        steps: of the run.
        counts: how much of each unit a step processes.
        chips: that are paid for.
        price: of a chip for an hour; None: not known.
    """
    days = step * steps / SECONDS_A_DAY
    chip_hours = days * 24 * chips
    per_day = {unit: count / step * SECONDS_A_DAY for unit, count in counts.items()}
    return Run(steps, per_day, days, chip_hours, None if price is None else price * chip_hours)
