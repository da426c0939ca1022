"""The report of a campaign: one HTML file with its figures, numbers and provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.report.make import make_report

__all__ = ["make_report"]

# The command line looks at the package before it knows that anything is drawn.
if not TYPE_CHECKING:  # else every name would seem to be there
    __getattr__ = lazy_names(__name__, {"skygraft.report.make": ("make_report",)})


def __dir__() -> list[str]:
    return sorted(__all__)
