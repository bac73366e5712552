import numpy as np
import pytest

from moshijax.data.mix import Mix, spread
from moshijax.system.errors import UserError


class Counting:
    def __init__(self):
        self.folders = []

    def kind(self, step):
        return "any"

    def prepare(self, workdir):
        self.folders.append(workdir)

    def close(self):
        pass

    def batch(self, step, order, rows):
        return {"step": step, "order": order, "rows": rows}


def make(**weights):
    return Mix({kind: Counting() for kind in weights}, weights)


def test_kinds_come_as_often_as_their_weight_and_evenly():
    assert spread(dict(audio=1, text=1)) == ("audio", "text")
    assert spread(dict(audio=9, text=1)).count("text") == 1
    period = spread(dict(a=5, b=3, c=2))
    assert [period.count(kind) for kind in "abc"] == [5, 3, 2]
    for kind, weight in dict(a=5, b=3, c=2).items():
        seen = np.cumsum([one == kind for one in period])
        assert np.abs(seen - weight / 10 * np.arange(1, 11)).max() < 1


def test_each_kind_reads_its_own_data_in_order():
    data = make(a=3, b=2)
    steps = {"a": [], "b": []}
    for step in range(1, 23):
        steps[data.kind(step)].append(data.batch(step, 7, None)["step"])
    for kind in steps:
        assert steps[kind] == list(range(1, len(steps[kind]) + 1))
    assert data.batch(22, 7, np.arange(2))["order"] == 7


def test_all_parts_are_prepared(tmp_path):
    data = make(a=1, b=1)
    data.prepare(tmp_path)
    assert [part.folders for part in data.parts.values()] == [[tmp_path]] * 2


def test_wrong_weights_are_refused():
    with pytest.raises(UserError, match=r"weight of b: 0\.5 is no whole number"):
        make(a=1, b=0.5)
    with pytest.raises(UserError, match=r"given for \['a'\], data for \['b'\]"):
        Mix({"b": Counting()}, dict(a=1))
