"""A page that stands alone: HTML and its style, without a script or an address to fetch.

Every part is markup from a template, in which all text is escaped; a page is its parts in order.
Equal input gives equal bytes.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import jinja2
from markupsafe import Markup

from moshijax.report import theme
from moshijax.report.tables import Table


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("moshijax.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(name: str, **values: object) -> Markup:
    """A template of this package with these values, which are escaped unless they are markup."""
    return Markup(_TEMPLATES.get_template(f"{name}.html").render(values))


def document(title: str, *parts: Markup) -> str:
    """The HTML of the whole page."""
    return str(render("document", title=title, parts=parts, day=theme.DAY, night=theme.NIGHT))


def header(title: str, introduction: Sequence[str] = (), results: Sequence[str] = ()) -> Markup:
    """Title, what this is, and what came out."""
    return render("header", title=title, introduction=introduction, results=results)


def section(title: str, *parts: Markup) -> Markup:
    """A part of the page under a heading."""
    return render("section", title=title, parts=parts)


def paragraph(text: str, kind: Literal["", "note", "good", "bad"] = "") -> Markup:
    """A line of text, a remark in small print, or a verdict in its colour."""
    return render("paragraph", text=text, kind=kind)


def table(content: Table) -> Markup:
    """A table; columns in which nothing stands are left out."""
    return render("table", table=content)


def figures(items: Iterable[tuple[Markup, str]]) -> Markup:
    """Numbered figures of chart and caption."""
    return render("figures", items=list(items))


def facts(items: Mapping[str, object]) -> Markup:
    """Names and texts; a list is shown as lines typed in a terminal."""
    return render("facts", items=items)


def events(items: Iterable[tuple[str, str]]) -> Markup:
    """What happened, each the name of a run and a message; nothing if nothing did."""
    told = list(items)
    return render("events", items=told) if told else Markup()


def data_url(kind: str, data: bytes) -> str:
    """The content of a file as a `data:` URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
