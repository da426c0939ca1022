"""Format closure and the verdicts of a verification as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

from skygraft.printable import printable
from skygraft.qa.closure import ClosureSummary
from skygraft.qa.verdicts import CHECKS

if TYPE_CHECKING:
    from skygraft.qa.verify import CheckSummary

__all__ = ["checks_table", "closure_table"]

_COLOURS = {"closes": "green", "does not close": "red", "passes": "green", "fails": "red", "not applicable": "dim"}


def closure_table(summaries: Mapping[str, ClosureSummary], title: str) -> Table:
    """Build a table with a row per band: stars, median and error, scatter, expected scatter, `psf_sum` offset, mmag.

    Parameters
    ----------
    summaries : mapping of str to ClosureSummary
        By band.
    title : str

    Returns
    -------
    rich.table.Table
    """
    table = Table(title=title, title_justify="left")
    for name in ("band", "stars", "median (mmag)", "scatter (mmag)", "expected scatter", "with psf_sum", "verdict"):
        words = name in ("band", "verdict")
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for band, closure in summaries.items():
        table.add_row(
            band,
            str(closure.n),
            f"{_mmag(closure.median, '+.2f')} ± {_mmag(closure.median_error, '.2f')}" if closure.n else "-",
            _mmag(closure.scatter, ".1f"),
            _mmag(closure.expected, ".1f"),
            _mmag(closure.psf_sum_offset, "+.1f"),
            f"[{_COLOURS.get(closure.verdict, 'yellow')}]{closure.verdict}[/]{_bound(closure)}",
        )
    return table


def checks_table(checks: Sequence[CheckSummary], title: str) -> Table:
    """Build a table with a row per check: its verdict, the number of images by verdict, and what is wrong.

    Parameters
    ----------
    checks : sequence of CheckSummary
        The verdicts.
    title : str

    Returns
    -------
    rich.table.Table
    """
    table = Table(title=title, title_justify="left")
    for name in ("check", "verdict", "pass", "fail", "too few stars", ""):
        words = name in ("check", "verdict", "")
        table.add_column(name, justify="left" if words else "right", no_wrap=name in ("check", "verdict"))
    for one in checks:
        note = escape(printable(one.note))
        if one.verdict == "passes":
            note = "; ".join([CHECKS[one.check].split(" (")[0], *([note] if note else [])])
        table.add_row(
            one.check,
            f"[{_COLOURS.get(one.verdict, 'yellow')}]{one.verdict}[/]",
            *(f"{n:,}" if n else "" for n in (one.n_passes, one.n_fails, one.n_too_few)),
            note,
        )
    return table


def _mmag(value: float, form: str) -> str:
    return format(1e3 * value, form) if np.isfinite(value) else "-"


def _bound(closure: ClosureSummary) -> str:
    """Upper limit of the offset of a band that closes, from the median and its error."""
    return f" to {1e3 * (abs(closure.median) + 2 * closure.median_error):.1f} mmag" if closure.ok else ""
