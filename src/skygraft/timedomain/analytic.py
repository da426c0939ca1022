"""Analytic light curves: the factor by which a row's flux differs from that of its magnitude, at any time.

With t the days since the row's `light_curve_mjd` + `time_delay`:

* ``sine``: magnitude + A sin(2 pi (t / period + phase)), with A the `amplitude`;
* ``top_hat``: the magnitude while 0 <= t < `duration`, no light before and after;
* ``flare``: the magnitude, brightened to a factor of 1 + (10^(0.4 A) - 1) f(t), with f rising linearly from 0 to 1
  within `rise_time` and falling as exp(-(t - rise_time) / `decay_time`) afterwards.
"""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.schema import strings, values

__all__ = ["analytic_factor", "own_times"]


def own_times(table: Table, mjd: float) -> NDArray[np.float64]:
    """Times of an image in the light curves of its sources: days since `light_curve_mjd`, less `time_delay`.

    Parameters
    ----------
    table : Table
        Canonical rows, N of them.
    mjd : float
        Middle of the exposure, MJD in TAI.

    Returns
    -------
    ndarray of float64, shape (N,)
        Where a row has no `light_curve_mjd`, MJD less the delay.
    """
    times = np.full(len(table), float(mjd))
    if "light_curve_mjd" in table.colnames:
        times -= np.nan_to_num(values(table, "light_curve_mjd"), nan=0.0)
    if "time_delay" in table.colnames:
        times -= np.nan_to_num(values(table, "time_delay"), nan=0.0)
    return times


def analytic_factor(table: Table, mjd: float | None, *, quiet: bool = False) -> NDArray[np.float64]:
    """Factor of each row's flux at a time, by its `variability`.

    Parameters
    ----------
    table : Table
        Canonical rows, N of them.
    mjd : float or None
        Middle of the exposure, MJD in TAI; None where it is not known, where sines and flares are
        as with `quiet`, and a top hat is off.
    quiet : bool
        Whether sines and flares are to have their row's magnitude, as in a template.

    Returns
    -------
    ndarray of float64, shape (N,)
        1 for rows without variability; NaN where a parameter is missing.
    """
    kind, out = strings(table, "variability"), np.ones(len(table))
    if not np.any(kind != ""):
        return out
    time = own_times(table, 0.0 if mjd is None else mjd)
    if (rows := np.flatnonzero(kind == "top_hat")).size:
        duration, zero = values(table, "duration")[rows], values(table, "light_curve_mjd")[rows]
        on = (time[rows] >= 0) & (time[rows] < duration) if mjd is not None else np.zeros(rows.size, dtype=np.bool_)
        out[rows] = np.where(np.isfinite(duration) & np.isfinite(zero), on, np.nan)
    if mjd is None or quiet:
        return out
    if (rows := np.flatnonzero(kind == "sine")).size:
        period, amplitude = values(table, "period")[rows], values(table, "amplitude")[rows]
        phase = np.nan_to_num(values(table, "phase")[rows], nan=0.0)
        # Whole periods are taken off first: the sine of a large angle loses digits.
        turns = np.remainder(time[rows] / period + phase, 1.0)
        out[rows] = 10.0 ** (-0.4 * amplitude * np.sin(2 * np.pi * turns))
    if (rows := np.flatnonzero(kind == "flare")).size:
        amplitude, decay = values(table, "amplitude")[rows], values(table, "decay_time")[rows]
        rise = np.nan_to_num(values(table, "rise_time")[rows], nan=0.0)
        since, zero = time[rows], values(table, "light_curve_mjd")[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            shape = np.where(since < rise, since / rise, np.exp(-np.maximum(since - rise, 0.0) / decay))
        shape = np.where(since < 0, 0.0, shape)
        out[rows] = np.where(np.isfinite(zero), 1.0 + (10.0 ** (0.4 * amplitude) - 1.0) * shape, np.nan)
    return out
