"""Data quality of images of JWST, Roman and HST: names of the bits, and the file in which injected pixels are marked.

The missions use almost all bits of their data quality arrays, and their pipelines treat what they do not expect as a
defect. So these arrays are copied unchanged, and what injection marks is written to ``<stem>.mask.fits`` beside the
image: a bit mask with ``MP_<NAME>`` cards, which is read again with the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import FormatError
from skygraft.exposure import Exposure
from skygraft.formats.fits_layout import list_hdus, split_name
from skygraft.formats.fits_planes import nameless, read_mask

__all__ = [
    "HST_BITS",
    "JWST_BITS",
    "NO_DATA",
    "ROMAN_BITS",
    "add_marks",
    "add_no_data",
    "marks_file",
    "marks_of",
    "name_bits",
    "stem_of",
]

_SHARED = (
    *("DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT"),
    *("", "PERSISTENCE", "AD_FLOOR", "", "", "NON_SCIENCE", "DEAD", "HOT", "WARM", "LOW_QE", "", "TELEGRAPH"),
    *("NONLINEAR", "BAD_REF_PIXEL", "NO_FLAT_FIELD", "NO_GAIN_VALUE", "NO_LIN_CORR", "NO_SAT_CHECK"),
    *("UNRELIABLE_BIAS", "UNRELIABLE_DARK", "UNRELIABLE_SLOPE", "UNRELIABLE_FLAT", "", "", "", ""),
    *("OTHER_BAD_PIXEL", "REFERENCE_PIXEL"),
)
NO_DATA = "NO_DATA"
"""Plane of the pixels of a mosaic that no exposure reached; found when it is read, and written nowhere."""
_FIRST = ("DO_NOT_USE", "SATURATED", "JUMP_DET")
"""Bits that are named even where no pixel has them."""


def _table(**own: int) -> dict[int, str]:
    named = {bit: name for bit, name in enumerate(_SHARED) if name}
    return named | {bit: name for name, bit in own.items()}


JWST_BITS = _table(
    OUTLIER=4, CHARGELOSS=7, RC=14, OPEN=26, ADJ_OPEN=27, FLUX_ESTIMATED=28, MSA_FAILED_OPEN=29
)  # fmt: skip
"""Bit number to name: "Data Quality Flags" in the reference-file documentation of the JWST pipeline."""
ROMAN_BITS = _table(GW_AFFECTED_DATA=4, OUTLIER=7, UNRELIABLE_ERROR=8, UNRELIABLE_RESET=28)
"""Bit number to name: "Data Quality Flags" in the reference-file documentation of the Roman pipeline."""
HST_BITS = {
    0: "DECODING_ERROR",
    1: "DATA_MISSING",
    2: "BAD_DETECTOR_PIXEL",
    3: "UNSTABLE_ZERO_READ",
    4: "HOT",
    5: "UNSTABLE",
    6: "WARM",
    7: "BAD_BIAS",
    8: "SATURATED",
    9: "BAD_FLAT",
    10: "CHARGE_TRAP",
    11: "AD_SATURATED",
    12: "CR_DRIZZLE",
    13: "CR",
    14: "GHOST",
}
"""Bit number to name, after table 3.4 of the ACS Data Handbook and table 3.3 of the WFC3 Data Handbook (DQ array)."""


def stem_of(path: Path) -> str:
    """Return the name of an image file without its suffix: ``"a"`` for ``a.fits.gz`` and ``a.asdf``."""
    return path.stem if path.suffix == ".asdf" else split_name(path)[0]


def marks_file(path: Path) -> Path:
    """Return the path of the file that marks injected pixels of an image."""
    return path.with_name(f"{stem_of(path)}.mask.fits")


def name_bits(mask: NDArray[np.int32], table: Mapping[int, str], *, also: tuple[str, ...] = _FIRST) -> dict[str, int]:
    """Return name and bit number of the bits that a data quality array uses.

    Only these are named: if all were, no bit would be left for the planes of injected pixels.

    Parameters
    ----------
    mask : ndarray of int32
        The array.
    table : mapping of int to str
        Names by bit number.
    also : tuple of str
        Bits that are named in any case.
    """
    used = int(np.bitwise_or.reduce(mask, axis=None)) & 0xFFFFFFFF if mask.size else 0
    bits = [bit for bit in range(32) if used >> bit & 1 or table.get(bit) in also]
    return {table.get(bit, nameless(bit)): bit for bit in bits}


def add_no_data(mask: NDArray[np.int32], planes: dict[str, int], empty: NDArray[np.bool_]) -> dict[str, int]:
    """Add the plane of the pixels of a mosaic without data.

    Parameters
    ----------
    mask : ndarray of int32
        The mask; it is changed.
    planes : dict of str to int
        Its planes and their bit numbers.
    empty : ndarray of bool
        Where there is no data: NaN, or no weight.

    Returns
    -------
    dict of str to int
        The planes, with `NO_DATA`.
    """
    bit = next((b for b in range(31) if b not in planes.values()), None)
    if bit is None:
        return planes
    mask |= empty.astype(np.int32) << bit
    return {**planes, NO_DATA: bit}


def add_marks(
    mask: NDArray[np.int32], planes: dict[str, int], marks: Path | None
) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Add the planes of a file of marks to a mask, on bits that the mask does not use.

    Parameters
    ----------
    mask : ndarray of int32
        The mask; it is changed.
    planes : dict of str to int
        Its planes and their bit numbers.
    marks : Path or None
        The file, if there is one.

    Returns
    -------
    mask : ndarray of int32
    planes : dict of str to int

    Raises
    ------
    FormatError
        If the file has another shape than the image.
    """
    if marks is None:
        return mask, planes
    found = [hdu for hdu in list_hdus(marks) if hdu.shape is not None]
    if len(found) != 1:
        raise FormatError(f"it has {len(found)} images; one mask is needed", path=marks, fix="Remove the file")
    added, names = read_mask(found[0].plane("mask", marks))
    if added.shape != mask.shape:
        raise FormatError(
            f"the mask has shape {added.shape}, its image {mask.shape}", path=marks, fix="Remove the file"
        )
    planes = dict(planes)
    for name, bit in names.items():
        if name in planes:
            raise FormatError(f"its plane {name} is one of the image's data quality too", path=marks, key=name)
        target = bit if bit not in planes.values() else next((b for b in range(31) if b not in planes.values()), None)
        if target is None:
            raise FormatError(f"no bit is left for its plane {name}", path=marks, key=name, fix="Remove the file")
        mask |= ((added >> bit & 1) << target).astype(np.int32)
        planes[name] = target
    return mask, planes


def marks_of(
    exposure: Exposure, stored: NDArray[np.int32] | None, planes: Mapping[str, int], path: Path
) -> tuple[NDArray[np.int32], dict[str, int]] | None:
    """Return the mask planes of an exposure that its data quality array does not have; None if no bit is set.

    Parameters
    ----------
    exposure : Exposure
        The exposure to write.
    stored : ndarray of int32 or None
        The data quality array of the file it was read from.
    planes : mapping of str to int
        Its planes and their bit numbers.
    path : Path
        That file, for errors.

    Returns
    -------
    (ndarray of int32, dict of str to int) or None
        Bits, and bit values of the planes.

    Raises
    ------
    FormatError
        If a plane of the data quality array was changed.
    """
    if stored is not None:
        for name, bit in planes.items():
            now = (exposure.mask & np.int32(exposure.mask_planes.get(name, 0))) != 0
            if not np.array_equal(now, (stored >> bit & 1) != 0):
                raise FormatError(
                    f"mask plane {name} was changed, and data quality arrays of this mission are only copied",
                    path=path,
                    fix="Use another mask plane for new flags",
                )
    new = {name: value for name, value in exposure.mask_planes.items() if name not in planes and name != NO_DATA}
    bits = np.int32(np.bitwise_or.reduce(np.array([*new.values(), 0], dtype=np.int32)))
    marks: NDArray[np.int32] = exposure.mask & bits
    return (marks, new) if marks.any() else None
