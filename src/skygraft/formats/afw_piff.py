"""Read PSFs that the LSST pipelines store as pickled objects of the Piff library (``PiffPsf``)."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.psf import PSF, Box, DrawnPSF, as_polynomial

__all__ = ["PICKLED", "PiffDraw", "build_piff_psf", "used_stars"]

PICKLED = (
    "it is a Python pickle, which can run any program on this machine. If you trust "
    "where the file comes from, read it with allow_pickle=True"
)
"""Reason, for messages, why such a PSF is not read without permission."""

_POSITION = ("x", "y", "u", "v")
# Attributes of a model and its parts that objects written by older versions of Piff lack, and their initial values.
_INTRODUCED: dict[str, dict[str, Any]] = {
    "": {"_num": None},
    "model": {"_num": None, "_fit_flux": False, "_maxk": 0.0, "_stepk": 0.0},
    "interp": {"_num": None},
}


class PiffDraw:
    """Draws the kernel at a position; it is not divided by its sum.

    Parameters
    ----------
    psf : piff.PSF
        The model.
    size : int
        Rows and columns of the kernels.
    first : float, optional
        Position of the middle of the first pixel, as the model counts.
    chipnum : int, optional
        The detector, for a model of several.
    """

    def __init__(self, psf: Any, size: int, *, first: float = 0.0, chipnum: int | None = None) -> None:
        self._psf, self._size, self._first, self._chipnum = psf, size, first, chipnum
        self._properties = {
            name: float(np.median([star.data.properties[name] for star in used_stars(psf)]))
            for name in psf.interp_property_names
            if name not in _POSITION
        }

    def __call__(self, x: float, y: float) -> NDArray[np.float64]:
        """Draw the kernel at (x, y)."""
        given = dict(self._properties)
        if self._chipnum is not None:
            given["chipnum"] = self._chipnum
        drawn = self._psf.draw(x + self._first, y + self._first, stamp_size=self._size, center=True, **given)
        return np.asarray(drawn.array, dtype=np.float64)


def used_stars(psf: Any) -> list[Any]:
    """Stars that were used to fit the model.

    Parameters
    ----------
    psf : piff.PSF
        The model.

    Returns
    -------
    list of piff.Star
    """
    return [s for s in psf.stars if not (getattr(s, "is_flagged", False) or getattr(s, "is_reserve", False))]


def build_piff_psf(pickled: bytes, valid_box: Box | None) -> PSF:
    """Unpickle ``(width, height, piff.PSF)``, **which executes any code in the pickle**, and convert the PSF.

    Parameters
    ----------
    pickled : bytes
        Bytes that ``PiffPsf`` stores.
    valid_box : Box, optional
        Pixels of the image that the PSF was measured on.

    Returns
    -------
    PSF

    Raises
    ------
    PsfError
        If Piff is not installed, or cannot read the object.
    """
    try:
        import piff  # noqa: F401
    except ImportError as error:
        raise PsfError(
            f"it needs {error.name} to be evaluated", fix="Install it: pip install 'skygraft[piff]', or give a PSF"
        ) from error
    # A pickle of another version of Piff, or of anything else, may raise any exception.
    try:
        width, height, psf = pickle.loads(pickled)
        for part, attributes in _INTRODUCED.items():
            owner = getattr(psf, part, None) if part else psf
            for name, value in attributes.items():
                if owner is not None and not hasattr(owner, name):
                    setattr(owner, name, value)
        draw = PiffDraw(psf, int(width))
        stars = [star.image_pos for star in used_stars(psf)]
        average = (float(np.mean([p.x for p in stars])), float(np.mean([p.y for p in stars]))) if stars else None
        if width != height or int(width) % 2 == 0:
            raise PsfError(f"its images are {width:g} x {height:g} pixels; squares of an odd size are supported")
        if valid_box is not None:
            polynomial = as_polynomial(draw, valid_box, average_position=average)
            if polynomial is not None:
                return polynomial
        return DrawnPSF(draw, "PiffPsf", valid_box=valid_box, average_position=average)
    except PsfError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PsfError(
            f"Piff cannot read it ({reason})", fix="Give a PSF, or install the version that wrote it"
        ) from error
