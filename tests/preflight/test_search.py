import dataclasses

import pytest

from moshijax.preflight import search, topology
from moshijax.system.errors import UserError
from tests.preflight import stack
from tests.preflight.test_report import REPORT, USAGE


SLICE = topology.parse("v5e:2x4")


def fake(needs, seconds, log):
    """Stands for the compiler: what a change needs of 10 bytes, and how long a step takes."""

    def examine(config, slice_, *, name, changes, price):
        log.append(dict(changes))
        if changes.get("mesh.tensor", 1) > 4:
            raise UserError("too wide")
        needed = needs(changes)
        return dataclasses.replace(
            REPORT,
            changes=changes,
            status="fits" if needed <= 10 else "does not fit",
            unused_bytes=0.0,
            usage=USAGE._replace(needed=needed, available=10.0),
            time=REPORT.time._replace(step=seconds(changes)),
        )

    return examine


def run(monkeypatch, needs, limit, mesh=None, seconds=lambda changes: 1.0):
    log, said = [], []
    monkeypatch.setattr(search, "examine", fake(needs, seconds, log))
    found = search.fit(
        stack.get_config(), SLICE, mesh or {}, name="", price=None, limit=limit, say=said.append
    )
    return search.rank(found), log, said


def test_settings_come_from_the_fastest_to_the_leanest():
    config = stack.get_config()
    order = search.variants({"remat": ("none", "full"), "accumulate": (1, 2)}, config)
    assert [tuple(v.values()) for v in order] == [
        *(("none", 1), ("full", 1), ("none", 2), ("full", 2))
    ]
    config.accumulate = 3  # What the config has counts, though nobody named it.
    assert {"accumulate": 3} in search.variants({"accumulate": (1, 2)}, config)


def test_meshes_begin_with_the_configs_and_split_the_batch():
    config = stack.get_config()
    config.mesh = dict(data=2, fsdp=4, tensor=1)
    found = search.candidates(config, SLICE)
    assert list(found[0].values()) == [2, 4, 1]
    assert list(found[1].values()) == [1, 8, 1]
    assert len({str(m) for m in found}) == len(found)
    config.batch_size = 4
    assert {m["mesh.tensor"] for m in search.candidates(config, SLICE)} == {2, 4, 8}
    config.mesh = dict(data=3, fsdp=1, tensor=1)  # Of another slice.
    assert search.candidates(config, SLICE)


def test_what_fits_is_ranked_by_time_and_tried_at_most_so_often(monkeypatch):
    ranked, log, said = run(
        monkeypatch,
        needs=lambda c: 12.0 if c["remat"] == "none" else 8.0,
        seconds=lambda c: 1.0 / c["mesh.data"],
        limit=5,
    )
    assert len(log) == len(ranked) == 5
    assert said[0].startswith("1 of at most 5: mesh.data=1")
    assert ranked[0].changes["mesh.data"] == max(r.changes["mesh.data"] for r in ranked)
    assert ranked[0].fits
    assert not ranked[-1].fits


def test_settings_far_from_fitting_are_skipped(monkeypatch):
    _, log, _ = run(monkeypatch, needs=lambda c: 30.0 / c["accumulate"], limit=3)
    assert [(c["remat"], c["accumulate"]) for c in log] == [("none", 1), ("none", 2), ("full", 2)]


def test_a_given_mesh_is_kept_and_nothing_is_tried_twice(monkeypatch):
    mesh = {"mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 1}
    _, log, _ = run(monkeypatch, needs=lambda c: 1.0, limit=50, mesh=mesh)
    assert len(log) == len({str(c) for c in log}) == 6
    assert all(c["mesh.fsdp"] == 8 for c in log)


def test_variants_that_cannot_be_built_are_told_and_left_out(monkeypatch):
    ranked, _, said = run(monkeypatch, needs=lambda c: 1.0, limit=100)
    assert any("left out" in line and "too wide" in line for line in said)
    assert all(r.changes["mesh.tensor"] <= 4 for r in ranked)


def test_nothing_fits_is_an_answer(monkeypatch):
    ranked, _, _ = run(monkeypatch, needs=lambda c: 11.0 + c["accumulate"], limit=4)
    assert [r.fits for r in ranked] == [False] * 4
    assert ranked[0].usage.needed == pytest.approx(12.0)


def test_settings_that_cannot_be_built_do_not_end_the_search_for_one_that_fits(monkeypatch):
    def needs(change):
        if change["accumulate"] == 1 and change["remat"] == "none":
            raise UserError("not so")
        return 12.0 if change["remat"] == "none" else 8.0

    mesh = {"mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 1}
    _, log, _ = run(monkeypatch, needs, limit=2, mesh=mesh)
    assert [(c["remat"], c["accumulate"]) for c in log][:2] == [("none", 1), ("full", 1)]


def test_pieces_that_do_not_divide_the_rows_are_left_out(monkeypatch):
    def unknown(slice_):
        raise topology.UnknownSliceError("not here")

    monkeypatch.setattr(topology, "devices", unknown)
    monkeypatch.setattr(topology, "check_libtpu", lambda: None)
    config = stack.get_config()
    config.batch_size = 24
    said = []
    tried = search.fit(
        config, topology.parse("v5e:2x4"), {"mesh.fsdp": 8}, name="", price=None, limit=9,
        say=said.append,
    )  # fmt: skip
    assert {report.changes["accumulate"] for report in tried} == {1}
    assert any("accumulate: 2 pieces of 24 rows do not divide among 8" in line for line in said)


def test_a_search_in_which_nothing_can_be_built_says_why(monkeypatch):
    def needs(change):
        raise UserError("not so")

    with pytest.raises(UserError, match="nothing of what --fit looks at can be built: not so"):
        run(monkeypatch, needs, limit=2)
