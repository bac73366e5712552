import jax
import numpy as np
import pytest

from moshijax import shard
from moshijax.preflight import hlo, memory
from moshijax.train import program
from tests.preflight import stack
from tests.preflight.test_hlo import MODULE
from tests.train.toy import RULES


EARLY = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(19.33G) exceeds available HBM (15.75G)."
)
LATE = """RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile permanent error. Ran out \
of memory in memory space hbm. Used 15.79G of 15.75G hbm. Exceeded hbm capacity by 42.92M.

Total hbm usage >= 16.04G:
    reserved        258.03M
    program          14.41G
    arguments         1.38G

  Largest program allocations in hbm:

  1. Size: 4.50G
     Operator: op_name="jit(step)/jvp()/while/body/bqhd,bkhd->bhqk/dot_general"
     Shape: f32[4,32,3072,3072]{2,3,1,0:T(8,128)}
     Unpadded size: 4.50G

  2. Size: 192.0M
     Shape: bf16[4,3072,8192]{2,1,0:T(8,128)(2,1)}
"""
VMEM = "RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom: size 128.00M and limit 16.00M"

REPORT = """Memory Space: vmem (color=1)
Total bytes: 87031808 (83.00MiB)

Memory Space: default (color=0)
Total bytes: 20754975232 (19.33GiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
"""
ASSIGNMENT = """BufferAssignment:
allocation 1: size 900000000, parameter 7, shape |f32[3]| at ShapeIndex {}, maybe-live-out:
 value: <4355 param.17 @0> (size=900000000,offset=0): f32[3]{0:T(128)}
allocation 75: size 4000000, preallocated-temp:
 value: <643 slice_fusion @0> (size=3000000,offset=1000000): bf16[600,256]{1,0:T(8,128)(2,1)}
 value: <644 fusion.1{0} @0> (size=2000000,offset=2000000): bf16[400,256]{1,0:T(8,128)(2,1)}
 value: <652 tuple.9{} @0> (size=3500000,offset=0): (bf16[8], u32[]{:S(2)})
 value: <655 unheard.of @0> (size=500000,offset=0): f32[8]{0:T(128)}
 value: <656 copy.1 @0> (size=512,offset=600000): f32[]{:T(128)}
allocation 76: size 500000000, color 1, preallocated-temp:
 value: <660 copy.2 @0> (size=500000000,offset=0): f32[9]{0:T(128)S(1)}
"""


def test_refusals_for_memory_are_read_in_both_forms():
    found = memory.read_overflow(EARLY)
    assert (found.needed, found.available) == (19.33 * 2**30, 15.75 * 2**30)
    found = memory.read_overflow(LATE)
    assert (found.needed, found.available) == (15.79 * 2**30, 15.75 * 2**30)
    first, second = found.largest
    assert (first.bytes, first.shape) == (4.5 * 2**30, "f32[4,32,3072,3072]{2,3,1,0:T(8,128)}")
    assert first.scope.endswith("dot_general")
    assert second.scope == ""


def test_refusals_for_something_else_are_not_taken_for_memory():
    assert memory.read_overflow(VMEM) is None
    assert memory.read_overflow("INTERNAL: RET_CHECK failure") is None


def test_total_is_that_of_the_main_memory():
    assert memory.read_total(REPORT) == 20754975232
    assert memory.read_total("") == 0


def test_largest_buffers_share_no_place_and_have_a_line():
    large, small = memory.largest_buffers(ASSIGNMENT, MODULE)
    assert (large.bytes, large.shape) == (3e6, "bf16[600,256]")
    assert large.source == "nn/transformer.py:140"
    assert (small.bytes, small.scope, small.source) == (5e5, "unheard.of", "")
    assert memory.largest_buffers(ASSIGNMENT, None)[0].scope == "slice_fusion"
    assert memory.largest_buffers("", hlo.parse("")) == ()


def test_shares_add_up_to_what_a_chip_holds():
    config = stack.get_config()
    mesh = shard.make_mesh(dict(data=2, fsdp=2, tensor=2))
    placed = program.place(stack.make(config, mesh), mesh, 0)
    state = shard.shaped(placed.shapes, placed.shardings)
    teacher = {"head": {"kernel": jax.ShapeDtypeStruct((4, 6), np.float32)}}
    rows = {(s.part, s.spec): s for s in memory.shares(state, shard.place(teacher, mesh, RULES))}
    kernel = 8 * 1024 * 4096 * 4
    for part in ("model", "optimizer mu", "optimizer nu"):
        assert rows[part, "fsdp, tensor"][2:] == (1, kernel, kernel / 4)
        assert rows[part, "tensor, fsdp"][2:] == (1, kernel, kernel / 4)
    assert rows["frozen", "tensor, fsdp"][2:] == (1, 96, 24)
    assert rows["optimizer", "whole"].arrays == 2
    assert memory.chip_bytes(state) == pytest.approx(6 * kernel / 4, abs=100)


def test_a_random_key_has_a_size():
    key = jax.eval_shape(jax.random.key, 0)
    assert memory.nbytes(key.shape, key.dtype) == 8
