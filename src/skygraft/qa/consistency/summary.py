"""What comes of comparing coadds with visits: counts and medians over a table, and the findings for each coadd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.qa.consistency.settings import REASONS
from skygraft.qa.consistency.terms import TERMS, VERDICTS
from skygraft.wording import number

__all__ = ["ConsistencySummary", "TermSummary", "WorstSource", "summarize"]

_WORST = 5


@dataclass(frozen=True)
class TermSummary:
    """One column of magnitudes over the sources that were compared.

    Parameters
    ----------
    name : str
        ``difference`` or the name of a term.
    median, low, high : float
        Median and the 5th and 95th percentile, mag; NaN without sources.
    """

    name: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class WorstSource:
    """One of the sources that differ most.

    Parameters
    ----------
    image_id : str
        The coadd.
    injection_id : int
        The source.
    mag, difference : float
        Its magnitude, and the difference, mag.
    size_ratio : float
        Size on the coadd by that on the visits.
    reasons : tuple of str
        Names of `skygraft.qa.consistency.settings.REASONS`.
    """

    image_id: str
    injection_id: int
    mag: float
    difference: float
    size_ratio: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ConsistencySummary:
    """How coadds compare with their visits.

    Parameters
    ----------
    n_coadds : int
        Coadds.
    verdicts : dict of str to int
        Sources by verdict: agrees, differs, cannot tell.
    reasons : dict of str to int
        Sources that differ by reason; a source may have several.
    terms : tuple of TermSummary
        The difference, then its terms.
    worst : tuple of WorstSource
        Of the sources that differ.
    notes : dict of str to int
        Further remarks, and of how many sources.
    """

    n_coadds: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    terms: tuple[TermSummary, ...] = ()
    worst: tuple[WorstSource, ...] = ()
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def n_compared(self) -> int:
        """Sources with a verdict other than ``cannot tell``."""
        return self.verdicts.get("agrees", 0) + self.verdicts.get("differs", 0)

    @property
    def ok(self) -> bool:
        """Whether sources were compared, and none differs."""
        return self.n_compared > 0 and not self.verdicts.get("differs", 0)

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return asdict(self) | {"ok": self.ok, "n_compared": self.n_compared}

    def __str__(self) -> str:
        counts = ", ".join(f"{self.verdicts.get(name, 0):,} {_SAID[name]}" for name in VERDICTS)
        lines = [f"{number(sum(self.verdicts.values()), 'source')} on {number(self.n_coadds, 'coadd')}: {counts}"]
        if self.terms:
            lines.append("coadd - visits, in mmag:     median      5 %     95 %")
            lines += [
                f"  {one.name:<24} {1e3 * one.median:+9.2f}{1e3 * one.low:+9.2f}{1e3 * one.high:+9.2f}"
                for one in self.terms
                if np.isfinite(one.median)
            ]
        lines += [f"{name} ({REASONS[name]}): {n:,}" for name, n in self.reasons.items()]
        lines += [f"note: {text}: {number(n, 'source')}" for text, n in self.notes.items()]
        if self.worst:
            lines.append("largest differences:")
        lines += [
            f"  {one.image_id} injection_id {one.injection_id} ({one.mag:.2f} mag): {1e3 * one.difference:+.1f} mmag, "
            f"size x {one.size_ratio:.4f}: {', '.join(one.reasons)}"
            for one in self.worst
        ]
        return "\n".join(lines)


_SAID = {"agrees": "agree", "differs": "differ", "cannot tell": "cannot be told"}
_COLUMNS = ("image_id", "injection_id", "mag", "difference", "size_ratio", "reasons", "note", "verdict")


def summarize(tables: Iterable[pa.Table | pa.RecordBatch]) -> ConsistencySummary:
    """Sum up tables of `skygraft.qa.consistency.terms.SCHEMA`, read in any number of parts.

    Parameters
    ----------
    tables : iterable of pyarrow.Table or RecordBatch

    Returns
    -------
    ConsistencySummary
    """
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    images: set[str] = set()
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("difference", *TERMS)}
    worst: list[WorstSource] = []
    for table in tables:
        rows = {name: table.column(name).to_pylist() for name in _COLUMNS}
        verdicts.update(rows["verdict"])
        images.update(rows["image_id"])
        told = np.array([one != VERDICTS[2] for one in rows["verdict"]], dtype=np.bool_)
        for name, parts in values.items():
            column = name if name == "difference" else f"{name}_term"
            parts.append(np.asarray(table.column(column).to_numpy(zero_copy_only=False), dtype=float)[told])
        notes.update(text for note in rows["note"] for text in note.split("; ") if text)
        differing = [i for i, one in enumerate(rows["verdict"]) if one == "differs"]
        reasons.update(name for i in differing for name in rows["reasons"][i])
        worst = _worst([*worst, *(_source(rows, i) for i in differing)])
    terms = [_term(name, np.concatenate(parts)) for name, parts in values.items()] if images else []
    return ConsistencySummary(
        len(images),
        {name: verdicts[name] for name in VERDICTS},
        {name: reasons[name] for name in REASONS if reasons[name]},
        tuple(terms),
        tuple(worst),
        dict(notes.most_common(8)),
    )


def _source(rows: Mapping[str, Sequence[Any]], i: int) -> WorstSource:
    return WorstSource(
        rows["image_id"][i],
        rows["injection_id"][i],
        rows["mag"][i],
        rows["difference"][i],
        rows["size_ratio"][i],
        tuple(rows["reasons"][i]),
    )


def _worst(sources: list[WorstSource]) -> list[WorstSource]:
    def badness(one: WorstSource) -> tuple[float, str, int]:
        # One millimagnitude counts as much as 0.2 % of the size: the ratio of the tolerances.
        size = abs(one.size_ratio - 1) / 2 if np.isfinite(one.size_ratio) else 0.0
        return -max(abs(one.difference), size), one.image_id, one.injection_id

    return sorted(sources, key=badness)[:_WORST]


def _term(name: str, values: NDArray[np.float64]) -> TermSummary:
    values = values[np.isfinite(values)]
    if not values.size:
        return TermSummary(name, np.nan, np.nan, np.nan)
    low, median, high = np.percentile(values, [5, 50, 95])
    return TermSummary(name, float(median), float(low), float(high))
