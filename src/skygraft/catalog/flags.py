"""The flags of sources, in one registry for code, decoder and documentation.

Bits 0 to 5 have the same meaning as in LSST source_injection; bits 6 and 7 are reserved for it; skygraft's own flags
start at bit 8. Flags are stored in the int64 column ``flags`` of catalogue and truth table.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

__all__ = ["FLAG_DOCS", "LSST_BITS", "NOT_DRAWN", "Flag", "count_flags", "decode_flags", "flag_registry", "has_flag"]


class Flag(IntFlag):
    """Flags of a source; see `FLAG_DOCS` for the meaning of each."""

    MAG_BAD = 1 << 0
    TYPE_UNKNOWN = 1 << 1
    SERSIC_EXTREME = 1 << 2
    NO_OVERLAP = 1 << 3
    FFT_SIZE_ERROR = 1 << 4
    PSF_COMPUTE_ERROR = 1 << 5
    PSF_EXTRAPOLATED = 1 << 8
    TRUNCATED_BY_EDGE = 1 << 9
    STAMP_TRUNCATED = 1 << 10
    KERNEL_SMALLER_THAN_APERTURE = 1 << 11
    PHOTOCALIB_EXTRAPOLATED = 1 << 12
    PARAMETERS_BAD = 1 << 13
    CENTER_OFF_IMAGE = 1 << 14
    STAMP_FILE_BAD = 1 << 15
    WCS_FAILED = 1 << 16
    PSF_UNDERSAMPLED = 1 << 17
    IN_TEMPLATE = 1 << 18
    NOT_VISIBLE = 1 << 19
    NOT_FOR_IMAGE = 1 << 20
    NO_LIGHT_CURVE = 1 << 21


FLAG_DOCS: dict[Flag, str] = {
    Flag.MAG_BAD: "the magnitude in this band is missing, or the calibration gives it no finite flux; not drawn",
    Flag.TYPE_UNKNOWN: "the source type is not one that can be drawn; not drawn",
    Flag.SERSIC_EXTREME: "the Sersic index is outside [0.3, 6.2]; not drawn",
    Flag.NO_OVERLAP: "no light of the source falls on the image; not drawn",
    Flag.FFT_SIZE_ERROR: "the stamp is too large for the Fourier transform that is allowed; not drawn",
    Flag.PSF_COMPUTE_ERROR: "the PSF cannot be computed at the source's position; not drawn",
    Flag.PSF_EXTRAPOLATED: "the source lies outside the box in which the PSF model is valid",
    Flag.TRUNCATED_BY_EDGE: "part of the source's light falls off the image",
    Flag.STAMP_TRUNCATED: "the stamp reached its largest size, so more light is left out than was asked for",
    Flag.KERNEL_SMALLER_THAN_APERTURE: "the PSF kernel does not reach the edge of the calibration aperture",
    Flag.PHOTOCALIB_EXTRAPOLATED: (
        "the source lies outside the box in which the photometric calibration is valid: that of the box's edge is used"
    ),
    Flag.PARAMETERS_BAD: "a shape, trail, motion or stamp parameter is missing or outside its range; not drawn",
    Flag.CENTER_OFF_IMAGE: "the source's centre is off the image, which some of its light may reach all the same",
    Flag.STAMP_FILE_BAD: (
        "the image of the stamp or real galaxy cannot be read, or has no usable pixels, flux or WCS; not drawn"
    ),
    Flag.WCS_FAILED: "the position has no finite pixel coordinates in this image; not drawn",
    Flag.PSF_UNDERSAMPLED: "the PSF model's pixels are too coarse for it: the drawn shape is approximate",
    Flag.IN_TEMPLATE: "the source is in the template of the difference image, so that the image loses its light there",
    Flag.NOT_VISIBLE: "the source has no light at the image's time, or none in templates; not drawn",
    Flag.NOT_FOR_IMAGE: "the source is meant for other images: science images alone, or templates alone; not drawn",
    Flag.NO_LIGHT_CURVE: "the source's light curve has no flux in the image's band, or is not in the table; not drawn",
}

LSST_BITS = Flag(0b111111)
"""The flags shared with LSST source_injection."""

NOT_DRAWN = (
    LSST_BITS
    | (Flag.PARAMETERS_BAD | Flag.STAMP_FILE_BAD | Flag.WCS_FAILED)
    | (Flag.NOT_VISIBLE | Flag.NOT_FOR_IMAGE | Flag.NO_LIGHT_CURVE)
)
"""Flags of sources that were not drawn; their rows are still in the truth table."""


def decode_flags(value: int) -> list[str]:
    """Return the names of the flags that are set, lowest bit first; an unnamed bit is called ``BIT_<n>``.

    Parameters
    ----------
    value : int
        One element of a ``flags`` column.

    Returns
    -------
    list of str
    """
    names = {flag.value: flag.name or "" for flag in FLAG_DOCS}
    return [names.get(1 << bit, f"BIT_{bit}") for bit in range(63) if int(value) >> bit & 1]


def has_flag(flags: ArrayLike, flag: Flag) -> NDArray[np.bool_]:
    """Return which elements of `flags` have any bit of `flag` set, as booleans, shape (N,).

    Parameters
    ----------
    flags : array_like of int, shape (N,)
        A ``flags`` column.
    flag : Flag
        One or several flags.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    set_bits: NDArray[np.int64] = np.asarray(flags, dtype=np.int64) & np.int64(int(flag))
    return set_bits.astype(np.bool_)


def count_flags(flags: ArrayLike) -> dict[str, int]:
    """Count the sources with each flag; flags that no source has are left out.

    Parameters
    ----------
    flags : array-like of int, shape (N,)

    Returns
    -------
    dict of str to int
        In order of bit.
    """
    array = np.asarray(flags, dtype=np.int64)
    counts = {flag.name or "": int(has_flag(array, flag).sum()) for flag in FLAG_DOCS}
    return {name: count for name, count in counts.items() if count}


def flag_registry() -> QTable:
    """Return all flags as a table with columns ``bit``, ``value``, ``name`` and ``meaning``.

    Returns
    -------
    QTable
    """
    return QTable(
        rows=[(f.value.bit_length() - 1, f.value, f.name, doc) for f, doc in FLAG_DOCS.items()],
        names=("bit", "value", "name", "meaning"),
    )
