"""Closure as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from skygraft.qa.closure import ClosureSummary

__all__ = ["closure_table"]

_COLOURS = {"closes": "green", "does not close": "red"}


def closure_table(summaries: Mapping[str, ClosureSummary], title: str) -> Table:
    """One row a band: stars, median with its error, scatter, expected scatter, and what `psf_sum` would give (mmag)."""
    table = Table(title=title, title_justify="left")
    for name in ("band", "stars", "median (mmag)", "scatter (mmag)", "expected scatter", "with psf_sum", "verdict"):
        table.add_column(name, justify="left" if name in ("band", "verdict") else "right")
    for band, closure in summaries.items():
        table.add_row(
            band,
            str(closure.n),
            f"{1e3 * closure.median:+.2f} ± {1e3 * closure.median_error:.2f}",
            f"{1e3 * closure.scatter:.1f}",
            f"{1e3 * closure.expected:.1f}",
            f"{1e3 * closure.psf_sum_offset:+.1f}" if np.isfinite(closure.psf_sum_offset) else "unknown",
            f"[{_COLOURS.get(closure.verdict, 'yellow')}]{closure.verdict}[/]",
        )
    return table
