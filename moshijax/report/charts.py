"""Charts as inline SVG, in the colours of the page that they stand on.

Equal input gives equal bytes.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib import axes, figure, textpath, ticker

from moshijax.report.theme import DAY


INK, FAINT, GRID = DAY["ink"], DAY["faint"], DAY["line"]
VARIABLES = {color.lower(): f"var(--{name})" for name, color in DAY.items()}

WIDTH, HEIGHT = 4.5, 2.9  # inches: on a phone the text stays near 11 pixels
LABEL = 1.7  # inches at most of a line's name
POINTS = 240  # of a line; more are averaged in blocks
SETTLED = 0.2  # a chart's limits ignore this first share of the steps, when all is steep


class Line(NamedTuple):
    """One run's values over its steps."""

    label: str
    color: str  # One of PALETTE, to be seen at night too.
    steps: np.ndarray
    values: np.ndarray


class Scale(NamedTuple):
    """What the values are and how they are shown."""

    title: str
    percent: bool = False
    log: bool = False


def line_chart(
    name: str, lines: Sequence[Line], scale: Scale, reference: tuple[str, float] | None = None
) -> Markup:
    """An SVG element of lines named at their ends, and a horizontal line to compare with."""
    # A dollar in a name is a dollar, not the beginning of a formula.
    style: dict[Any, Any] = {"svg.hashsalt": name, "svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(style | {"font.size": 10}), warnings.catch_warnings():
        # The browser draws the text, with letters that the font which is measured here may lack.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        lines = [thinned(line) for line in lines if len(line.steps)]
        lines = [line._replace(label=_fitting(line.label, LABEL, 9)) for line in lines]
        if reference is not None:
            reference = _fitting(reference[0], LABEL, 9), reference[1]
        chart = _drawn(lines, scale, reference)
        buffer = io.StringIO()
        chart.savefig(
            buffer, format="svg", transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )  # fmt: skip
    return _inline(buffer.getvalue(), name)


def _drawn(
    lines: Sequence[Line], scale: Scale, reference: tuple[str, float] | None
) -> figure.Figure:
    chart = figure.Figure(figsize=(WIDTH, HEIGHT))
    names = [line.label for line in lines] + ([reference[0]] if reference else [])
    right = max((_text_width(label, 9) for label in names), default=0) + 0.25
    panel = chart.add_axes((0.11, 0.15, 0.88 - right / WIDTH, 0.73))
    chart.text(0, 0.97, _fitting(scale.title, WIDTH, 10), va="top", color=INK)
    _set_limits(panel, lines, scale, reference)
    _style(panel, scale)
    for line in lines:
        panel.plot(line.steps, line.values, color=line.color, lw=1.7, solid_capstyle="round")
        if panel.get_ylim()[0] <= line.values[-1] <= panel.get_ylim()[1]:
            end = line.steps[-1:], line.values[-1:]
            panel.plot(*end, "o", color=line.color, ms=4, clip_on=False, zorder=3)
    _name_ends(panel, lines, reference)
    if not lines:
        panel.text(0.5, 0.5, "no values yet", transform=panel.transAxes, ha="center", color=FAINT)
    return chart


def thinned(line: Line) -> Line:
    """At most POINTS points, each the mean of a block of neighbours."""
    size = -(-len(line.steps) // POINTS)
    if size <= 1:
        return line
    blocks = range(0, len(line.steps), size)
    steps = np.array([line.steps[i : i + size][-1] for i in blocks])
    return line._replace(
        steps=steps, values=np.array([line.values[i : i + size].mean() for i in blocks])
    )


def _set_limits(
    panel: axes.Axes, lines: Sequence[Line], scale: Scale, reference: tuple[str, float] | None
) -> None:
    last = max((line.steps[-1] for line in lines), default=1)
    panel.set_xlim(0, max(last, 1))
    shown = [line.values[line.steps >= SETTLED * last] for line in lines]
    shown = np.concatenate([*shown, [] if reference is None else [reference[1]]])
    if scale.log:
        shown = shown[shown > 0]
    if not len(shown):
        return
    low, high = shown.min(), shown.max()
    if scale.log:
        panel.set_yscale("log")
        panel.set_ylim(low / (high / low) ** 0.06 / 1.02, high * (high / low) ** 0.06 * 1.02)
    else:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        panel.set_ylim(low - margin, high + margin)


def _style(panel: axes.Axes, scale: Scale) -> None:
    panel.set_xlabel("step", color=FAINT, fontsize=9, labelpad=2)
    panel.tick_params(length=0, colors=FAINT, labelsize=9, which="both")
    panel.grid(axis="y", color=GRID, lw=0.8)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(GRID)
    panel.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    factor, unit = (100, "%") if scale.percent else (1, "")
    plain = ticker.FuncFormatter(lambda value, _: f"{value * factor:.4g}{unit}")
    panel.yaxis.set_major_formatter(plain)
    if panel.get_yscale() == "log":
        panel.yaxis.set_major_locator(ticker.FixedLocator(log_ticks(*panel.get_ylim())))
        panel.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        panel.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, 3 to 6 of them unless they are close together."""
    ticks: list[float] = []
    for numbers in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [n * 10.0**e for e in exponents for n in numbers if low <= n * 10.0**e <= high]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 6)]
    return ticks


def _text_width(label: str, size: int) -> float:
    """Inches of a text of this size in points."""
    # The path of an empty text has no extents.
    return textpath.TextPath((0, 0), label, size=size).get_extents().width / 72 if label else 0.0


def _fitting(label: str, inches: float, size: int) -> str:
    """A text on one line, cut where it would be too wide."""
    label = " ".join(label.split())
    if len(label) < 80 and _text_width(label, size) <= inches:
        return label
    cuts = (label[:end].rstrip() + "…" for end in range(min(len(label), 80), 0, -1))
    return next(cut for cut in cuts if _text_width(cut, size) <= inches)


def _name_ends(
    panel: axes.Axes, lines: Sequence[Line], reference: tuple[str, float] | None
) -> None:
    """Writes each line's name beside its end, moved apart where they would touch."""
    ends = [(line.label, line.color, line.steps[-1], line.values[-1]) for line in lines]
    if reference is not None:
        label, value = reference
        panel.axhline(value, color=FAINT, lw=1.1, ls=(0, (4, 3)))
        ends.append((label, FAINT, panel.get_xlim()[1], value))
    to_panel = panel.transData + panel.transAxes.inverted()
    points = [to_panel.transform((x, y)) for _, _, x, y in ends]
    heights = spread([float(np.clip(y, 0, 1)) for _, y in points], 0.075)
    for (label, color, _, _), (x, y), height in zip(ends, points, heights, strict=True):
        panel.annotate(
            label, (x, np.clip(y, 0, 1)), (1.06, height), xycoords="axes fraction",
            textcoords="axes fraction", color=color, fontsize=9, va="center",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.7, "alpha": 0.6,
                        "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], least: float) -> list[float]:
    """The heights nearest to these (least squares), in their order, at least `least` apart."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[list[float]] = []  # [sum of wanted starts, members]
    for rank, i in enumerate(order):
        groups.append([heights[i] - rank * least, 1])
        # Neighbours that would overlap move as one, to the mean of what they want.
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, members = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += members
    starts = [total / members for total, members in groups for _ in range(int(members))]
    placed = [0.0] * len(heights)
    for rank, i in enumerate(order):
        placed[i] = starts[rank] + rank * least
    return placed


def _inline(svg: str, name: str) -> Markup:
    """The element alone, sized and coloured by the page, without the addresses in its header."""
    tag, inside = svg[svg.index("<svg") :].split(">", 1)
    tag = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", tag)
    # Matplotlib gives groups the same ids in every chart of a page. Ids that are referred to, such
    # as those of clip paths, have another form and stay.
    inside = re.sub(r' id="[a-z0-9.]+_\d+"', "", inside)
    inside = re.sub(
        r"\b(fill|stroke): (#[0-9a-f]{6})",
        lambda found: f"{found[1]}: {VARIABLES.get(found[2], found[2])}",
        inside,
    )
    return Markup(f'{tag} role="img" aria-label="{escape(name)}">{inside.strip()}')
