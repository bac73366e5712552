import numpy as np
import pytest

from moshijax.preflight import collectives, hlo
from moshijax.preflight.topology import Slice
from moshijax.train.chips import CHIPS
from tests.preflight.test_hlo import MODULE


def place(closed=(False, False, False)):
    """2 x 4 chips, the rows of which are `data` and the columns `fsdp`."""
    points = np.array([(x, y, 0) for x in range(2) for y in range(4)])
    mesh = {"data": 2, "fsdp": 4, "tensor": 1}
    return Slice(CHIPS["v5e"], mesh, np.arange(8), points, (2, 4, 1), closed)


LINK = CHIPS["v5e"].link


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_replica_groups_are_read_in_every_notation(text, groups):
    assert collectives.replica_groups(text, 4) == groups


def test_replica_groups_in_an_unknown_notation_are_refused():
    with pytest.raises(ValueError, match="unknown notation"):
        collectives.replica_groups("replica_groups=all", 4)


def test_groups_become_mesh_axes():
    assert collectives.crossed([[0, 1, 2, 3], [4, 5, 6, 7]], place()) == "fsdp"
    assert collectives.crossed([[0, 4], [1, 5]], place()) == "data"
    assert collectives.crossed([[0, 5]], place()) == "data+fsdp"
    assert collectives.crossed([[3]], place()) == ""


def test_bytes_are_multiplied_by_trips_and_pieces_counted_once():
    found = {t.kind + t.axes: t for t in collectives.find(MODULE, place())}
    gather = found["all-gatherfsdp"]
    assert (gather.bytes, gather.times, gather.overlapped) == (64 * 1024 * 2, 8, True)
    assert gather.source == "nn/transformer.py:140"
    assert gather.seconds == pytest.approx(8 * 64 * 1024 * 2 * 3 / 4 / LINK)
    reduce = found["all-reducedata"]
    assert (reduce.bytes, reduce.times, reduce.overlapped) == (64 * 256 * 2, 8, False)
    assert reduce.seconds == pytest.approx(8 * 2 * 64 * 256 * 2 / 2 / LINK)
    permute = found["collective-permutefsdp"]
    assert (permute.bytes, permute.times, permute.overlapped) == (64 * 256 * 2, 24, True)
    assert found["all-reducedata+fsdp"].bytes == 4
    assert len(found) == 4


SCATTERED = """
%all-reduce-scatter.1 (input: bf16[64,128]) -> bf16[16,128] {
  %input = bf16[64,128]{1,0} parameter(0)
  %all-reduce.1 = bf16[64,128]{1,0} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %dynamic-slice.1 = bf16[16,128]{1,0} dynamic-slice(%all-reduce.1, %n, %n)
}

ENTRY %main (p: bf16[64,128]) -> bf16[16,128] {
  %p = bf16[64,128]{1,0} parameter(0)
  ROOT %fusion = bf16[16,128]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_fused_all_reduce_and_slice_is_a_reduce_scatter():
    (found,) = collectives.find(hlo.parse(SCATTERED), place())
    assert (found.kind, found.axes, found.bytes) == ("reduce-scatter", "fsdp", 16 * 128 * 2)
    assert found.seconds == pytest.approx(3 * 16 * 128 * 2 / LINK)


OFFLOADED = """
%called.1 (a: bf16[16,128], t: token[]) -> bf16[64,128] {
  %t = token[] parameter(1)
  %a = bf16[16,128]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[64,128]{1,0} all-gather(%a), channel_id=1, replica_groups=[2,4]<=[8]
}, execution_thread="sparsecore"

%async.1 (b: bf16[16,128], u: token[]) -> bf16[64,128] {
  %u = token[] parameter(1)
  %b = bf16[16,128]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[64,128]{1,0} call(%b, %u), to_apply=%called.1
}, execution_thread="sparsecore"

ENTRY %main (p: bf16[16,128]) -> bf16[64,128] {
  %p = bf16[16,128]{1,0} parameter(0)
  %start = ((bf16[16,128]{1,0}), bf16[64,128]{1,0}) async-start(%p), calls=%async.1
  ROOT %done = bf16[64,128]{1,0} async-done(%start)
}
"""


def test_what_the_sparse_cores_send_is_found():
    (found,) = collectives.find(hlo.parse(OFFLOADED), place())
    assert (found.kind, found.axes, found.bytes) == ("all-gather", "fsdp", 64 * 128 * 2)
    assert found.overlapped


def test_rings_are_twice_as_fast_as_lines_and_sides_add_up():
    row, column, both = [[0, 1, 2, 3]], [[0, 4]], [list(range(8))]
    assert collectives.link_rate(row, place()) == LINK
    assert collectives.link_rate(row, place((False, True, False))) == 2 * LINK
    assert collectives.link_rate([[0, 1]], place((False, True, False))) == LINK
    assert collectives.link_rate(column, place()) == LINK
    assert collectives.link_rate(both, place()) == 2 * LINK


def test_what_a_chip_receives_follows_from_kind_and_group():
    groups, here = [[0, 1, 2, 3]], place()
    received = {k: collectives.wire_bytes(k, 100.0, groups, here) for k in collectives.KINDS[:4]}
    assert received == {
        "all-gather": 75,
        "all-reduce": 150,
        "reduce-scatter": 300,
        "all-to-all": 75,
    }
    # Back to the start of a line is three links, of a ring one.
    line = [[0, 1], [1, 2], [2, 3], [3, 0]]
    assert collectives.wire_bytes("collective-permute", 100.0, line, here) == 150
    ring = place((False, True, False))
    assert collectives.wire_bytes("collective-permute", 100.0, line, ring) == 100


def test_sums_leave_out_what_stays_on_a_chip():
    found = collectives.find(MODULE, place())
    sums = {(s.kind, s.axes): s for s in collectives.summarize(found)}
    assert sums["all-gather", "fsdp"].bytes == 8 * 64 * 1024 * 2
    assert sums["all-gather", "fsdp"].exposed == 0
    assert sums["all-reduce", "data"].exposed == sums["all-reduce", "data"].seconds
    assert collectives.summarize([found[0]._replace(axes="")]) == []
