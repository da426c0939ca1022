"""What the user says of a PSF image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from skygraft.errors import ConfigError
from skygraft.psf.image_planes import wavelength_in_metres

__all__ = ["PsfImageOptions"]

type Center = tuple[float, float] | Sequence[float] | Literal["middle", "centroid"]


@dataclass(frozen=True)
class PsfImageOptions:
    """What a PSF image's header does not say, or says wrongly.

    Parameters
    ----------
    hdu : int or str, optional
        The HDU; by default the one that holds a PSF, or that of `band`.
    band : str, optional
        Of files with an HDU for each band (``BAND``, ``FILTER``): which.
    oversampling : float or (float, float), optional
        Samples per pixel of the exposure, or those along y and x; 1 for an image on the exposure's own pixels.
    sampling : float, optional
        Arcsec between samples.
    pixel_integrated : bool, optional
        Whether samples are of the effective PSF, the light that a pixel centred there receives (True), or of the
        optical PSF, which is then integrated over pixels (False).
    center : (float, float), "middle" or "centroid", optional
        Column and row of the source, counted from 0; or the image's middle (the default), or its centroid.
    subtract_background : bool, optional
        Subtract the median of the image's border.
    grid_xypos : array_like, shape (N, 2), optional
        Positions (x, y) of a cube's images, 0-based pixels.
    detector : str, optional
        Of files for several detectors: which.
    plane : int, optional
        Of cubes with a plane for each wavelength, or whatever else: which, counted from 0 along the first axis.
    wavelength : str, optional
        The same by its wavelength, such as ``"4.44 um"``: the nearest plane is taken.
    insist : bool, optional
        Use the PSF although its header contradicts the image.
    """

    hdu: int | str | None = None
    band: str | None = None
    oversampling: float | Sequence[float] | None = None
    sampling: float | None = None
    pixel_integrated: bool | None = None
    center: Center | None = None
    subtract_background: bool = False
    grid_xypos: ArrayLike | None = None
    detector: str | None = None
    plane: int | None = None
    wavelength: str | None = None
    insist: bool = False

    def __post_init__(self) -> None:
        """Refuse settings of the wrong type: a text such as 'no' would count as true."""
        for name in ("pixel_integrated", "subtract_background", "insist"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool | np.bool_):
                raise ConfigError(f"{name} is {value!r}", key=f"psf.{name}", fix="Give true or false")
        for name, shapes, what in (
            ("oversampling", ((), (2,)), "the samples per pixel, one number or two (along y and x), above zero"),
            ("sampling", ((),), "the arcsec between samples, a number above zero without a unit"),
            ("center", ((2,),), "middle, centroid, or column and row"),
            ("grid_xypos", None, "positions [[x, y], ...], one for each image"),
        ):
            value = getattr(self, name)
            if value is None or (name == "center" and isinstance(value, str)):
                continue
            try:
                numbers = np.asarray(value, dtype=float)
            except (TypeError, ValueError):
                numbers = np.full((1, 1, 1), np.nan)
            right = numbers.shape in shapes if shapes is not None else numbers.ndim == 2 and numbers.shape[1] == 2
            above = name not in ("oversampling", "sampling") or bool((numbers > 0).all())
            if not right or not np.isfinite(numbers).all() or not above:
                raise ConfigError(f"{name} is {value!r}", key=f"psf.{name}", fix=f"Give {what}")
        if self.plane is not None and (isinstance(self.plane, bool) or not isinstance(self.plane, int | np.integer)):
            raise ConfigError(f"plane is {self.plane!r}", key="psf.plane", fix="Give a whole number, counted from 0")
        if self.wavelength is not None:
            wavelength_in_metres(self.wavelength)
            if self.plane is not None:
                raise ConfigError("plane and wavelength are both given", key="psf.plane", fix="Give one of them")
