import pytest

from moshijax.preflight import hlo, work
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


ASYNCHRONOUS = """
%async.1 (param_0.1: bf16[64,128]) -> bf16[16,128] {
  %param_0.1 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %slice.1 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} slice(%param_0.1), slice={[0:16], [0:128]}
}

ENTRY %main (p: bf16[64,128]) -> bf16[16,128] {
  %p = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %slice-start = ((bf16[64,128]{1,0}), bf16[16,128]{1,0:S(1)}) async-start(%p), calls=%async.1
  %copy-start = (bf16[64,128]{1,0:S(1)}, bf16[64,128]{1,0}, u32[]{:S(2)}) copy-start(%p)
  %copy-done = bf16[64,128]{1,0:S(1)} copy-done(%copy-start)
  %permute-start = (bf16[64,128]{1,0}, bf16[64,128]{1,0}) collective-permute-start(%p), channel_id=1
  %permute-done = bf16[64,128]{1,0} collective-permute-done(%permute-start)
  ROOT %slice-done = bf16[16,128]{1,0:S(1)} async-done(%slice-start), calls=%async.1
}
"""


def test_what_is_fetched_ahead_is_read_once():
    module = hlo.parse(ASYNCHRONOUS)
    types = {op.name: op.type for op in module.computations["main"]}
    moved = {op.name: work.traffic(module, op, types) for op in module.computations["main"]}
    assert moved.pop("p") > 0
    assert {name: count for name, count in moved.items() if count} == {
        "slice-start": 16 * 128 * 2,
        "copy-start": 64 * 128 * 2,
        "permute-start": 2 * 64 * 128 * 2,
    }
