import pytest

from moshijax.preflight import estimate
from moshijax.preflight.collectives import Transfer
from moshijax.preflight.work import Work
from moshijax.train.chips import CHIPS


CHIP = CHIPS["v5e"]


def transfer(seconds, overlapped):
    return Transfer("all-gather", 1.0, 1, "fsdp", seconds, overlapped, "", "")


def work(seconds):
    return Work(0.0, seconds, 0.25 * seconds * CHIP.bandwidth, {}, 0)


def test_what_adds_up_is_cycles_kernels_and_exposed_collectives():
    flops = estimate.Flops(executed=4 * CHIP.flops, model=3 * CHIP.flops, kernels=CHIP.flops)
    sent = [transfer(1.0, True), transfer(0.5, False)]
    found = estimate.estimate(flops, 4, CHIP, work(2.0), sent)
    assert found.step == pytest.approx(2.0 + 0.25 + 0.5)
    assert (found.compute, found.memory, found.links) == pytest.approx((1.0, 0.5, 1.5))
    assert found.mfu == pytest.approx(3 / 4 / 2.75)
    assert found.bound == "interconnect"


@pytest.mark.parametrize(("cycles", "sent"), [(0.5, 0.1), (0.1, 4.0)])
def test_no_step_is_faster_than_its_arithmetic_or_its_links(cycles, sent):
    flops = estimate.Flops(executed=CHIP.flops, model=CHIP.flops, kernels=0.0)
    found = estimate.estimate(flops, 1, CHIP, work(cycles), [transfer(sent, True)])
    assert found.step == max(1.0, sent)


def test_without_a_program_the_time_is_that_of_the_arithmetic():
    flops = estimate.Flops(executed=2 * CHIP.flops, model=CHIP.flops, kernels=CHIP.flops)
    found = estimate.estimate(flops, 1, CHIP, None, [])
    assert (found.step, found.mfu, found.kernels) == (2.0, 0.5, 0.0)
    assert found.rule == estimate.AT_BEST


def test_a_run_is_paid_by_chips_and_hours():
    run = estimate.whole_run(0.5, 172_800, {"images": 4096}, chips=32, price=1.5)
    assert (run.days, run.chip_hours, run.price) == (1.0, 768.0, 1152.0)
    assert run.per_day == {"images": 4096 * 172_800}
    assert estimate.whole_run(0.5, 1, {}, 1, None).price is None
