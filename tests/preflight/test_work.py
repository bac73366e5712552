import pytest

from moshijax.preflight import work
from tests.preflight.test_hlo import MODULE, OPS


def test_cycles_are_multiplied_by_trips_and_unknown_ones_left_out():
    done = work.count(MODULE)
    assert done.cycles == 300 + 8 * (1000 + 50000 + 2000)
    assert done.by_kind["matrix products and convolutions"] == 8 * 50000
    assert done.by_kind["elementwise and reductions"] == 8 * 3000
    assert done.by_kind["copies"] == 300
    assert done.kernels == 8


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
