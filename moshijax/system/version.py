"""The version of the package."""

import importlib.metadata


def version() -> str:
    """The name and version of the package, also where it is not installed."""
    try:
        return f"moshijax {importlib.metadata.version('moshijax')}"
    except importlib.metadata.PackageNotFoundError:
        return "moshijax, run from its sources"
