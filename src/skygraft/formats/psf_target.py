"""The image that a PSF from elsewhere is meant for, and whether the two belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skygraft.data_id import DataId
from skygraft.errors import PsfError
from skygraft.formats.fits_headers import BAND_KEYS, band_name
from skygraft.psf import PSF, Box, GriddedPSF

__all__ = ["INSIST", "PsfTarget", "check_belongs", "check_covers"]

INSIST = "Give the PSF of this image; if this one is meant all the same, say so: insist: true"
_NO_FILTER = {"", "CLEAR", "CLEARP", "NONE", "N/A", "OPEN", "EMPTY", "UNKNOWN"}
_VISIT_KEYS = ("EXPNUM", "VISIT")
_DETECTOR_KEYS = ("CCDNUM", "CCDNAME", "DETECTOR")
_SDSS_KEYS = ("RUN", "CAMCOL", "FIELD")
_LONG_WAVE = {"NRCALONG": "NRCA5", "NRCBLONG": "NRCB5"}


@dataclass(frozen=True)
class PsfTarget:
    """An image that a PSF is to be used for.

    Parameters
    ----------
    pixel_scale : float
        Arcsec per pixel.
    path : Path, optional
        The image.
    data_id : DataId
        Its identity, as far as it is known.
    box : Box, optional
        Its outer edges, parent pixels.
    header : mapping
        Its header, as far as it was read.
    """

    pixel_scale: float
    path: Path | None = None
    data_id: DataId = field(default_factory=DataId)
    box: Box | None = None
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call the image."""
        return "the image" if self.path is None else f"the image {self.path.name}"


def _text(value: Any) -> str:
    return str(value).strip() if value is not None else ""


def _same_band(one: str, other: str) -> bool:
    """Whether two names of filters are of the same band; r and R are two."""
    a, b = band_name(one), band_name(other)
    return a == b or (len(a) > 1 and a.casefold() == b.casefold())


def check_belongs(header: Mapping[str, Any], target: PsfTarget, path: Path) -> None:
    """Refuse a PSF whose file names another band, exposure or detector than the image's.

    Parameters
    ----------
    header : mapping
        What the PSF's file says, by keyword.
    target : PsfTarget
        The image.
    path : Path
        The PSF's file.

    Raises
    ------
    PsfError
        With both values, if they differ. What one of the two does not say is not compared.
    """
    for what, key, theirs, ours in _compared(header, target):
        raise PsfError(
            f"the PSF is of {what} {theirs} ({key}), {target.name} of {what} {ours}", path=path, key=key, fix=INSIST
        )


def _compared(header: Mapping[str, Any], target: PsfTarget) -> list[tuple[str, str, str, str]]:
    """What differs: a word for it, the keyword, the PSF's value and the image's."""
    found, data_id, image = [], target.data_id, target.header
    for key in BAND_KEYS:
        theirs = _text(header.get(key))
        if theirs.upper() in _NO_FILTER:
            continue
        # Narrow filters of NIRCam and NIRISS are in the pupil wheel.
        names = [name for name in (_text(data_id.band), _text(image.get("PUPIL"))) if name.upper() not in _NO_FILTER]
        if names and not any(_same_band(theirs, name) for name in names):
            found.append(("band", key, repr(theirs), repr(names[0])))
        break
    for key in _VISIT_KEYS:
        theirs = _text(header.get(key))
        if theirs.isdecimal() and isinstance(data_id.visit, int) and int(theirs) != data_id.visit:
            found.append(("exposure", key, theirs, str(data_id.visit)))
    for key in _DETECTOR_KEYS:
        theirs, ours = (_detector(value) for value in (header.get(key), image.get(key, data_id.detector)))
        comparable = theirs and ours and theirs.isdecimal() == ours.isdecimal() and "MULTIPLE" not in (theirs, ours)
        if comparable and theirs != ours:
            found.append(("detector", key, theirs, ours))
    for key in _SDSS_KEYS:
        theirs, ours = _text(header.get(key)), _text(image.get(key, image.get("FRAME") if key == "FIELD" else None))
        if {"CAMCOL", "RUN"} <= header.keys() and theirs.isdecimal() and ours.isdecimal() and int(theirs) != int(ours):
            found.append((key.lower(), key, theirs, ours))
    return found


def _detector(value: Any) -> str:
    text = _text(value).upper()
    return _LONG_WAVE.get(text, text)


def check_covers(psf: PSF, target: PsfTarget, path: Path) -> None:
    """Refuse a grid of PSFs that does not cover the image.

    Parameters
    ----------
    psf : PSF
        The PSF; only those on a grid are checked.
    target : PsfTarget
        The image.
    path : Path
        The PSF's file.

    Raises
    ------
    PsfError
        If part of the image is further from the grid than half the distance of its lines.
    """
    box, valid = target.box, psf.valid_box
    if not isinstance(psf, GriddedPSF) or box is None or valid is None:
        return
    if (
        box.x_min >= valid.x_min - 1
        and box.x_max <= valid.x_max + 1
        and box.y_min >= valid.y_min - 1
        and box.y_max <= valid.y_max + 1
    ):
        return
    places = psf.grid_xypos
    (x0, y0), (x1, y1) = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    raise PsfError(
        f"the grid of PSFs covers x {x0:g} to {x1:g}, y {y0:g} to {y1:g}, and {target.name} has x {box.x_min + 0.5:g} "
        f"to {box.x_max - 0.5:g}, y {box.y_min + 0.5:g} to {box.y_max - 0.5:g}",
        path=path,
        fix=INSIST,
    )
