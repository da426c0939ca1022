"""The counters that a campaign's progress is kept in; their memory does not grow with the number of images."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from skygraft.monitoring.snapshot import Host

__all__ = ["ClosureHistogram", "History", "HostTable", "RecentSums"]

type Totals = npt.NDArray[np.float64]


class RecentSums:
    """Totals of some quantities, since the start and over the last minutes.

    Times are in seconds; they are resolved to bins of `bin_seconds`, and the longest window has `n_bins` of them.
    """

    def __init__(self, start: float, n_quantities: int, *, bin_seconds: int = 1, n_bins: int = 600) -> None:
        self._start, self._bin_seconds = start, bin_seconds
        self.totals: Totals = np.zeros(n_quantities)
        """Sums since the start."""
        # Bins in which something was added, each with the totals before it.
        self._marks: deque[tuple[int, Totals]] = deque(maxlen=n_bins)
        self._bin = self._bin_at(start)

    def add(self, at: float, amounts: tuple[float, ...]) -> None:
        """Add to each quantity; a time before that of the last call is taken as that one."""
        self._bin = max(self._bin, self._bin_at(at))
        if not self._marks or self._marks[-1][0] < self._bin:
            self._marks.append((self._bin, self.totals.copy()))
        self.totals += amounts

    def sums(self, at: float, n_bins: int) -> Totals:
        """Return the sum of each quantity over the last bins; the present, unfinished one is the last of them."""
        first = max(self._bin, self._bin_at(at)) - n_bins + 1
        before = next((totals for index, totals in self._marks if index >= first), self.totals)
        return self.totals - before

    def span(self, at: float, n_bins: int) -> float:
        """Return the length of that window in seconds, at least 1: time before the start is not part of it."""
        index = max(self._bin, self._bin_at(at))
        at = max(at, float(index * self._bin_seconds))
        window = (n_bins - 1 - index) * self._bin_seconds + at
        return max(1.0, min(window, at - self._start))

    def rates(self, at: float, n_bins: int) -> Totals:
        """Return the mean per second of each quantity over that window."""
        return self.sums(at, n_bins) / self.span(at, n_bins)

    def _bin_at(self, at: float) -> int:
        return math.floor(at / self._bin_seconds)


class History:
    """The growth of some counts from the start until now, at a limited number of times.

    Above `n_points` times, every other one is dropped and the interval doubled.
    """

    def __init__(self, start: float, *, n_points: int = 240) -> None:
        self._n_points = n_points
        self._interval = 1.0
        self._points: list[tuple[float, tuple[int, ...]]] = []
        self._counts: tuple[int, ...] = ()
        self._start = start

    def add(self, at: float, counts: tuple[int, ...]) -> None:
        """Note the counts, unless some were noted less than an interval before."""
        at -= self._start
        before, self._counts = self._counts, counts
        if self._points:
            since = at - self._points[-1][0]
            if since < self._interval:
                return
            if since >= 2 * self._interval:
                # After a pause: without this point, the counts would seem to have grown evenly during it.
                self._points.append((at - self._interval, before))
        self._points.append((at, counts))
        if len(self._points) > self._n_points:
            self._points = self._points[::2]
            self._interval *= 2

    def points(self) -> list[tuple[float, tuple[int, ...]]]:
        """Return the times, in seconds since the start, and the counts at each."""
        return list(self._points)


class ClosureHistogram:
    """Closure residuals of a band in fixed bins of 0.05 mmag between -100 and 100 mmag."""

    BIN, HALF = 0.05, 100.0
    """Width of a bin and half width of the histogram, mmag."""

    def __init__(self) -> None:
        # The first and the last bin count what lies outside.
        self._counts: npt.NDArray[np.int64] = np.zeros(round(2 * self.HALF / self.BIN) + 2, dtype=np.int64)

    def add(self, residual_mag: float) -> None:
        """Count one residual, in magnitudes; one that is not finite is ignored."""
        mmag = 1000.0 * residual_mag
        if math.isfinite(mmag):
            # Rounded, because a value on an edge belongs to the bin above it and its last digit may be lost.
            index = math.floor(round((mmag + self.HALF) / self.BIN, 6)) + 1
            self._counts[min(max(index, 0), len(self._counts) - 1)] += 1

    @property
    def n(self) -> int:
        """Number of residuals."""
        return int(self._counts.sum())

    def quantile(self, fraction: float) -> float:
        """Return a quantile of the residuals, mmag, exact to a bin's width; numpy's definition (linear)."""
        rank = fraction * (self.n - 1)
        lower = math.floor(rank)
        below, above = self._ordered(lower), self._ordered(min(lower + 1, self.n - 1))
        return below + (rank - lower) * (above - below)

    def _ordered(self, rank: int) -> float:
        """Return the residual of a rank, mmag; those in one bin are taken as spread evenly over it."""
        upto = np.cumsum(self._counts)
        index = int(np.searchsorted(upto, rank, side="right"))
        within = (rank - (upto[index] - self._counts[index]) + 0.5) / self._counts[index]
        return float(np.clip(-self.HALF + (index - 1 + within) * self.BIN, -self.HALF, self.HALF))

    def median_sigma(self) -> tuple[float, float]:
        """Return the median and the robust standard deviation (0.7413 times the interquartile range), mmag."""
        return self.quantile(0.5), 0.7413 * (self.quantile(0.75) - self.quantile(0.25))

    def counts(self, half_width: float, n_bins: int) -> tuple[list[int], int, int]:
        """Return the histogram between minus and plus a half width, mmag, and the numbers on either side of it.

        The half width and the width of its bins must be whole multiples of `BIN`.
        """
        per_bin = round(2 * half_width / n_bins / self.BIN)
        first = round((self.HALF - half_width) / self.BIN) + 1
        last = first + per_bin * n_bins
        inner = self._counts[first:last].reshape(n_bins, per_bin).sum(axis=1)
        return inner.tolist(), int(self._counts[:first].sum()), int(self._counts[last:].sum())


class HostTable:
    """Counts of what each machine has done in a run."""

    _IMAGES, _FAILED, _WALL, _SOURCES = range(4)
    _MINUTES = 10

    def __init__(self, start: float) -> None:
        self._start = start
        self._sums: dict[str, RecentSums] = {}
        self._last: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, at: float, name: str, *, failed: bool, wall_seconds: float, n_sources: int) -> None:
        """Count an image that a machine has made, or failed to make."""
        if name not in self._sums:
            self._sums[name] = RecentSums(self._start, 4, bin_seconds=60, n_bins=self._MINUTES)
        self._sums[name].add(at, (not failed, failed, wall_seconds, n_sources))
        self._last[name] = max(self._last.get(name, at), at)

    def rows(self, at: float, n: int) -> list[Host]:
        """Return the machines with most failed attempts, then those that made most images; at most `n`."""
        order = sorted(
            self._sums, key=lambda name: (*-self._sums[name].totals[[self._FAILED, self._IMAGES]].astype(int), name)
        )
        return [self._row(at, name, self._sums[name]) for name in order[:n]]

    def _row(self, at: float, name: str, sums: RecentSums) -> Host:
        images, failed, wall, sources = sums.totals.tolist()
        return {
            "host": name,
            "n_images": int(images),
            "n_failed_attempts": int(failed),
            "n_sources": int(sources),
            "images_per_minute": round(60.0 * float(sums.rates(at, self._MINUTES)[self._IMAGES]), 3),
            "mean_wall_seconds": round(wall / max(images + failed, 1), 3),
            "seconds_since_last": round(max(0.0, at - self._last[name]), 1),
        }
