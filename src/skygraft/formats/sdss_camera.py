"""The camera of SDSS: gains, dark variances and times of its 30 detectors, and the sky and calibration of a frame.

Numbers and formulas are those of the SDSS data model, page ``frame``
(https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError
from skygraft.fitsfile.open import CONVERSIONS, fits_errors, open_fits
from skygraft.formats.fits_headers import Headers, finite_number

__all__ = [
    "BANDS",
    "CAMCOLS",
    "calibration_vector",
    "dark_variance",
    "frame_variance",
    "gain_of",
    "middle_of_exposure",
    "sky_counts",
]

BANDS = "ugriz"
"""Bands, in the order of the tables."""
CAMCOLS = (1, 2, 3, 4, 5, 6)
"""Columns of detectors."""

_GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    (1.595, 3.855, 4.6, 6.565, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
"""Electrons per count, by column and band."""
_GAIN_LATER = {(2, "u"): (1100, 1.825)}
"""Gains that changed: from which run on, and to what."""
_DARK = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, 5.76, 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, 6.25, 9.61),
    (9.3025, 1.1025, 0.81, 7.84, 1.8225),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)
"""Variance of dark current and read noise, counts squared, by column and band."""
_DARK_LATER = {(2, "i"): (1500, 6.25), (4, "i"): (1500, 7.5625), (4, "z"): (1500, 12.6025), (5, "z"): (1500, 2.1025)}

_EXPOSURE = 53.907456
"""Seconds that a star takes to cross the 2048 rows of a detector."""
_SECONDS_PER_ROW = 0.026322
_DAY = 86400.0


def gain_of(band: str, camcol: int, run: int) -> float:
    """Return the gain of a detector, in electrons per count.

    Parameters
    ----------
    band : str
        One of `BANDS`.
    camcol, run : int
        Column of the detector, and number of the imaging run.

    Examples
    --------
    >>> gain_of("u", 2, 1000), gain_of("u", 2, 6073), gain_of("r", 4, 6073)
    (1.595, 1.825, 4.76)
    """
    return _of_run(_GAIN, _GAIN_LATER, band, camcol, run)


def dark_variance(band: str, camcol: int, run: int) -> float:
    """Return the variance of dark current and read noise of a detector, in counts squared.

    Parameters
    ----------
    band, camcol, run
        As for `gain_of`.

    Examples
    --------
    >>> dark_variance("i", 4, 1000), dark_variance("i", 4, 6073)
    (6.25, 7.5625)
    """
    return _of_run(_DARK, _DARK_LATER, band, camcol, run)


def _of_run(
    table: Sequence[Sequence[float]],
    later: dict[tuple[int, str], tuple[int, float]],
    band: str,
    camcol: int,
    run: int,
) -> float:
    first, value = later.get((camcol, band), (0, math.nan))
    return value if first and run >= first else table[camcol - 1][BANDS.index(band)]


def middle_of_exposure(headers: Headers, n_rows: int) -> tuple[float | None, float]:
    """Return the middle of a frame's exposure (MJD, TAI; None if TAI is missing) and the exposure time in seconds.

    The camera scans: rows are read out one after the other, each 53.9 s after the sky began to move over the
    detector. TAI is the time at which row 0 was read, in seconds since MJD 0. The time returned is that of the middle
    row; the first and the last one of a frame were exposed 20 s before and after it.

    Parameters
    ----------
    headers : Headers
        Headers of the frame.
    n_rows : int
        Its number of rows.
    """
    tai, seconds, row = (headers.find(key) for key in ("TAI", "EXPTIME", "C_OBS"))
    exposure = None if seconds is None else finite_number(seconds)
    exposure = exposure if exposure and 1 < exposure < 1000 else _EXPOSURE
    clock = None if row is None else finite_number(row)
    # C_OBS is in microseconds.
    step = clock * 1e-6 if clock and 1e3 < clock < 1e6 else _SECONDS_PER_ROW
    start = None if tai is None else finite_number(tai)
    if start is None or start <= 0:
        return None, exposure
    return (start + step * (n_rows - 1) / 2 - exposure / 2) / _DAY, exposure


def calibration_vector(path: Path, hdu: int, n_columns: int) -> NDArray[np.float64] | None:
    """Return the calibration of each column of a frame, nanomaggies per count; None if it is that of a larger frame.

    Parameters
    ----------
    path : Path
        The frame.
    hdu : int
        HDU of the vector.
    n_columns : int
        Columns of the image.

    Raises
    ------
    FormatError
        If a value is no positive number.
    """
    with open_fits(path) as hdus, fits_errors(path, also=CONVERSIONS):
        vector = np.array(hdus[hdu].data, dtype=np.float64).reshape(-1)
    if len(vector) != n_columns:
        return None
    bad = np.flatnonzero(~(np.isfinite(vector) & (vector > 0)))
    if bad.size:
        raise FormatError(
            f"the calibration of column {bad[0]} is {vector[bad[0]]} nanomaggies per count; it must be positive",
            path=path,
            hdu=hdu,
            fix="Fetch the frame again, or read it with format='fits' and gain=",
        )
    return vector


def sky_counts(path: Path, hdu: int, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the sky that was subtracted from a frame, in counts; None if it is that of a larger frame.

    The table has a coarse sky (ALLSKY), and the column and row in it of each column and row of the frame (XINTERP,
    YINTERP), between which it is interpolated linearly along both axes.

    Parameters
    ----------
    path : Path
        The frame.
    hdu : int
        HDU of the table.
    shape : (int, int)
        Rows and columns of the image.

    Raises
    ------
    CorruptFileError
        If the table is not what the data model says.
    """
    with open_fits(path) as hdus, fits_errors(path, also=CONVERSIONS):
        row = hdus[hdu].data[0]
        sky, x, y = (np.array(row[name], dtype=np.float64) for name in ("ALLSKY", "XINTERP", "YINTERP"))
    if sky.ndim != 2 or not sky.size or not all(np.isfinite(part).all() for part in (sky, x, y)):
        raise CorruptFileError(
            f"the sky of the frame is an array of shape {sky.shape} with values that are not all finite",
            path=path,
            hdu=hdu,
            key="ALLSKY",
            fix="Fetch the frame again, or read it with variance=False",
        )
    if (y.size, x.size) != shape:
        return None
    along_x = _between(sky, x.reshape(-1), axis=1)
    return _between(along_x, y.reshape(-1), axis=0).astype(np.float32)


def _between(values: NDArray[np.float64], places: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Interpolate linearly along one axis; beyond the ends with the value at the end."""
    n = values.shape[axis]
    places = np.clip(places, 0, n - 1)
    low = np.minimum(places.astype(np.intp), max(n - 2, 0))
    weight = places - low
    high = np.minimum(low + 1, n - 1)
    if axis == 0:
        weight = weight[:, None]
    found: NDArray[np.float64] = np.take(values, low, axis) * (1 - weight) + np.take(values, high, axis) * weight
    return found


def frame_variance(
    image: NDArray[Any], calibration: NDArray[np.float64], sky: NDArray[np.float32], gain: float, dark: float
) -> NDArray[np.float32]:
    """Return the variance of a frame, nanomaggies squared: ``(counts / gain + dark) * calibration**2``.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted image, nanomaggies.
    calibration : ndarray, shape (nx,)
        Nanomaggies per count of each column.
    sky : ndarray, shape (ny, nx)
        Sky, counts: the counts are ``image / calibration + sky``.
    gain, dark : float
        Electrons per count; dark variance, counts squared.
    """
    scale = calibration.astype(np.float32)
    counts: NDArray[np.float32] = np.divide(np.asarray(image, dtype=np.float32), scale, dtype=np.float32)
    counts += sky
    np.maximum(counts, 0, out=counts)
    counts /= np.float32(gain)
    counts += np.float32(dark)
    counts *= scale
    counts *= scale
    return counts
