"""Reading PSF models that the Piff library wrote (Jarvis et al. 2021, MNRAS 501, 1282)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.errors import PsfError
from skygraft.formats.afw_piff import PICKLED, PiffDraw, used_stars
from skygraft.psf import PSF, Box, DrawnPSF, as_polynomial

__all__ = ["read_piff"]

_SIZE = 41
"""Side of the kernels, pixels, if the file has no stars that tell."""


class _FileDraw(PiffDraw):
    """Draws the kernels of a file; equal to another that draws the same of the same file."""

    def __init__(self, psf: Any, size: int, chipnum: int | None, content: str) -> None:
        super().__init__(psf, size, first=1.0, chipnum=chipnum)
        self._key = content, size, chipnum

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FileDraw) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def read_piff(
    path: str | os.PathLike[str],
    *,
    chipnum: int | None = None,
    size: int | None = None,
    allow_pickle: bool = False,
    box: Box | None = None,
) -> PSF:
    """Read a PSF model from a file of Piff.

    Parameters
    ----------
    path : path-like
        The file.
    chipnum : int, optional
        The detector, for a model of several.
    size : int, optional
        Rows and columns of the kernels, odd; by default those of the stars that the model was made of.
    allow_pickle : bool, optional
        Allow to unpickle the file's WCS, **which can run any program**; Piff stores it so.
    box : Box, optional
        The image's outer edges, where the model is taken to hold.

    Returns
    -------
    PSF
        Each kernel scaled to sum one.

    Raises
    ------
    PsfError
        If unpickling is not allowed, Piff is not installed, or it cannot read the file.

    Notes
    -----
    Piff counts pixels from one, as GalSim does; positions here count from zero.
    """
    path = Path(path)
    if not allow_pickle:
        raise PsfError(
            f"the WCS in a file of Piff cannot be read without permission: {PICKLED}",
            path=path,
            key="allow_pickle",
            fix="Write {kind: piff, path: ..., allow_pickle: true}",
        )
    try:
        import piff
    except ImportError as error:
        raise PsfError(
            f"{error.name} is needed to read a PSF of Piff", path=path, fix="Install it: pip install 'skygraft[piff]'"
        ) from error
    try:
        psf = piff.read(os.fspath(path))
        chips = sorted(psf.wcs) if getattr(psf, "wcs", None) else []
        if chipnum is None and len(chips) > 1:
            raise PsfError(
                f"the model is of several detectors: {', '.join(map(str, chips))}",
                key="chipnum",
                fix="Say which: chipnum",
            )
        if chipnum is not None and chips and chipnum not in chips:
            raise PsfError(f"the model has no detector {chipnum}; it has {', '.join(map(str, chips))}", key="chipnum")
        stars = used_stars(psf) if getattr(psf, "stars", None) else []
        side = size or (max(stars[0].image.array.shape) if stars else _SIZE)
        draw = _FileDraw(psf, side + 1 - side % 2, chipnum, hashlib.sha256(path.read_bytes()).hexdigest())
        places = [(star.image_pos.x - 1, star.image_pos.y - 1) for star in stars]
        average = (
            None if not places else (float(np.mean([x for x, _ in places])), float(np.mean([y for _, y in places])))
        )
        polynomial = None if box is None else as_polynomial(draw, box, average_position=average)
        if polynomial is not None:
            return polynomial
        return DrawnPSF(draw, f"Piff {path.name}", valid_box=box, average_position=average)
    except PsfError as error:
        error.path = os.fspath(path)
        raise
    except ModuleNotFoundError as error:
        raise PsfError(
            f"the file holds objects of the package {error.name}, which is not installed (DES's WCS are of pixmappy)",
            path=path,
            fix=f"Install it (pip install {error.name}), or give another PSF",
        ) from error
    except Exception as error:  # Piff raises anything on a damaged or foreign file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PsfError(
            f"Piff cannot read the file ({reason})", path=path, fix="Give a PSF, or install the version that wrote it"
        ) from error
