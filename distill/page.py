"""A page that stands alone: HTML and its style, without a script or an address to fetch."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


TITLE = "Distillation by function matching"
INTRODUCTION = (
    "A teacher is trained on many labelled images; small students, all alike, then train on a "
    "small transfer set.",
    "The arms differ in what a student has to match: the labels; a teacher that sees a fixed view "
    "of each image; a teacher that sees exactly the student's view (consistent); and that with "
    "mixup on top (function matching).",
    "Beyer et al. (2022) find that consistency, mixup and patience belong together. This is what "
    "these runs gave.",
)
NOTE = (
    '<p class="note">Bold: best of its column among the students. Agreement: same first choice '
    "as the teacher. KL: from teacher to student, on clean test images and on mixed ones. "
    "ECE: expected calibration error, 15 bins.</p>"
)
STYLE = """
:root { color-scheme: light; --ink: #1d2329; --faint: #5d6873; --line: #e3e7ea; --best: #e8f1f8; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1000px; margin: 0 auto; padding: 2.2rem 1.5rem 3rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .8rem; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
header p { max-width: 44rem; margin: 0 0 .35rem; color: #37414a; }
.results { margin: 1.1rem 0 0; padding: .7rem 1rem; background: #f5f7f9; border-radius: 6px;
  list-style: none; max-width: 44rem; }
.results li + li { margin-top: .15rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.final th, .final td { padding: .42rem .55rem; text-align: right; border-bottom: 1px solid
  var(--line); vertical-align: baseline; }
.final th { vertical-align: bottom; font-size: .82rem; font-weight: 600; line-height: 1.25;
  color: var(--faint); }
.final th:first-child, .final td:first-child { text-align: left; padding-left: 0; }
.final td { white-space: nowrap; }
.final td:first-child { white-space: normal; min-width: 5.5rem; }
.final td.best { font-weight: 700; background: var(--best); }
.note, figcaption { font-size: .85rem; color: var(--faint); line-height: 1.4; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 1.6rem 2rem; }
figure { margin: 0; break-inside: avoid; }
.charts svg { display: block; width: 100%; height: auto; }
.charts svg text { font-family: inherit !important; }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 1.5rem 2rem; }
.views b { color: var(--ink); font-size: .95rem; }
.pair { display: grid; grid-template-columns: 4.2rem 1fr; margin-top: .4rem; }
.pair div { display: grid; align-items: center; font-size: .8rem; color: var(--faint); }
.pair img { display: block; width: 100%; image-rendering: pixelated; }
.facts th { text-align: left; font-weight: 400; color: var(--faint); padding: .2rem 1.2rem .2rem 0;
  vertical-align: top; white-space: nowrap; width: 1%; }
.facts td { padding: .2rem 0; overflow-wrap: anywhere; }
pre { margin: 0; padding: .5rem .7rem; background: #f5f7f9; border-radius: 6px; font-size: .82rem;
  line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 1.3rem 1rem 2rem; }
  .final { font-size: .76rem; }
  .final th { font-size: .68rem; }
  .final th, .final td { padding: .4rem .16rem; line-height: 1.25; }
  .final td:first-child { min-width: 4.6rem; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .charts, .views { grid-template-columns: 1fr 1fr; gap: 1rem 1.5rem; }
  h2 { break-after: avoid; }
  .final td.best { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  @page { margin: 16mm; }
}
"""


def document(body: str) -> str:
    """The whole file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def header(results: Sequence[str]) -> str:
    """Title, what this is, and what came out."""
    text = "".join(f"<p>{escape(line)}</p>\n" for line in INTRODUCTION)
    items = "".join(f"<li>{escape(line)}</li>" for line in results)
    found = f'<ul class="results">{items}</ul>\n' if results else ""
    return f"<header>\n<h1>{TITLE}</h1>\n{text}{found}</header>\n"


def section(title: str, content: str) -> str:
    """A part of the page."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}</section>\n"


def table(titles: Sequence[str], rows: Sequence[Sequence[tuple[str, bool]]]) -> str:
    """The final table; the best of a column stands out in print too."""
    head = "".join(f'<th scope="col">{_breaking(title)}</th>' for title in titles)
    lines = []
    for row in rows:
        cells = (f"<td{' class=best' * best}>{escape(text)}</td>" for text, best in row)
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    return (
        f'<table class="final">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody>\n</table>\n"
    )


def _breaking(title: str) -> str:
    """A heading that breaks only where it reads well."""
    title = escape(title).replace("Agreement", "Agree&shy;ment")
    return title.replace(" %", "&nbsp;%").replace("top-1", "top&#8209;1")


def charts(items: Iterable[tuple[str, str]]) -> str:
    """Numbered figures of SVG and caption."""
    figures = (
        f"<figure>{svg}<figcaption>Figure {i}. {escape(caption)}</figcaption></figure>\n"
        for i, (svg, caption) in enumerate(items, 1)
    )
    return f'<div class="charts">\n{"".join(figures)}</div>\n'


def views(items: Iterable[tuple[str, str, str, int]]) -> str:
    """Images as the models saw them, named row by row."""
    figures = []
    for title, caption, image, rows in items:
        names = "".join(f"<span>{name}</span>" for name in ("student", "teacher")[:rows])
        figures.append(
            f"<figure><figcaption><b>{escape(title)}</b><br>{escape(caption)}</figcaption>"
            f'<div class="pair"><div>{names}</div>'
            f'<img src="{image}" alt="{escape(title)}: as the models saw it"></div></figure>\n'
        )
    return f'<div class="views">\n{"".join(figures)}</div>\n'


def facts(items: Mapping[str, Any]) -> str:
    """Names and texts; a list is shown as lines typed in a terminal."""
    rows = []
    for name, value in items.items():
        if isinstance(value, list | tuple):
            shown = f"<pre>{escape(chr(10).join(map(str, value)))}</pre>"
        else:
            shown = escape(str(value))
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td>{shown}</td></tr>\n')
    return f'<table class="facts">\n<tbody>\n{"".join(rows)}</tbody>\n</table>\n'


def events(items: Mapping[str, Sequence[str]]) -> str:
    """What happened in the runs, by arm."""
    if not items:
        return ""
    lines = "".join(
        f"<li>{escape(title)}, {escape(message)}</li>\n"
        for title, messages in items.items()
        for message in messages
    )
    return f'<details class="note"><summary>Events</summary>\n<ul>\n{lines}</ul></details>\n'
