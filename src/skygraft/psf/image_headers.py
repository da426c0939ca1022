"""What headers of PSF images say: the distance of their samples, positions on a detector, and what they were made for.

Keywords of STPSF and WebbPSF are described in the documentation of poppy ("FITS Header Keywords"): ``PIXELSCL`` is the
distance of samples, after oversampling, in ``PIXUNIT`` (arcsec); ``DET_SAMP`` are samples per detector pixel, and
``OVERSAMP`` those of the wavefront, which are the same unless someone chose otherwise. Images that GalSim wrote have
axes of type LINEAR, in arcsec or, with a step of one, in pixels: the latter says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

from skygraft.errors import PsfError

__all__ = ["PIXEL_SCALE_KEYS", "SampleScale", "card", "positions_of", "sample_scale"]

PIXEL_SCALE_KEYS = ("PIXELSCL", "PIXSCALE", "PIXSCAL", "PIXSCL", "PXSCALE", "SECPIX", "PSCALE", "PLTSCALE")
"""Keywords of the distance of samples in arcsec; those of the two axes have a 1 and a 2 behind them."""
_OVERSAMPLING_KEYS = ("DET_SAMP", "OVERSAMP", "OVERSAM", "OVSAMP", "PSFOVER")
_POSITION = re.compile(r"DET_YX(\d+)$")
_GALSIM_KEYS = ("GS_SCALE", "GS_WCS")
_LARGEST_CDELT = 0.01
"""Degrees; a CDELT without a CTYPE that is larger is no angle."""


@dataclass(frozen=True)
class SampleScale:
    """The distance of a PSF image's samples.

    Parameters
    ----------
    arcsec : (float, float) or None
        Arcsec between samples along y and x; None if the header does not say.
    per_pixel : float or None
        Samples per pixel of the detector that the PSF was made for; None if the header does not say.
    origin : str
        The keywords.
    """

    arcsec: tuple[float, float] | None
    per_pixel: float | None
    origin: str

    @property
    def pixel_arcsec(self) -> float | None:
        """Arcsec per pixel of the detector that the PSF was made for; None if the header does not say."""
        if self.arcsec is None or self.per_pixel is None:
            return None
        return math.sqrt(self.arcsec[0] * self.arcsec[1]) * self.per_pixel


def card(header: Mapping[str, Any], *keys: str) -> Any:
    """Return the value of the first of some keywords that has one; text is stripped.

    Parameters
    ----------
    header : mapping
        The header.
    *keys : str
        Keywords.

    Returns
    -------
    object
        None if there is none.
    """
    for key in keys:
        value = header.get(key)
        if isinstance(value, str):
            value = value.strip()
        if value is not None and value != "" and not isinstance(value, fits.card.Undefined):
            return value
    return None


def _number(header: Mapping[str, Any], key: str) -> float | None:
    """A positive number, or the number at the beginning of a text such as "0.2 arcsec"."""
    value = card(header, key)
    if isinstance(value, str):
        match = re.match(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?", value)
        value = match.group(0) if match else None
    try:
        number = float(value) if value is not None and not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def sample_scale(header: Mapping[str, Any]) -> SampleScale:
    """Find the distance of samples in a header.

    Parameters
    ----------
    header : mapping
        The header of the PSF image.

    Returns
    -------
    SampleScale
        From `PIXEL_SCALE_KEYS`, else from the WCS. ``DET_SAMP``, else ``OVERSAMP``, are samples per detector pixel.
    """
    per_pixel, found = None, []
    for key in _OVERSAMPLING_KEYS:
        if (per_pixel := _number(header, key)) is not None:
            found.append(key)
            break
    arcsec = None
    for key in PIXEL_SCALE_KEYS:
        both = [_number(header, f"{key}{axis}") for axis in (2, 1)]
        if (one := _number(header, key)) is not None and _is_arcsec(header):
            arcsec = one, one
            found.append(key)
        elif both[0] is not None and both[1] is not None:
            arcsec = both[0], both[1]
            found.append(f"{key}1, {key}2")
        if arcsec is not None:
            break
    else:
        arcsec = _wcs_scale(header)
        if arcsec is not None:
            found.append("WCS")
    return SampleScale(arcsec, per_pixel, ", ".join(found))


def _is_arcsec(header: Mapping[str, Any]) -> bool:
    unit = str(card(header, "PIXUNIT") or "arcsec").lower()
    return "arcsec" in unit or unit in ('"', "as")


def _wcs_scale(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """Arcsec between samples along y and x by a WCS; None if there is none."""
    kind = str(card(header, "CTYPE1") or "")[:4].upper()
    celestial = kind in ("RA--", "DEC-", "GLON", "GLAT", "ELON", "ELAT")
    keys = [[f"CD{i}_{j}" for j in (1, 2)] for i in (1, 2)]
    if any(key in header for row in keys for key in row):
        matrix = np.array([[_float(header.get(key, 0.0)) for key in row] for row in keys])
    elif "CDELT1" in header and "CDELT2" in header:
        steps = np.array([_float(header.get(f"CDELT{i}")) for i in (1, 2)])
        if not celestial and not (np.abs(steps) < _LARGEST_CDELT).all():
            return None
        turn = [[_float(header.get(f"PC{i}_{j}", float(i == j))) for j in (1, 2)] for i in (1, 2)]
        matrix = steps[:, None] * np.array(turn)
    else:
        return None
    unit = str(card(header, "CUNIT1") or "").lower()
    if not celestial and not unit and kind == "LINE":
        if not any(key in header for key in _GALSIM_KEYS) or (np.hypot(*matrix) == 1).all():
            return None
        unit = "arcsec"
    x, y = np.hypot(*matrix) * (1.0 if unit.startswith("arcsec") else 3600.0)
    return (float(y), float(x)) if np.isfinite([x, y]).all() and min(x, y) > 0 else None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def positions_of(header: Mapping[str, Any], n: int, path: Any, hdu: int) -> np.ndarray[Any, Any] | None:
    """Find the positions of STPSF's images on the detector, in ``DET_YX0`` and following.

    Parameters
    ----------
    header : mapping
        The header of the cube.
    n : int
        Its images.
    path, hdu : path-like, int
        The file, for messages.

    Returns
    -------
    ndarray, shape (n, 2), or None
        Positions (x, y), 0-based pixels; None if the header has none.

    Raises
    ------
    PsfError
        If they are not n positions.
    """
    found = {int(match[1]): key for key in header if (match := _POSITION.match(str(key)))}
    if not found:
        return None
    places = []
    for number in sorted(found):
        text = str(header[found[number]])
        try:
            y, x = (float(part) for part in text.strip().strip("()[]").split(","))
        except ValueError:
            raise PsfError(
                f"the position of image {number} is {text!r}, not '(y, x)'", path=path, hdu=hdu, key=found[number]
            ) from None
        places.append((x, y))
    if len(places) != n:
        raise PsfError(
            f"the cube has {n} images and the header {len(places)} positions",
            path=path,
            hdu=hdu,
            key="DET_YX0",
            fix="Make the file again: each image needs one",
        )
    return np.array(places)
