import ast
import pathlib
import re
import subprocess
import sys

import jinja2
import numpy as np
import pytest
from markupsafe import Markup

import moshijax.report
from moshijax.report import page, theme
from moshijax.report.charts import Line, Scale, line_chart
from moshijax.report.pictures import Picture, pictures, png
from moshijax.report.players import Player, players
from moshijax.report.tables import Table
from tests.pages import HARM, Page


FOLDER = pathlib.Path(moshijax.report.__file__).parent
GREY = np.full((4, 4, 1), 128, np.uint8)
STEPS = np.arange(5.0)


def everything(text):
    """A document of all kinds of parts with this text wherever there is any."""
    table = Table(text, (text, text), [(text, text)], (1,), text, {(0, 1)})
    chart = line_chart(text, [Line(text, "#0072B2", STEPS, STEPS)], Scale(text), (text, 2.0))
    sound = np.sin(np.arange(240) / 9).astype(np.float32)
    parts = [
        page.header(text, [text], [text]),
        page.section(text, page.paragraph(text), page.paragraph(text, "note"), page.table(table)),
        page.section(text, page.figures([(chart, text)]), page.figures([])),
        page.section(text, pictures([Picture(text, text, png(GREY), [text])])),
        page.section(text, pictures([Picture(text, "", png(GREY))])),
        page.section(text, players([Player(text, sound, 24_000, text)])),
        page.section(text, page.facts({text: text, text + "s": [text, 7]})),
        page.section(text, page.events([(text, text)]), page.events([])),
    ]
    return page.document(text, *parts)


def test_every_text_is_shown_as_it_is():
    shown = Page(everything(HARM))
    harmless = Page(everything("word"))
    assert shown.tags == harmless.tags
    # A chart's names are cut where they are too long; all others stand there whole.
    cut = harmless.text.count("word") - shown.text.count(HARM)
    assert cut == 3
    assert shown.text.count("<script>alert") == harmless.text.count("word")
    assert shown.names == [HARM] * 4


def test_equal_input_gives_equal_bytes_and_no_space_that_nobody_asked_for():
    text = everything("word")
    assert text == everything("word")
    assert text.startswith('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n')
    assert not re.search(r"\n\s*\n|[ \t]\n", re.sub("(?s)<svg.*?</svg>", "", text))
    assert text.endswith("</html>\n")


def test_a_part_that_is_no_markup_is_escaped_and_a_value_left_out_is_told():
    assert page.render("section", title="a", parts=["<b>"]).count("&lt;b&gt;") == 1
    with pytest.raises(jinja2.UndefinedError, match="title"):
        page.render("section", parts=())
    assert isinstance(page.paragraph("<b>"), Markup)


def test_a_table_shows_the_columns_in_which_anything_stands():
    rows = [("a", "", "1", "x"), ("b", "", "2", "y")]
    text = page.table(Table("", ("", "none", "n", "t"), rows, (3,), best=[(1, 2)]))
    assert "none" not in text
    assert "<h3>" not in text
    assert '<tr><td class="text">b</td><td class="best">2</td><td class="text">y</td></tr>' in text
    assert '<th scope="col">n</th>' in text
    assert "thead" not in page.table(Table("A", ("", ""), [("a", "1")]))
    assert 'class="wide"' in page.table(Table("", ("a",), [], wide=True))


def test_facts_are_texts_or_lines_of_a_terminal():
    text = page.facts({"Time": 7.5, "Commands": ("make a", "make b")})
    assert '<th scope="row">Time</th><td>7.5</td>' in text
    assert "<pre>make a\nmake b</pre>" in text


def luminance(color):
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [theme.DAY, theme.NIGHT], ids=["day", "night"])
def test_all_that_is_read_stands_out_from_the_page(colors):
    seen = {name: contrast(color, colors["page"]) for name, color in colors.items()}
    for name in ("ink", "soft", "faint", "good", "bad"):
        assert seen[name] > 4.5, name
    assert min(value for name, value in seen.items() if name.startswith("series")) > 3.5
    assert contrast(colors["ink"], colors["best"]) > 7
    assert colors.keys() == theme.DAY.keys()
    style = everything("word").split("</style>")[0]
    assert all(f"--{name}: {color};" in style for name, color in colors.items())
    used = set(re.findall(r"var\(--([\w-]+)\)", everything("word")))
    assert used - colors.keys() == set()


def test_every_template_is_used():
    sources = [ast.parse(path.read_text()) for path in FOLDER.glob("*.py")]
    calls = [n for tree in sources for n in ast.walk(tree) if isinstance(n, ast.Call)]
    rendered = {c.args[0].value for c in calls if ast.unparse(c.func) == "render"}
    assert rendered | {"style"} == {p.stem for p in (FOLDER / "templates").iterdir()}


def test_a_page_of_tables_needs_no_library_of_charts_pictures_or_sounds():
    line = (
        "import sys, moshijax.report.page; "
        "print({'matplotlib', 'cv2', 'soundfile', 'jax'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
