"""Reading PSF images and cubes of them from FITS files, with whatever the header says of their scale and meaning.

What is read, and by which keywords:

* STPSF and WebbPSF stamps (``OVERDIST``, ``OVERSAMP``, ``DET_DIST``, ``DET_SAMP``): samples of the optical PSF with
  detector effects such as charge diffusion where the first two hold ``DET_SAMP`` samples per pixel, which are
  integrated over pixels; the latter two are already summed over pixels.
* Datacubes of theirs (``calc_datacube``): stamps with a plane for each wavelength, of which one is chosen.
* STPSF's grids (``DET_YX0`` and following): effective PSFs on a grid of detector positions.
* STDPSF files of HST and JWST (``NXPSFS``, ``IPSFX01``; Anderson 2016, WFC3 ISR 2016-12): effective PSFs with four
  samples a pixel on a grid of positions.
* Any other image of a PSF, one or several with their positions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.fitsfile.open import open_fits
from skygraft.psf.image_checks import look_at
from skygraft.psf.image_headers import PIXEL_SCALE_KEYS, SampleScale, card, positions_of, sample_scale
from skygraft.psf.image_options import PsfImageOptions
from skygraft.psf.image_planes import choose_plane
from skygraft.psf.oversampled import GriddedPSF, OversampledPSF
from skygraft.psf.stdpsf import is_stdpsf, stdpsf_grid

__all__ = ["psf_image_header", "read_psf_image"]

_STPSF = ("OVERDIST", "OVERSAMP", "DET_DIST", "DET_SAMP")
"""Extensions of STPSF's files, the most useful first."""
_SUMMED = ("DET_DIST", "DET_SAMP")
_SAME_SCALE = 0.02
"""Largest difference of the pixel scale that a PSF was made for and that of the image, in units of the latter."""
_OVERSAMPLING = 0.4, 64.0
"""What samples per pixel may be."""
_MOST_OFF = 0.5
"""Largest distance, pixels, of the centroid from the centre."""
_SAVED = "saved PSF"
"""Those that `skygraft.psf.write_psf` wrote, which are what they were."""
_INSIST = "If it is meant all the same, say so: insist: true"


@dataclass(frozen=True)
class _Image:
    """Images (N, my, mx) of one HDU, and what is known of them."""

    path: Path
    hdu: int
    header: Mapping[str, Any]
    values: NDArray[np.float64]
    places: NDArray[np.float64] | None = None
    kind: str = "PSF image"
    integrated: bool | None = None
    scale: SampleScale = field(default_factory=lambda: SampleScale(None, None, ""))
    is_fraction: bool = False

    def error(self, message: str, *, key: str | None = None, fix: str = "Give another PSF for this image") -> PsfError:
        return PsfError(message, path=self.path, hdu=self.hdu, key=key, fix=fix)


def read_psf_image(
    path: str | os.PathLike[str],
    pixel_scale: float,
    options: PsfImageOptions | None = None,
    *,
    xy0: tuple[float, float] = (0.0, 0.0),
    **given: Any,
) -> OversampledPSF | GriddedPSF:
    """Read a PSF from an image, or PSFs on a grid from a cube of images.

    Parameters
    ----------
    path : path-like
        A FITS file; see the module for what is recognised.
    pixel_scale : float
        Arcsec per pixel of the exposure.
    options : PsfImageOptions, optional
        What the header does not say; its parts can also be given by keyword.
    xy0 : (float, float), optional
        Parent pixel position of the pixel that positions on a grid count from.
    **given
        Parts of `options`.

    Returns
    -------
    OversampledPSF or GriddedPSF
        Scaled to all of the light that it holds, unless the file says what fraction of a source's light that is. Its
        description names the file, and the sum that the image had if it was neither one nor that of an effective PSF.

    Raises
    ------
    CorruptFileError
        If the file is missing, empty, truncated or not FITS.
    PsfError
        If it holds no PSF image, or one whose scale or meaning is not known, that is not centred, has a background or
        values that are not finite, or was made for another pixel scale.
    """
    asked = replace(options or PsfImageOptions(), **given)
    path = Path(path)
    image = _read(path, asked)
    finite = np.isfinite(image.values)
    if not finite.all():
        n, ny, nx = image.values.shape
        k, j, i = (int(at[0]) for at in np.nonzero(~finite))
        where = f"at ({i}, {j})" + (f" of image {k}" if n > 1 else "")
        raise image.error(
            f"the PSF image has {int((~finite).sum())} of {n * ny * nx} values that are not finite, the first {where}",
            fix="Fill them in (with zeros if they are in the outskirts), or give another PSF",
        )
    values = image.values - _soft_bias(image)
    if asked.subtract_background:
        values = values - np.array([look_at(one).border for one in values])[:, None, None]
    steps, pixel_integrated = _sampling(image, asked, pixel_scale)
    center = _center(image, values, asked, steps)
    totals = values.sum(axis=(1, 2))
    values, fraction, note = _scaled(image, values, totals, steps)
    hdu = f"[{image.hdu}]" if image.hdu else ""
    what = (
        f"{image.kind} {path.name}{hdu}{note} with samples of {pixel_scale / math.sqrt(steps[0] * steps[1]):.4g} arcsec"
    )
    if len(values) == 1:
        return OversampledPSF(
            values[0], steps, pixel_integrated=pixel_integrated, center=center, fraction_of_total=fraction, name=what
        )
    assert image.places is not None
    return GriddedPSF(
        values,
        image.places + np.asarray(xy0),
        steps,
        pixel_integrated=pixel_integrated,
        center=center,
        fraction_of_total=fraction,
        name=f"{what} on a grid of {_grid_text(image.places)}",
    )


def psf_image_header(path: str | os.PathLike[str], options: PsfImageOptions | None = None) -> dict[str, Any]:
    """Return the header of a PSF image as `read_psf_image` finds it: its own cards, and those of the primary HDU.

    Parameters
    ----------
    path : path-like
        The file.
    options : PsfImageOptions, optional
        Which HDU to read.

    Returns
    -------
    dict
        Keywords and values.
    """
    return dict(_read(Path(path), options or PsfImageOptions()).header)


def _grid_text(places: NDArray[np.float64]) -> str:
    return " x ".join(str(len(np.unique(places[:, axis]))) for axis in (0, 1))


def _read(path: Path, asked: PsfImageOptions) -> _Image:
    """Find the HDU that holds the PSF, and what it is."""
    with open_fits(path, memmap=False) as hdus:
        index = _choose([(i, hdu.name, hdu.header, getattr(hdu, "shape", ())) for i, hdu in enumerate(hdus)
                         if getattr(hdu, "is_image", False)], path, asked)  # fmt: skip
        hdu = hdus[index]
        header: dict[str, Any] = {}
        # Cards of the primary header hold for all extensions of STPSF's files, and of most others.
        for one in (hdus[0].header, hdu.header):
            for key in one:
                if key not in ("COMMENT", "HISTORY", ""):
                    with_value = _card_value(one, key)
                    if with_value is not None:
                        header[key] = with_value
        if index:
            # What a header says of its own image is not said of another.
            for key in list(header):
                if key in hdus[0].header and key not in hdu.header and key.startswith(("CD", "CTYPE", "CDELT", "PC")):
                    del header[key]
        data = np.asarray(hdu.data)
        name = str(hdu.name).upper()
    if data.dtype.kind not in "fiu":
        raise PsfError(f"the image has {data.dtype.name} values, no numbers", path=path, hdu=index)
    values = np.asarray(data, dtype=np.float64)
    return _understood(_Image(path, index, header, values[None] if values.ndim == 2 else values), name, asked)


def _card_value(header: fits.Header, key: str) -> Any:
    try:
        value = header[key]
    except fits.VerifyError:
        return None
    return None if isinstance(value, fits.card.Undefined) else value


def _choose(images: list[tuple[int, str, Any, tuple[int, ...]]], path: Path, asked: PsfImageOptions) -> int:
    """Choose the HDU: as asked, of the band, by STPSF's names, or the only one."""
    full: list[tuple[int, str, Any]] = [
        (i, name.upper(), header) for i, name, header, shape in images if len(shape) >= 2 and min(shape) > 0
    ]
    listed = ", ".join(f"{i} ({name or 'no name'})" for i, name, _ in full) or "none"
    if asked.hdu is not None:
        for i, name, _ in full:
            if asked.hdu == i or (isinstance(asked.hdu, str) and asked.hdu.upper() == name):
                return int(i)
        raise PsfError(
            f"HDU {asked.hdu!r} holds no image; these do: {listed}", path=path, hdu=asked.hdu, fix="Give one of them"
        )
    if not full:
        raise PsfError("the file holds no image", path=path, fix="Give the FITS file of a PSF image")
    names: dict[str, int] = {name: i for i, name, _ in reversed(full)}
    for name in _STPSF:
        if name in names:
            return names[name]
    if len(full) == 1:
        return int(full[0][0])
    bands: dict[str, int] = {}
    for i, name, header in full:
        bands.setdefault(str(card(header, "BAND", "FILTER") or name).strip(), i)
    if asked.band is not None and asked.band in bands:
        return bands[asked.band]
    if "PSF" in names:
        return names["PSF"]
    if len(bands) == len(full) and asked.band is not None:
        raise PsfError(
            f"no image of the file is of band {asked.band!r}; it has {', '.join(map(repr, bands))}",
            path=path,
            key="band",
            fix="Give the PSF of the image's band, or say which HDU to use: hdu",
        )
    raise PsfError(f"several HDUs hold images: {listed}", path=path, key="hdu", fix="Say which is the PSF: hdu")


def _understood(image: _Image, name: str, asked: PsfImageOptions) -> _Image:
    """Recognise the kind of the images by name and header."""
    header, values, path = image.header, image.values, image.path
    meaning = str(card(header, "IMTYPE") or "").lower()
    if "psfsize" in meaning or "-psfsize-" in path.name:
        raise image.error(
            "this is a map of the PSF's size (FWHM, arcsec) over a coadd, not an image of the PSF",
            fix="Give the coadd's PSF image, or {kind: moffat, fwhm: ...} with the FWHM of this map",
        )
    if values.ndim > 3 and values.shape[0] == 1 and asked.plane is None:
        values = values.reshape(values.shape[-3:]) if values.size == np.prod(values.shape[-3:]) else values
    plane, of_plane, key, problem = choose_plane(header, len(values), asked.plane, asked.wavelength)
    if problem:
        raise image.error(
            problem, key=key, fix="Say which: wavelength: 4.44 um (the nearest plane is taken), or plane: 0"
        )
    if plane is not None:
        values = values[plane : plane + 1] if values.ndim == 3 else values[plane]
    if values.ndim != 3:
        raise image.error(
            f"the file holds a cube with {values.ndim} axes {values.shape}; an image (ny, nx), or one of images "
            "(N, ny, nx) with a position for each, is needed. Grids of STPSF (psf_grid) have three axes, and their "
            "datacubes (calc_datacube) a plane for each wavelength",
            key="plane",
            fix="Say which cube of three axes: plane: 0 (along the first axis), or write its images as one, with "
            "their positions in DET_YX0, DET_YX1, ...",
        )
    scale = sample_scale(header)
    image = replace(image, values=values, scale=scale, kind=f"{of_plane} {image.kind}".strip())
    places = positions_of(header, len(values), path, image.hdu) if asked.grid_xypos is None else None
    if asked.grid_xypos is not None:
        places = np.asarray(asked.grid_xypos, dtype=np.float64)
        if places.shape != (len(values), 2):
            raise image.error(f"{len(values)} images need as many positions (x, y)", key="grid_xypos")
        return replace(image, places=places, kind="PSFs of")
    if places is not None:
        # STPSF's grids hold the fraction of a source's light in a detector pixel; before 2020 they were not multiplied
        # by the samples in a pixel.
        along = card(header, "OVERSAMP")
        if isinstance(along, int | float) and along > 0:
            scale = replace(scale, per_pixel=float(along))
        if card(header, "ORIGIN") == "skygraft":
            return replace(image, places=places, kind=_SAVED, integrated=True, scale=scale)
        return replace(image, places=places, kind="STPSF grid", integrated=True, scale=scale, is_fraction=True)
    if is_stdpsf(header):
        values, places, kind = stdpsf_grid(values, header, asked.detector, path, image.hdu)
        return replace(
            image, values=values, places=places, kind=kind, integrated=True, scale=SampleScale(None, 4.0, "STDPSF")
        )
    if len(values) > 1:
        raise image.error(
            f"the cube holds {len(values)} images and no positions for them (DET_YX0, ...; NXPSFS, IPSFX01, ...)",
            key="grid_xypos",
            fix="Give them: grid_xypos: [[x, y], ...], one for each image; or which image holds everywhere: plane: 0",
        )
    if name in _STPSF or (card(header, "PIXELSCL") is not None and card(header, "OVERSAMP", "DET_SAMP") is not None):
        summed = name in _SUMMED or (scale.per_pixel is not None and scale.per_pixel <= 1)
        if summed and scale.arcsec is not None:
            scale = SampleScale(scale.arcsec, 1.0, scale.origin)
        stamp = "STPSF stamp" if name in _STPSF else "stamp"
        return replace(image, kind=f"{of_plane} {stamp}".strip(), integrated=summed, scale=scale, is_fraction=True)
    return image


def _soft_bias(image: _Image) -> float:
    """The level that read_PSF of the SDSS adds to its images, which its header names."""
    value = card(image.header, "SOFTBIAS")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _sampling(image: _Image, asked: PsfImageOptions, pixel_scale: float) -> tuple[tuple[float, float], bool]:
    """Samples per pixel along y and x, and whether they are of the effective PSF."""
    scale = image.scale
    if asked.oversampling is not None:
        along_y, along_x = np.broadcast_to(np.asarray(asked.oversampling, dtype=float), (2,)).tolist()
    else:
        arcsec = (asked.sampling, asked.sampling) if asked.sampling is not None else scale.arcsec
        made_for = scale.pixel_arcsec
        differs = made_for is not None and abs(made_for / pixel_scale - 1) > _SAME_SCALE
        if differs and asked.sampling is None and not asked.insist:
            raise image.error(
                f"the PSF was made for pixels of {made_for:.5g} arcsec ({scale.origin}), the image has pixels of "
                f"{pixel_scale:.5g} arcsec",
                key="PIXELSCL",
                fix=f"Give the PSF of this image. {_INSIST}",
            )
        if scale.per_pixel is not None and not differs and asked.sampling is None:
            along_y = along_x = scale.per_pixel
        elif arcsec is not None:
            along_y, along_x = (pixel_scale / one for one in arcsec)
        else:
            raise image.error(
                "the header does not say how far apart the PSF's samples are: none of "
                f"{', '.join(PIXEL_SCALE_KEYS)}, OVERSAMP, or a WCS",
                key="oversampling",
                fix="Give oversampling: 1 if they are pixels of the exposure, else the samples per pixel, or "
                "sampling: the arcsec between them",
            )
    steps = tuple(_near_one(one, n) for one, n in zip((along_y, along_x), image.values.shape[1:], strict=True))
    low, high = _OVERSAMPLING
    if not all(low <= one <= high for one in steps) and not asked.insist:
        raise image.error(
            f"the PSF image has {steps[1]:.3g} x {steps[0]:.3g} samples per pixel of the exposure "
            f"({scale.origin or 'given'}); {low:g} to {high:g} are allowed",
            key="sampling",
            fix=f"Give the right one: oversampling, or sampling (arcsec). {_INSIST}",
        )
    integrated = image.integrated if asked.pixel_integrated is None else asked.pixel_integrated
    if integrated is None:
        if max(steps) > 1.1:
            raise image.error(
                f"the PSF image has {max(steps):.3g} samples per pixel, and the header does not say what they are",
                key="pixel_integrated",
                fix="Give pixel_integrated: true if each is the light that a whole pixel centred there receives (an "
                "effective PSF), false if the PSF must still be integrated over pixels (an optical PSF)",
            )
        integrated = True
    return (steps[0], steps[1]), integrated


def _near_one(step: float, n: int) -> float:
    """One sample a pixel, if the image would be less than a tenth of a pixel larger or smaller."""
    return 1.0 if abs(step - 1) * n / 2 < 0.1 else float(step)


def _center(
    image: _Image, values: NDArray[np.float64], asked: PsfImageOptions, steps: tuple[float, float]
) -> tuple[float, float]:
    """Check each image, and return the place (x, y) of the source in all of them."""
    n, ny, nx = values.shape
    center = ((nx - 1) / 2, (ny - 1) / 2)
    if asked.center is not None and not isinstance(asked.center, str):
        x, y = (float(one) for one in asked.center)
        center = (x, y)
    elif asked.center not in (None, "middle", "centroid"):
        raise image.error(
            f"center is {asked.center!r}; allowed: middle, centroid, or column and row", key="center", fix="Give one"
        )
    trusted = asked.insist or image.kind == _SAVED
    looks = [look_at(one) for one in values]
    for k, look in enumerate(looks):
        of_which = f"image {k} of the cube" if n > 1 else "the PSF image"
        if not look.total > 0:
            raise image.error(f"{of_which} sums to {look.total:g}: it is no image of a point source")
        if look.has_background and not trusted:
            raise image.error(
                f"{of_which} has a background of {look.border:.4g}, the median of its border, "
                f"{100 * look.in_border_level:.3g} % of its light: "
                + (
                    f"its largest value is only {look.contrast:.3g} times its median, so that it may be no image of a "
                    "point source, but a map"
                    if look.contrast < 3
                    else "its wings do not fall to zero"
                ),
                key="subtract_background",
                fix="Subtract it: subtract_background: true (images of SDSS's read_PSF have one of 1000), or give a "
                f"larger image: this one is of {nx} x {ny} samples. {_INSIST}",
            )
    if asked.center == "centroid":
        x, y = np.mean([look.center for look in looks], axis=0).tolist()
        center = (x, y)
    for k, look in enumerate(looks):
        off = np.hypot((look.center[0] - center[0]) / steps[1], (look.center[1] - center[1]) / steps[0])
        if off > _MOST_OFF and not trusted:
            even = any(size % 2 == 0 for size in (ny, nx))
            row, column = np.unravel_index(int(values[k].argmax()), (ny, nx))
            raise image.error(
                f"{f'image {k} of the cube' if n > 1 else 'the PSF image'} of {nx} x {ny} samples has its centroid at "
                f"({look.center[0]:.2f}, {look.center[1]:.2f}), {off:.2f} pixels from its centre at "
                f"({center[0]:g}, {center[1]:g})"
                + (", which is between samples since a size is even" if even and asked.center is None else ""),
                key="center",
                fix=f"Say where the source is: center: [{column}, {row}] (column and row, from 0) if it is the "
                "brightest sample, or center: centroid",
            )
    return center


def _scaled(
    image: _Image, values: NDArray[np.float64], totals: NDArray[np.float64], steps: tuple[float, float]
) -> tuple[NDArray[np.float64], bool, str]:
    """Scale images to light per pixel; return them, whether they hold a known fraction of all light, and a note."""
    in_pixel = steps[0] * steps[1]
    mean = float(totals.mean())
    if image.is_fraction:
        # As light in each sample they sum to the fraction, as light per pixel to that times the samples in a pixel.
        for factor in (in_pixel, 1.0):
            if 0.5 < mean * factor / in_pixel < 1.02:
                return values * factor, True, ""
    if image.kind == _SAVED:
        return values, False, ""
    if image.kind.startswith("STDPSF") and 0.5 < mean / in_pixel < 1.1:
        return values, False, ""
    known = (1.0, in_pixel)
    note = "" if any(abs(mean / one - 1) < 0.02 for one in known) else f" (scaled from a sum of {mean:.5g})"
    return values * (in_pixel / totals)[:, None, None], False, note
