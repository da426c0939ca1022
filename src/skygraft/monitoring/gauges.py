"""What a campaign's progress is measured with: each of them needs the same memory however many images there are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ClosureHistogram", "History", "HostTable", "SlidingSums"]

type Counts = npt.NDArray[np.int64]

_MINUTE = 60
_OTHER = "(others)"


class SlidingSums:
    """Sums of some quantities over the last seconds.

    Parameters
    ----------
    start : float
        When counting begins, seconds.
    n_columns : int
        Number of quantities.
    seconds : int
        The longest window.
    """

    def __init__(self, start: float, n_columns: int, *, seconds: int) -> None:
        self._start = start
        self._sums = np.zeros((seconds, n_columns))
        self._second = math.floor(start)

    def add(self, at: float, amounts: tuple[float, ...]) -> None:
        """Add to each quantity; a time before the last one counts as that."""
        self._advance(at)
        self._sums[self._second % len(self._sums)] += amounts

    def rates(self, at: float, window: int) -> npt.NDArray[np.float64]:
        """Mean per second of each quantity over a window that ends now.

        Parameters
        ----------
        at : float
            Now, seconds.
        window : int
            Seconds; the current second, which is not over, is the last of them. What lies before the start does not
            dilute the mean.

        Returns
        -------
        ndarray of float64, shape (n_columns,)
        """
        return self.sums(at, window) / self.span(at, window)

    def sums(self, at: float, window: int) -> npt.NDArray[np.float64]:
        """Sum of each quantity over the window; see `rates`."""
        self._advance(at)
        seconds = np.arange(self._second - window + 1, self._second + 1) % len(self._sums)
        total: npt.NDArray[np.float64] = self._sums[seconds].sum(axis=0)
        return total

    def span(self, at: float, window: int) -> float:
        """Length of the window, at least one second."""
        at = max(at, float(self._second))
        return max(1.0, min(window - 1 + at - self._second, at - self._start))

    def _advance(self, at: float) -> None:
        second = math.floor(at)
        if second <= self._second:
            return
        gone = np.arange(self._second + 1, min(second, self._second + len(self._sums)) + 1) % len(self._sums)
        self._sums[gone] = 0.0
        self._second = second


class History:
    """How counts grew from the start until now, at no more than some hundred times.

    Parameters
    ----------
    start : float
        Seconds.
    n_points : int
        When there are more, every other one is forgotten and the interval doubled.
    """

    def __init__(self, start: float, *, n_points: int = 240) -> None:
        self._n_points = n_points
        self._interval = 1.0
        self._points: list[tuple[float, tuple[int, ...]]] = []
        self._counts: tuple[int, ...] = ()
        self._start = start

    def add(self, at: float, counts: tuple[int, ...]) -> None:
        """Note counts, unless some were noted just before."""
        at -= self._start
        before, self._counts = self._counts, counts
        if self._points:
            since = at - self._points[-1][0]
            if since < self._interval:
                return
            if since >= 2 * self._interval:
                # Nothing was heard for a while: the counts did not grow evenly meanwhile.
                self._points.append((at - self._interval, before))
        self._points.append((at, counts))
        if len(self._points) > self._n_points:
            self._points = self._points[::2]
            self._interval *= 2

    def points(self) -> list[tuple[float, tuple[int, ...]]]:
        """Seconds since the start, and the counts then."""
        return list(self._points)


class ClosureHistogram:
    """Closure residuals of a band in fixed bins of 0.05 mmag between -100 and 100 mmag."""

    BIN = 0.05
    """Width, mmag."""
    HALF = 100.0
    """Half width of the whole, mmag."""

    def __init__(self) -> None:
        # The first and the last hold what lies outside.
        self._counts: Counts = np.zeros(round(2 * self.HALF / self.BIN) + 2, dtype=np.int64)

    def add(self, residual_mag: float) -> None:
        """Count one residual, mag."""
        mmag = 1000.0 * residual_mag
        if math.isfinite(mmag):
            # An edge belongs to the bin above it, whatever the last digit of a product is.
            index = math.floor(round((mmag + self.HALF) / self.BIN, 6)) + 1
            self._counts[min(max(index, 0), len(self._counts) - 1)] += 1

    @property
    def n(self) -> int:
        """Residuals counted."""
        return int(self._counts.sum())

    def quantile(self, fraction: float) -> float:
        """The quantile of the residuals, mmag, exact to a bin's width: between two of them as numpy's, linearly."""
        place = fraction * (self.n - 1)
        lower = math.floor(place)
        below, above = self._ordered(lower), self._ordered(min(lower + 1, self.n - 1))
        return below + (place - lower) * (above - below)

    def _ordered(self, rank: int) -> float:
        """The residual with so many below it, mmag; those of a bin are spread evenly over it."""
        upto = np.cumsum(self._counts)
        index = int(np.searchsorted(upto, rank, side="right"))
        within = (rank - (upto[index] - self._counts[index]) + 0.5) / self._counts[index]
        return float(np.clip(-self.HALF + (index - 1 + within) * self.BIN, -self.HALF, self.HALF))

    def median_sigma(self) -> tuple[float, float]:
        """Median and robust standard deviation (0.7413 times the interquartile range), mmag."""
        return self.quantile(0.5), 0.7413 * (self.quantile(0.75) - self.quantile(0.25))

    def counts(self, half_width: float, n_bins: int) -> tuple[list[int], int, int]:
        """Coarser bins between ``-half_width`` and ``half_width`` mmag, and how many lie below and above them.

        Both must be whole multiples of the fine bins.
        """
        per_bin = round(2 * half_width / n_bins / self.BIN)
        first = round((self.HALF - half_width) / self.BIN) + 1
        last = first + per_bin * n_bins
        inner = self._counts[first:last].reshape(n_bins, per_bin).sum(axis=1)
        return inner.tolist(), int(self._counts[:first].sum()), int(self._counts[last:].sum())


@dataclass(slots=True)
class _Host:
    n_images: int = 0
    n_failed: int = 0
    wall_seconds: float = 0.0
    n_sources: int = 0
    last: float = 0.0
    minute: int = 0
    recent: list[int] = field(default_factory=lambda: [0] * 10)

    def advance(self, minute: int) -> None:
        for gone in range(self.minute + 1, min(minute, self.minute + len(self.recent)) + 1):
            self.recent[gone % len(self.recent)] = 0
        self.minute = max(minute, self.minute)


class HostTable:
    """What each machine did.

    A campaign of days on machines that come and go sees many: beyond `limit`, what the one that was silent longest
    did moves to ``(others)``.

    Parameters
    ----------
    start : float
        Seconds.
    limit : int
        Machines to tell apart.
    """

    def __init__(self, start: float, *, limit: int = 1000) -> None:
        self._start, self._limit = start, limit
        self._hosts: dict[str, _Host] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self, at: float, name: str, *, failed: bool, wall_seconds: float, n_sources: int) -> None:
        """Count an image that was made or failed."""
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._limit:
                self._forget_one()
            host = self._hosts[name] = _Host(minute=int(at // _MINUTE))
        host.n_images += not failed
        host.n_failed += failed
        host.wall_seconds += wall_seconds
        host.n_sources += n_sources
        host.last = max(host.last, at)
        host.advance(int(at // _MINUTE))
        host.recent[host.minute % len(host.recent)] += not failed

    def rows(self, at: float, n: int) -> list[dict[str, Any]]:
        """The machines with most failed attempts, then those that did most, as JSON types.

        ``images_per_minute`` is that of the last ten minutes.
        """
        chosen = sorted(self._hosts.items(), key=lambda item: (-item[1].n_failed, -item[1].n_images, item[0]))[:n]
        rows = []
        for name, host in chosen:
            host.advance(int(at // _MINUTE))
            span = min(len(host.recent) - 1 + (at % _MINUTE) / _MINUTE, (at - self._start) / _MINUTE)
            finished = host.n_images + host.n_failed
            rows.append(
                {
                    "host": name,
                    "n_images": host.n_images,
                    "n_failed_attempts": host.n_failed,
                    "n_sources": host.n_sources,
                    "images_per_minute": round(sum(host.recent) / max(span, 1.0 / _MINUTE), 3),
                    "mean_wall_seconds": round(host.wall_seconds / max(finished, 1), 3),
                    "seconds_since_last": round(max(0.0, at - host.last), 1),
                }
            )
        return rows

    def _forget_one(self) -> None:
        name = min((name for name in self._hosts if name != _OTHER), key=lambda name: self._hosts[name].last)
        gone = self._hosts.pop(name)
        others = self._hosts.setdefault(_OTHER, _Host(minute=gone.minute))
        others.n_images += gone.n_images
        others.n_failed += gone.n_failed
        others.wall_seconds += gone.wall_seconds
        others.n_sources += gone.n_sources
        others.last = max(others.last, gone.last)
