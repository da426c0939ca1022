"""Plate solutions of the Digitized Sky Survey: the polynomial model of the Guide Star Catalog (Russell et al. 1990)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from skygraft.wcs.card_reader import CardReader, is_number
from skygraft.wcs.card_text import card_of

__all__ = ["PLATE_CARDS", "has_plate", "plate_model", "plate_text", "read_plate"]

PLATE_CARDS = (
    *("PLTRAH", "PLTRAM", "PLTRAS", "PLTDECSN", "PLTDECD", "PLTDECM", "PLTDECS"),
    *("XPIXELSZ", "YPIXELSZ", "PPO3", "PPO6", "CNPIX1", "CNPIX2", "AMDX1", "AMDY1"),
)
"""Cards that a solution must have."""
_NOT_ZERO = ("XPIXELSZ", "YPIXELSZ", "AMDX1", "AMDY1")
# Terms of AMDX in (x, y) and of AMDY in (y, x); those with several entries are powers of the distance from the centre.
_TERMS: tuple[dict[tuple[int, int], int], ...] = (
    *({(1, 0): 1}, {(0, 1): 1}, {(0, 0): 1}, {(2, 0): 1}, {(1, 1): 1}, {(0, 2): 1}, {(2, 0): 1, (0, 2): 1}),
    *({(3, 0): 1}, {(2, 1): 1}, {(1, 2): 1}, {(0, 3): 1}),
    *({(3, 0): 1, (1, 2): 1}, {(5, 0): 1, (3, 2): 2, (1, 4): 1}),
)
_SIZES = 0.1, 10_000.0
"""Least and greatest size of a pixel, micrometres; those of the surveys are 7 to 25."""
_MICRONS = 1000.0
_ARCSEC = 3600.0


def has_plate(reader: CardReader) -> bool:
    """Return whether a header has cards of a plate solution."""
    return reader.has(r"AMD[XY]\d+")


def read_plate(reader: CardReader) -> None:
    """Check that a plate solution is complete, and depends on the position only.

    Raises
    ------
    WcsError
        If not.
    """
    survey = "the header has the plate solution of the Digitized Sky Survey (AMDX, AMDY)"
    for key in PLATE_CARDS:
        value = reader.values.get(key)
        zero = key in _NOT_ZERO and value == 0
        if value is None or zero or (key != "PLTDECSN" and not is_number(value)):
            raise reader.refuse(
                f"{survey}, and {key} " + ("is missing" if value is None else f"is {value!r}"),
                key=key,
                fix="Restore it, or remove the AMDX and AMDY cards, so that CTYPE, CRVAL and the matrix count",
            )
    for key in ("XPIXELSZ", "YPIXELSZ"):
        if not _SIZES[0] <= abs(float(reader.values[key])) <= _SIZES[1]:
            raise reader.refuse(
                f"{survey}, and {key} is {reader.values[key]!r}: plates are scanned in pixels of {_SIZES[0]:g} to "
                f"{_SIZES[1]:g} micrometres",
                key=key,
                fix="Restore it, or remove the AMDX and AMDY cards, so that CTYPE, CRVAL and the matrix count",
            )
    for axis in "XY":
        for term in range(len(_TERMS) + 1, 21):
            key = f"AMD{axis}{term}"
            if reader.number(key, 0.0) != 0:
                raise reader.refuse(
                    f"{survey} with {key} = {reader.values[key]}: terms behind the {len(_TERMS)}th are not supported",
                    key=key,
                    fix="Remove the AMDX and AMDY cards, so that CTYPE, CRVAL and the matrix count",
                )


def plate_model(values: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], tuple[float, float]]:
    """Convert the model to polynomials of pixels.

    Parameters
    ----------
    values : mapping of str to object
        Values of the cards.

    Returns
    -------
    xi, eta : ndarray of float64, shape (6, 6)
        Coefficients of u^i v^j in degrees, where u and v are pixels from the centre of the plate.
    crpix : (float, float)
        1-based pixel of the centre.
    """
    sizes = -float(values["XPIXELSZ"]) / _MICRONS, float(values["YPIXELSZ"]) / _MICRONS
    planes = []
    for axis in "XY":
        plane = np.zeros((6, 6))
        for number, term in enumerate(_TERMS, 1):
            for (p, q), factor in term.items():
                i, j = (p, q) if axis == "X" else (q, p)
                weight = float(values.get(f"AMD{axis}{number}") or 0.0)
                plane[i, j] += weight * factor * sizes[0] ** i * sizes[1] ** j / _ARCSEC
        planes.append(plane)
    crpix = (
        float(values["PPO3"]) / float(values["XPIXELSZ"]) - float(values["CNPIX1"]) + 0.5,
        float(values["PPO6"]) / float(values["YPIXELSZ"]) - float(values["CNPIX2"]) + 0.5,
    )
    return planes[0], planes[1], crpix


def plate_text(values: Mapping[str, Any]) -> str:
    """Return the cards of a TAN projection at the plate's centre, with the linear terms.

    wcslib could read plate solutions, but crashes the process on some cards, so it does not get them.
    """
    xi, eta, crpix = plate_model(values)
    ra = sum(float(values[key]) / 60**i for i, key in enumerate(("PLTRAH", "PLTRAM", "PLTRAS")))
    dec = sum(float(values[key]) / 60**i for i, key in enumerate(("PLTDECD", "PLTDECM", "PLTDECS")))
    made = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": crpix[0], "CRPIX2": crpix[1], "LONPOLE": 180.0}
    made |= {"CRVAL1": 15 * ra, "CRVAL2": -dec if str(values["PLTDECSN"]).strip() == "-" else dec}
    made |= {"CD1_1": xi[1, 0], "CD1_2": xi[0, 1], "CD2_1": eta[1, 0], "CD2_2": eta[0, 1]}
    made |= {key: values[key] for key in ("RADESYS", "EQUINOX", "EPOCH") if key in values}
    return "".join(card_of(key, value) for key, value in made.items())
