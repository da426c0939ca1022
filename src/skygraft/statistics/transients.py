"""Transients and movers: how often they are caught, and when for the first time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics.cells import By
from skygraft.statistics.completeness import completeness
from skygraft.statistics.intervals import normal_quantile
from skygraft.statistics.resampling import row_hash
from skygraft.statistics.rows import Where, bools, floats, open_rows

__all__ = ["detected_by", "first_detection", "transient_efficiency"]

_AGAINST = ("mag", "snr_expected", "phase")

type Floats = NDArray[np.float64]


def transient_efficiency(
    data: Any, by: By | None = None, *, source: str = "injection_id", **options: Any
) -> dict[str, xr.Dataset]:
    """The fraction of single epochs in which transients are detected, against magnitude, S/N and phase, one by one.

    Epochs of one transient are not independent: ``error_source`` knows it. For bins in several columns at once, use
    `skygraft.statistics.completeness` with both.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `skygraft.statistics.completeness`: a row for each transient and image.
    by : str, sequence of str, mapping or None
        Columns, each of which is binned alone, or column to bins. By default those that the table has of ``mag``,
        ``snr_expected`` (5 times 10^(0.4 (depth - mag)), if there is no such column: also those that are missed have
        one) and ``phase`` (``mjd`` minus ``peak_mjd``, if there is no such column). A rate of motion is a column like
        others.
    source : str
        Column that tells transients apart.
    **options
        Of `skygraft.statistics.completeness`.

    Returns
    -------
    dict of str to xarray.Dataset
        For each column, what `skygraft.statistics.completeness` returns.

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or there is none of those by default.
    """
    rows = open_rows(data, where=options.pop("where", None), usable=options.pop("usable", "usable"))
    if by is None:
        by = [name for name in _AGAINST if rows.has(name)]
        if not by:
            raise CatalogError(
                f"{rows.origin} has none of {', '.join(_AGAINST)}; it has {', '.join(rows.names)}",
                fix="Name the columns to bin by",
            )
    wanted: dict[str, Any]
    wanted = dict(by) if isinstance(by, Mapping) else dict.fromkeys([by] if isinstance(by, str) else by, "auto")
    return {
        name: completeness(rows, {name: bins}, source=source, usable=None, **options) for name, bins in wanted.items()
    }


def first_detection(
    data: Any,
    object: str = "injection_id",
    *,
    time: str = "mjd",
    found: str = "found",
    start: str | None = None,
    n_detections: int = 1,
    where: Where = None,
    usable: str | None = "usable",
) -> xr.Dataset:
    """When each transient is detected for the first time.

    Held in memory is a row for each transient, not for each of its images. Images without a time do not count.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `skygraft.statistics.completeness`: a row for each transient and image.
    object : str
        Column that tells transients apart.
    time : str
        Column of times, d.
    found : str
        Column that says whether it was found.
    start : str, optional
        Column with the time from which to count (of explosion, of peak); by default the first image of each.
    n_detections : int
        The detection that counts: 2 for those that a search confirms by a second one.
    where, usable
        As in `skygraft.statistics.completeness`.

    Returns
    -------
    xarray.Dataset
        Over ``object``, in the order of their names: ``n_images``, ``n_found``, ``first_mjd``, ``last_mjd`` (of
        images), ``first_found_mjd`` (of detection `n_detections`; NaN for never), and ``delay`` (d) since the start.

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or cannot be used.
    """
    rows = open_rows(data, where=where, usable=usable)
    if int(n_detections) != n_detections or n_detections < 1:
        raise ConfigError(f"detection {n_detections!r}", key="n_detections", fix="Give 1 or more")
    rows.require([object, time, found, *([start] if start else [])])
    table = _PerObject(int(n_detections))
    for batch in rows.batches([object, time, found, start]):
        table.add(batch, object, time, found, start)
    table.merge()
    nth, begin = table.nth, table.low if start is None else table.start
    unit = rows.unit(time) or "d"
    out: dict[str, tuple[str, Any, dict[str, str]]] = {
        "n_images": ("object", table.n, {"long_name": "images with a time"}),
        "n_found": ("object", table.n_found, {"long_name": "of these, found"}),
        "first_mjd": ("object", table.low, {"units": unit, "long_name": "first image"}),
        "last_mjd": ("object", table.high, {"units": unit, "long_name": "last image"}),
        "first_found_mjd": ("object", nth, {"units": unit, "long_name": f"detection {n_detections}"}),
        "delay": ("object", nth - begin, {"units": unit, "long_name": "time from the start to this detection"}),
        "watched": ("object", table.high - begin, {"units": unit, "long_name": "from the start to the last image"}),
    }
    about = {"title": "time of first detection", "start": start or "first image", "n_detections": n_detections}
    return xr.Dataset(out, coords={"object": table.names()}, attrs=about | rows.attrs())


class _PerObject:
    """Sums of each transient, merged batch by batch."""

    def __init__(self, n_detections: int) -> None:
        self.k = n_detections
        self.labels: pa.Array | None = None
        self.keys = np.zeros(0, np.uint64)
        self.n = self.n_found = np.zeros(0, np.int64)
        self.low = self.high = self.start = np.zeros(0)
        self.firsts = np.zeros((0, n_detections))

    def add(self, batch: pa.RecordBatch, object: str, time: str, found: str, start: str | None) -> None:
        times = floats(batch, time)
        good = np.isfinite(times)
        key = row_hash(batch, [object])[good]
        seen, first, number = np.unique(key, return_index=True, return_inverse=True)
        size, times, hit = seen.size, times[good], bools(batch, found)[good]
        low, high, begin = np.full(size, np.inf), np.full(size, -np.inf), np.full(size, np.inf)
        np.minimum.at(low, number, times)
        np.maximum.at(high, number, times)
        if start is not None:
            np.fmin.at(begin, number, floats(batch, start)[good])
        names = batch.column(object).filter(pa.array(good)).take(pa.array(first))
        if pa.types.is_dictionary(names.type):
            names = names.dictionary_decode()
        self._join(
            seen, names, np.bincount(number, minlength=size), np.bincount(number[hit], minlength=size), low, high,
            begin, _earliest(number[hit], times[hit], size, self.k),
        )  # fmt: skip

    def _join(
        self, keys: NDArray[np.uint64], labels: pa.Array, n: NDArray[np.int64], n_found: NDArray[np.int64], low: Floats,
        high: Floats, start: Floats, firsts: Floats,
    ) -> None:  # fmt: skip
        if self.labels is None:
            self.labels = labels.slice(0, 0)
        every = np.concatenate([self.keys, keys])
        joined, first, number = np.unique(every, return_index=True, return_inverse=True)
        old, new = number[: self.keys.size], number[self.keys.size :]
        size = joined.size

        def summed(a: Any, b: Any) -> NDArray[np.int64]:
            out = np.zeros(size, np.int64)
            out[old] += a
            out[new] += b
            return out

        def least(a: Floats, b: Floats) -> Floats:
            out = np.full(size, np.inf)
            out[old] = a
            out[new] = np.fmin(out[new], b)
            return out

        self.n, self.n_found = summed(self.n, n), summed(self.n_found, n_found)
        self.low, self.start = least(self.low, low), least(self.start, start)
        self.high = -least(-self.high, -high)
        both = np.full((size, 2 * self.k), np.inf)
        both[old, : self.k] = self.firsts
        both[new, self.k :] = firsts
        self.firsts = np.sort(both, 1)[:, : self.k]
        self.labels = pa.concat_arrays([self.labels, labels]).take(pa.array(first))
        self.keys = joined

    def merge(self) -> None:
        """Put all in the order of the names."""
        import pyarrow.compute as pc

        if self.labels is None:
            self.labels = pa.array([], pa.int64())
        order = pc.sort_indices(self.labels).to_numpy()
        self.labels = self.labels.take(pa.array(order))
        self.n, self.n_found, self.low, self.high = (x[order] for x in (self.n, self.n_found, self.low, self.high))
        self.start = np.where(np.isfinite(self.start[order]), self.start[order], np.nan)
        self.firsts = self.firsts[order]

    @property
    def nth(self) -> Floats:
        last = self.firsts[:, -1]
        return np.where(np.isfinite(last), last, np.nan)

    def names(self) -> NDArray[Any]:
        assert self.labels is not None
        found = self.labels.to_numpy(zero_copy_only=False)
        return found.astype(np.str_) if found.dtype.kind == "O" else np.asarray(found)


def _earliest(number: NDArray[np.int64], times: Floats, size: int, k: int) -> Floats:
    """The k earliest times of each object; infinite where there are fewer."""
    order = np.lexsort((times, number))
    number, times = number[order], times[order]
    rank = np.arange(number.size) - np.searchsorted(number, number, side="left")
    out = np.full((size, k), np.inf)
    early = rank < k
    out[number[early], rank[early]] = times[early]
    return out


def detected_by(first: xr.Dataset, times: Any = None, *, interval: float = 0.6827) -> xr.Dataset:
    """The fraction of transients that is detected within a time since their start.

    Those that were watched for a shorter time without a detection count for as long as they were watched: the product
    limit of Kaplan & Meier (1958, J. Am. Stat. Assoc. 53, 457), with the variance of Greenwood (1926).

    Parameters
    ----------
    first : xarray.Dataset
        What `first_detection` has returned.
    times : array_like, optional
        Times since the start, d; by default 50 that reach to the last detection.
    interval : float
        Probability of the interval, which is normal in log(-log) of what is not yet detected.

    Returns
    -------
    xarray.Dataset
        Over ``delay``: ``detected`` (fraction), ``error``, ``lower``, ``upper``, ``n_at_risk``.
    """
    z = normal_quantile(interval)
    delay, watched = first["delay"].values, first["watched"].values
    seen = np.isfinite(delay)
    ends = np.where(seen, delay, watched)
    known = np.isfinite(ends)
    ends, seen = ends[known], seen[known]
    if times is None:
        times = np.linspace(0.0, float(ends[seen].max()), 50) if seen.any() else np.zeros(1)
    at = np.asarray(times, np.float64)
    steps = np.unique(ends[seen])
    risk = ends.size - np.searchsorted(np.sort(ends), steps, side="left")
    events = np.searchsorted(np.sort(ends[seen]), steps, "right") - np.searchsorted(np.sort(ends[seen]), steps, "left")
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.concatenate([[1.0], np.cumprod(1.0 - events / risk)])
        greenwood = np.concatenate([[0.0], np.cumsum(events / (risk * (risk - events)))])
    place = np.searchsorted(steps, at, side="right")
    s, g = left[place], greenwood[place]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(s > 0, s * np.sqrt(g), 0.0)
        reach = z * np.sqrt(g) / np.abs(np.log(s))
        lower, upper = 1.0 - s ** np.exp(-reach), 1.0 - s ** np.exp(reach)
    inner = (s > 0) & (s < 1)
    at_risk = ends.size - np.searchsorted(np.sort(ends), at, side="left")
    none = np.full(at.shape, np.nan)
    nothing = ends.size == 0
    return xr.Dataset(
        {
            "detected": ("delay", none if nothing else 1.0 - s, {"long_name": "fraction detected by then"}),
            "error": ("delay", none if nothing else error, {"long_name": "Greenwood's standard error"}),
            "lower": ("delay", np.where(inner, lower, np.nan)),
            "upper": ("delay", np.where(inner, upper, np.nan)),
            "n_at_risk": ("delay", at_risk, {"long_name": "watched, and not detected before"}),
        },
        coords={"delay": ("delay", at, {"units": "d"})},
        attrs={**first.attrs, "title": "fraction of transients detected by a time", "interval": interval},
    )
