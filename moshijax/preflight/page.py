"""Reports as one page that needs nothing else and reads on a phone."""

from collections.abc import Sequence

from markupsafe import Markup

from moshijax.preflight import tables
from moshijax.preflight.examine import Report
from moshijax.report.page import document, header, paragraph, section, table


def _report(report: Report) -> Markup:
    return section(
        ", ".join(filter(None, [report.topology, tables.mesh(report), tables.kind(report)])),
        paragraph(tables.verdict(report), "good" if report.fits else "bad"),
        *map(paragraph, report.notes),
        *map(table, tables.tables(report)),
    )


def page(reports: Sequence[Report]) -> str:
    """One page with a table of all reports, if there are several, and each of them."""
    name = f"Preflight of {reports[0].config}"
    several = [table(tables.comparison(reports))] if len(reports) > 1 else []
    return document(name, header(name), *several, *map(_report, reports))
