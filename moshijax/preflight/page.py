"""Reports as one web page that needs nothing else and reads on a phone."""

from collections.abc import Sequence
from html import escape

from moshijax.preflight import tables
from moshijax.preflight.examine import Report


STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 1rem auto; max-width: 60rem;
       padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
@media (max-width: 30rem) { table { font-size: .8rem; } }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; white-space: pre; }
th { font-weight: 500; opacity: .7; } tr + tr { border-top: 1px solid #8884; }
.text { text-align: left; } p { margin: .4rem 0; } .note { font-size: .85rem; opacity: .8; }
.fits { color: #18794e; } .not { color: #c62a2f; }
@media (prefers-color-scheme: dark) { .fits { color: #4cc38a; } .not { color: #ff8589; } }
"""


def _cell(tag: str, text: str, is_text: bool) -> str:
    kind = ' class="text"' if is_text else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _table(table: tables.Table) -> str:
    used = [i for i in range(len(table.columns)) if any(row[i] for row in table.rows)]

    def row(tag: str, cells: Sequence[str]) -> str:
        inside = "".join(_cell(tag, cells[i], i == 0 or i in table.text) for i in used)
        return f"<tr>{inside}</tr>"

    head = row("th", table.columns) if any(table.columns) else ""
    body = "".join(row("td", cells) for cells in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    heading = f"<h3>{escape(table.title)}</h3>"
    return f'{heading}<div class="scroll"><table>{head}{body}</table></div>{note}'


def _report(report: Report) -> str:
    kind = "fits" if report.fits else "not"
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    body = "".join(map(_table, tables.tables(report)))
    heading = f"<h2>{escape(report.topology)}, {escape(tables.mesh(report))}</h2>"
    return f'{heading}<p class="{kind}">{escape(tables.verdict(report))}</p>{notes}{body}'


def page(reports: Sequence[Report]) -> str:
    """One page with a table of all reports, if there are several, and each of them."""
    name = f"Preflight of {reports[0].config}"
    several = _table(tables.comparison(reports)) if len(reports) > 1 else ""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(name)}</h1>{several}{''.join(map(_report, reports))}</body></html>\n"
    )
