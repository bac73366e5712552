"""Tables that are shown on a page and in a terminal."""

import textwrap
from collections.abc import Collection, Sequence
from typing import NamedTuple


WIDTH = 100
# Soft hyphens and unbreakable spaces and hyphens are for pages, not for a terminal.
PLAIN = str.maketrans({"\N{SOFT HYPHEN}": "", "\N{NO-BREAK SPACE}": " ", "\u2011": "-"})


class Table(NamedTuple):
    """Rows under a heading; the first column is text, the others are numbers unless `text`."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()  # Further columns of text.
    note: str = ""
    best: Collection[tuple[int, int]] = ()  # Cells that stand out: row and column.
    wide: bool = False  # As wide as the page; its headings and first column break into lines.

    def used(self) -> list[int]:
        """The columns in which anything stands; all of them while there are no rows."""
        columns = range(len(self.columns))
        return [i for i in columns if not self.rows or any(row[i] for row in self.rows)]


def as_text(table: Table) -> str:
    """A table in columns; a star marks what stands out."""
    rows = [list(row) for row in table.rows]
    if table.best:
        rows = [
            [cell + ("*" if (i, j) in table.best else " ") for j, cell in enumerate(row)]
            for i, row in enumerate(rows)
        ]
    heads = [column.translate(PLAIN) for column in table.columns]
    lines = [heads, *rows] if any(heads) else rows
    used = table.used()
    widths = {i: max(len(line[i]) for line in lines) for i in used}
    shown = []
    for line in lines:
        cells = [
            line[i].ljust(widths[i]) if i == 0 or i in table.text else line[i].rjust(widths[i])
            for i in used
        ]
        shown.append("  " + "  ".join(cells).rstrip())
    note = textwrap.wrap(table.note, WIDTH - 2, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*filter(None, [table.title]), *shown, *note])
