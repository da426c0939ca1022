"""Data quality files of the Community Pipeline: one code per pixel in newer versions, bits in older ones."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import FormatError
from skygraft.formats.fits_layout import Plane, list_hdus
from skygraft.formats.fits_planes import read_mask, read_pixels

__all__ = ["DQ_BITS", "DQ_CODES", "dq_kind_of", "read_dq"]

DQ_CODES = {
    1: "BAD",
    2: "NO_DATA",
    3: "SAT",
    4: "BLEED",
    5: "CR",
    6: "LOW_WEIGHT",
    7: "TRANSIENT",
    8: "STREAK",
}
"""Mask planes of the data quality codes, one code per pixel, from Community Pipeline version 3.5.0 on."""
DQ_BITS = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 4, "BLEED": 6, "TRANSIENT": 7, "EDGE": 8, "EDGE2": 9}
"""Bit numbers of the mask planes of data quality bits, before Community Pipeline version 3.5.0."""


def dq_kind_of(dq: Plane, given: str | None, camera: str) -> str:
    """Return the encoding of a data quality file: "codes" or "bits".

    Parameters
    ----------
    dq : Plane
        The data quality plane.
    given : str or None
        The caller's choice.
    camera : str
        Camera of the image.

    Raises
    ------
    FormatError
        If neither the caller, the pipeline's version nor the camera determines it.
    """
    if given is not None:
        return given
    version = str(list_hdus(dq.path)[0].header.get("PLVER", "")).strip()
    numbers = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if numbers is not None:
        return "codes" if tuple(int(n or 0) for n in numbers.groups()) >= (3, 5, 0) else "bits"
    if camera and camera != "decam":
        # 90prime and Mosaic-3 were never processed by a version older than 3.5.0.
        return "codes"
    raise FormatError(
        f"the pipeline's version (PLVER = {version!r}) does not say whether data quality is codes or bits",
        path=dq.path,
        key="PLVER",
        fix="Give dq='codes' (version 3.5.0 on, from late 2014) or dq='bits' (older)",
    )


def read_dq(dq: Plane, kind: str) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Read data quality as a bit mask; a code c becomes bit c - 1.

    Parameters
    ----------
    dq : Plane
        The data quality plane.
    kind : {"codes", "bits"}
        Its encoding, from `dq_kind_of`.

    Returns
    -------
    mask : ndarray of int32
    planes : dict of str to int
        Bit number of each mask plane.

    Raises
    ------
    FormatError
        If the values are not of that encoding.
    """
    if kind == "bits":
        mask, planes = read_mask(dq, DQ_BITS)
        return mask, planes
    codes, _ = read_pixels(dq)
    values = [int(v) for v in np.unique(codes)]
    if values and not 0 <= values[0] <= values[-1] <= 24:
        raise FormatError(
            f"data quality has values from {values[0]} to {values[-1]}; codes are 0 to {max(DQ_CODES)}",
            path=dq.path,
            hdu=dq.hdu,
            fix="Give dq='bits' if these are bits",
        )
    planes = {name: code - 1 for code, name in DQ_CODES.items()}
    planes |= {f"CODE{code}": code - 1 for code in values if code > max(DQ_CODES)}
    table = np.array([0, *(1 << (code - 1) for code in range(1, 25))], dtype=np.int32)
    return table[codes.astype(np.intp)], planes
