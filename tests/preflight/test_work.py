import pytest

from moshijax.preflight import work
from moshijax.train.chips import CHIPS
from tests.preflight.test_hlo import MODULE, OPS


def test_cycles_are_multiplied_by_trips_and_unknown_ones_left_out():
    chip = CHIPS["v5e"]._replace(clock=1.0, slack=2.0, bandwidth=1e9)
    done = work.count(MODULE, chip)
    assert done.cycles == 300 + 8 * (1000 + 50000 + 2000)
    assert done.by_kind == {
        work.PRODUCTS: 8 * 50000,  # As estimated.
        "elementwise and reductions": 8 * 1500,
        "copies": 150,
    } | dict.fromkeys(
        set(done.by_kind) - {work.PRODUCTS, "elementwise and reductions", "copies"}, 0
    )
    assert done.seconds == sum(done.by_kind.values())
    assert done.kernels == 8


def test_nothing_is_faster_than_its_bytes():
    chip = CHIPS["v5e"]._replace(clock=1.0, slack=2.0, bandwidth=0.5)
    assert work.seconds("copies", 300, 8.0, chip) == 150
    assert work.seconds("copies", 300, 100.0, chip) == 200
    assert work.seconds(work.PRODUCTS, 300, 1000.0, chip) == 300
    assert work.seconds("custom-call", 0, 1000.0, chip) == 0


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("slice_fusion", 64 * 256 * 4 + 4),  # One layer is read; the result stays on the chip.
        ("update_fusion", 64 * 256 * (2 + 4) + 4),  # One layer of eight is written.
        ("copy.1", 8),
        ("all-reduce.1", 64 * 256 * 2),
    ],
)
def test_traffic_is_what_is_touched_not_what_is_named(name, count):
    computation = next(ops for ops in MODULE.computations.values() if OPS[name] in ops)
    types = {op.name: op.type for op in computation}
    assert work.traffic(MODULE, OPS[name], types) == count
