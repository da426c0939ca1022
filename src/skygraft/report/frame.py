"""A map of a piece of the sky: where a place lies on it, and its lines of right ascension and declination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Frame"]

_LINES = 5
_LINE_POINTS = 121
_LEAST = 1 / 120
_DEC_STEPS = (1 / 60, 2 / 60, 5 / 60, 10 / 60, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
_RA_STEPS = (*_DEC_STEPS, 45.0, 60.0)


@dataclass(frozen=True)
class Frame:
    """A zenithal equal-area map (Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.4) about a place.

    Any part of the sky fits, and equal areas look equal. North is up, east is left.

    Parameters
    ----------
    ra, dec : float
        Middle of the map, deg.
    radius : float
        Half of its side, in degrees of the map.
    """

    ra: float
    dec: float
    radius: float

    @classmethod
    def around(cls, ra: ArrayLike, dec: ArrayLike) -> Frame:
        """The map that holds all of some places (deg), which may lie on both sides of right ascension 0."""
        a, d = np.radians(np.asarray(ra, dtype=float)), np.radians(np.asarray(dec, dtype=float))
        known = np.isfinite(a) & np.isfinite(d)
        a, d = a[known], d[known]
        if not a.size:
            return cls(0.0, 0.0, 180.0)
        low, high = d.min(), d.max()
        x, y = np.cos(a).mean(), np.sin(a).mean()
        # Spread all around the sky, there is no middle in right ascension.
        middle = float(np.degrees(np.arctan2(y, x))) % 360.0 if np.hypot(x, y) > 1e-3 else 180.0
        frame = cls(middle, float(np.degrees((low + high) / 2)), 1.0)
        px, py = frame.project(np.degrees(a), np.degrees(d))
        reach = max(float(np.abs(px).max()), float(np.abs(py).max()))
        return cls(frame.ra, frame.dec, max(1.06 * reach, _LEAST))

    def project(self, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the places on the map (degrees; x grows to the east) of places on the sky (deg)."""
        a = np.radians(np.asarray(ra, dtype=float) - self.ra)
        d, d0 = np.radians(np.asarray(dec, dtype=float)), np.radians(self.dec)
        east = np.cos(d) * np.sin(a)
        north = np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)
        towards = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
        # 2 sin(theta / 2) / sin(theta) for a distance theta from the middle.
        scale = np.sqrt(2.0 / np.maximum(1.0 + towards, 1e-9))
        return np.degrees(east * scale), np.degrees(north * scale)

    def set_up(self, axes: Axes, *, ink: str, grid: str) -> None:
        """Give a panel the map's limits, its lines of equal right ascension and declination, and their labels."""
        r = self.radius
        axes.set_xlim(r, -r)
        axes.set_ylim(-r, r)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        dec_step = _step(_DEC_STEPS, 2 * r)
        shrink = max(float(np.cos(np.radians(min(abs(self.dec), 89.0)))), 0.02)
        ra_step = _step(_RA_STEPS, min(360.0, 2 * r / shrink))
        decs = np.arange(
            np.ceil(max(self.dec - 1.5 * r, -90) / dec_step), np.floor(min(self.dec + 1.5 * r, 90) / dec_step) + 1
        )
        reach = min(180.0, 1.6 * r / shrink)
        ras = np.arange(np.ceil((self.ra - reach) / ra_step), np.floor((self.ra + reach) / ra_step) + 1)
        left, below = [], []
        along = np.linspace(-1, 1, _LINE_POINTS)
        for dec in decs * dec_step:
            x, y = self.project(self.ra + reach * along, np.full(_LINE_POINTS, dec))
            axes.plot(x, y, color=grid, lw=0.7, zorder=0)
            if (at := _crossing(x, y, r, r)) is not None:
                left.append((at, _degrees(dec, dec_step, sign=True)))
        for ra in ras * ra_step:
            y0 = np.clip(self.dec + 1.6 * r * along, -90, 90)
            x, y = self.project(np.full(_LINE_POINTS, ra), y0)
            axes.plot(x, y, color=grid, lw=0.7, zorder=0)
            if (at := _crossing(y, x, -r, r)) is not None:
                below.append((at, _degrees(ra % 360.0, ra_step, sign=False)))
        axes.set_yticks([at for at, _ in left], [text for _, text in left])
        axes.set_xticks([at for at, _ in below], [text for _, text in below])
        axes.tick_params(length=0, colors=ink)
        axes.spines[["top", "right"]].set_visible(True)
        for spine in axes.spines.values():
            spine.set_color(grid)
        axes.set_xlabel("right ascension (deg)")
        axes.set_ylabel("declination (deg)")


def _step(steps: tuple[float, ...], span: float) -> float:
    return next((step for step in steps if span / step <= _LINES + 1), steps[-1])


def _crossing(across: NDArray[Any], along: NDArray[Any], edge: float, limit: float) -> float | None:
    """Where a line crosses an edge of the map, if it does."""
    side = np.signbit(across - edge)
    for i in np.flatnonzero(side[1:] != side[:-1]):
        part = (edge - across[i]) / (across[i + 1] - across[i])
        at = float(along[i] + part * (along[i + 1] - along[i]))
        if abs(at) <= limit:
            return at
    return None


def _degrees(value: float, step: float, *, sign: bool) -> str:
    digits = 0 if step >= 1 else 1 if step >= 0.5 else 2 if step >= 0.1 else 3
    text = f"{value:+.{digits}f}" if sign and abs(value) > 1e-9 else f"{value:.{digits}f}"
    return text.replace("-", "−")
