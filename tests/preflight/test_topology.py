import importlib.util

import pytest

from moshijax.preflight import topology
from moshijax.train.chips import CHIPS, find


def test_a_name_is_a_chip_and_its_sides():
    cube = topology.parse("v5p:4x4x8")
    assert (cube.chips, cube.size, cube.sides) == (128, 128, (4, 4, 8))
    assert topology.parse(" v5e:4x8").sides == (4, 8, 1)
    assert topology.parse("V5E: 4X8 ") == topology.parse("v5e:4x8")
    assert topology.parse("tpu7x:2x2x1").size == 8  # Two devices a chip.


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),  # A cube's sides close together or not at all.
        ("v5e:8x16", (False, True, False)),
        ("v6e:16x16", (True, True, False)),
        ("v5e:8x8", (False, False, False)),
    ],
)
def test_sides_close_to_rings_where_the_slice_is_large_enough(name, closed):
    assert topology.parse(name).closed == closed


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v9:2x2", "'v9:2x2' is unknown, take one of v4, v5e, v5p, v6e, tpu7x and a shape"),
        ("a100:2x2", "is unknown"),
        ("v5e:3x3", "v5e has no shape '3x3', take one of v5e:2x2, v5e:2x4"),
        ("v5p", "v5p has no shape ''"),
    ],
)
def test_unknown_slices_are_told_the_known_ones(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        topology.parse(name)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'moshijax\[tpu\]'"):
        topology.devices(topology.parse("v5e:2x2"))


def test_the_chips_of_slices_have_every_figure():
    for family in topology.FAMILIES:
        chip = CHIPS[family]
        assert min(chip.flops, chip.hbm, chip.bandwidth, chip.link, chip.clock, chip.ring) > 0
        assert all(topology.parse(f"{family}:{shape}") for shape in chip.topologies)


def test_the_longest_name_that_fits_a_device_counts():
    assert find("TPU v5 lite") is CHIPS["v5e"]
    assert find("TPU v5") is CHIPS["v5p"]
    assert find("NVIDIA H200 NVL") is CHIPS["h200"]
    assert find("cpu") is None
