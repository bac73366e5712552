import re

import numpy as np
import pytest

from moshijax.report import charts
from moshijax.report.charts import Line, Scale, line_chart
from moshijax.report.theme import PALETTE
from tests.pages import HARM, Page


STEPS = np.arange(1.0, 11)


def lines(*labels):
    return [Line(n, PALETTE[i % 8], STEPS, STEPS + i) for i, n in enumerate(labels)]


def test_ticks_of_a_logarithm_are_few_and_round():
    assert charts.log_ticks(0.2, 1.4) == pytest.approx([0.2, 0.5, 1.0])
    assert charts.log_ticks(3e-4, 20.0) == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])
    assert charts.log_ticks(1.1, 1.9) == pytest.approx([1.5])


def test_labels_are_moved_apart_and_keep_their_order():
    assert charts.spread([0.2, 0.9, 0.5], 0.1) == pytest.approx([0.2, 0.9, 0.5])
    placed = charts.spread([0.5, 0.5, 0.1, 0.52], 0.1)
    assert placed == pytest.approx([0.40667, 0.50667, 0.1, 0.60667], abs=1e-4)


def test_a_long_line_is_thinned_to_means():
    steps = np.arange(1.0, 1001)
    thin = charts.thinned(Line("a", "#000000", steps, steps % 2))
    assert len(thin.steps) <= charts.POINTS
    assert thin.steps[-1] == 1000
    np.testing.assert_allclose(thin.values[:-1], 0.5, atol=0.11)


def test_all_colours_are_the_page_s_so_that_a_chart_is_seen_at_night_too():
    svg = line_chart("loss", lines(*"abcdefgh"), Scale("Loss", log=True), ("Teacher", 3.0))
    assert re.findall(r"(?:fill|stroke): #\w+", svg) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", svg))
    assert used == {"ink", "faint", "line", *(f"series-{i}" for i in range(8))}


def test_charts_of_one_page_share_no_names_but_those_of_equal_things():
    found = [line_chart(name, lines(*"ab"), Scale(name)) for name in ("one", "two")]
    names = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in found]
    assert names[0]
    assert names[0] & names[1] == set()
    for svg, own in zip(found, names, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) == own


def test_names_are_shown_letter_by_letter():
    for name in ("$x_1$", "50$ & <b>", "{a}", "\\frac", "日本", "_a"):
        assert name in Page(line_chart(name, lines(name), Scale(name), (name, 2.0))).text
    assert Page(line_chart(HARM, lines("a"), Scale("b"))).names == [HARM]


def test_names_that_are_too_long_leave_the_lines_room():
    text = Page(line_chart("a", lines(3000 * "wide ", "b"), Scale(3000 * "title "))).text
    (label,) = re.findall("wide.*…", text)
    (title,) = re.findall("title.*…", text)
    assert 10 < len(label) < 40 < len(title) < 90
    short = Page(line_chart("a", lines("two\nlines"), Scale("")))
    assert "two lines" in short.text


def test_nothing_to_show_is_told():
    assert "no values yet" in Page(line_chart("a", [], Scale("b"))).text
    empty = Line("a", PALETTE[0], np.array([]), np.array([]))
    assert "no values yet" in Page(line_chart("a", [empty], Scale("b", log=True))).text
