"""One image of one detector (or one coadd patch) and everything that is known about it.

Pixel coordinates, everywhere in skygraft, are 0-based and of the *parent* frame: the coordinates ``x`` and ``y`` of
the planes. The centre of a pixel is at its integral coordinate. A cut-out therefore knows where it was cut.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.content import same_content
from skygraft.data_id import DataId, VisitInfo
from skygraft.display import Rows, html_table, span, text_table
from skygraft.errors import ConfigError, SkygraftError
from skygraft.photometry.photo_calib import PhotoCalib
from skygraft.planes import Planes, add_mask_plane, make_planes, mask_bit
from skygraft.psf.base import PSF, Box
from skygraft.wcs.local import pixel_scale

if TYPE_CHECKING:
    import xarray as xr
    from astropy.coordinates import SkyCoord
    from astropy.nddata import CCDData, NDData

__all__ = [
    "AMPLIFIERS",
    "COADD_INPUTS",
    "COADD_NOISE",
    "CUT_FROM",
    "DIFFERENCE",
    "NO_GAIN",
    "NO_PHOTO_CALIB",
    "NO_PSF",
    "PHOTON_VARIANCE",
    "DataId",
    "Exposure",
    "VisitInfo",
    "add_mask_plane",
    "make_planes",
    "mask_bit",
]

_SOURCE_PLANES = ("INJECTED", "DETECTED")
"""Prefixes of the mask planes that mark sources, not defects."""

NO_PHOTO_CALIB = "no_photo_calib"
"""Key of `Exposure.extra`: the `CalibrationError` that says why ``photo_calib`` is None; raised where it is needed."""
NO_PSF = "no_psf"
"""Key of `Exposure.extra`: the `PsfError` that says why ``psf`` is None; raised where a source needs a PSF."""
NO_GAIN = "no_gain"
"""Key of `Exposure.extra`: text that says why ``gain`` is None though the headers hold something about it."""
AMPLIFIERS = "amplifiers"
"""Key of `Exposure.extra`: the amplifiers' parts, each (first x, first y, width, height) in parent pixels."""
COADD_INPUTS = "coadd_inputs"
"""Key of `Exposure.extra`: whether the file lists the inputs of a coadd, in formats that record it."""

COADD_NOISE = "coadd_noise"
"""Key of `Exposure.extra`, of coadds only: a `skygraft.noise.CoaddNoise`, which says how its noise is correlated."""
CUT_FROM = "cut_from"
"""Key of `Exposure.extra`, of cut-outs only: the `Box` of the whole image."""
PHOTON_VARIANCE = "photon_variance"
"""Key of `Exposure.extra`: the part of the variance that is photon noise, where the file keeps it apart."""
DIFFERENCE = "difference"
"""Key of `Exposure.extra`, of difference images: a `skygraft.psf.DifferenceImage`, how the image was made."""


class _PlanesField:
    """The field ``planes`` of an `Exposure`: asked for as a Dataset, which is made only then."""

    def __get__(self, exposure: Exposure, owner: type[Exposure]) -> xr.Dataset:
        return exposure.plain.dataset()

    def __set__(self, exposure: Exposure, planes: xr.Dataset | Planes) -> None:
        exposure.__dict__["planes"] = Planes.of(planes)


@dataclass(frozen=True, eq=False, repr=False)
class Exposure:
    """Planes of pixels and the calibrations that give them meaning.

    Parameters
    ----------
    planes : xarray.Dataset
        ``image`` and ``variance`` (float32) and ``mask`` (int32 bits, CF ``flag_masks`` and ``flag_meanings``),
        dims ``("y", "x")``, coordinates the pixel indices in the parent frame, units in ``attrs["units"]``.
        ``variance`` may be absent. See `make_planes`.
    wcs : BaseLowLevelWCS
        APE-14, parent pixels (x, y) to ICRS degrees (ra, dec).
    psf : PSF or None
        The effective PSF; None where the image has none (only pre-convolved stamps can then be injected).
    photo_calib : PhotoCalib or None
        Magnitudes to image units, and what they are the flux of; None for an uncalibrated image.
    data_id : DataId
        Which image this is.
    visit_info : VisitInfo
        When it was taken.
    gain : float, ndarray or None
        Electrons per image unit, one number or a map of the image's shape; None where it is not recorded.
    gain_origin : str
        Where the gain was found.
    path : Path or None
        The file that it was read from.
    format : str or None
        Name of the format that read it.
    header : mapping
        The primary header cards that a user may want to look at.
    extra : mapping
        What the format needs to remember in order to write the image back.
    """

    planes: xr.Dataset
    wcs: BaseLowLevelWCS
    psf: PSF | None = None
    photo_calib: PhotoCalib | None = None
    data_id: DataId = field(default_factory=DataId)
    visit_info: VisitInfo = field(default_factory=VisitInfo)
    gain: float | NDArray[np.float32] | None = None
    gain_origin: str = ""
    path: Path | None = None
    format: str | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> Planes:
        """The planes as plain arrays, without making the Dataset."""
        planes: Planes = self.__dict__["planes"]
        return planes

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (ny, nx)."""
        return self.plain.shape

    @property
    def xy0(self) -> tuple[int, int]:
        """Parent coordinates (x, y) of the first pixel."""
        return self.plain.xy0

    @property
    def box(self) -> Box:
        """The image's outer edges in parent pixel coordinates."""
        (ny, nx), (x0, y0) = self.shape, self.xy0
        return Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)

    @property
    def image(self) -> NDArray[np.float32]:
        """The image plane (ny, nx), in the units of ``planes["image"].attrs["units"]``."""
        return self.plain["image"]

    @property
    def variance(self) -> NDArray[np.float32] | None:
        """The variance plane (ny, nx), in image units squared; None where there is none."""
        variance: NDArray[np.float32] | None = self.plain.get("variance")
        return variance

    @property
    def mask(self) -> NDArray[np.int32]:
        """The mask plane (ny, nx): bits, which `mask_planes` names; `bad` says which pixels to leave out."""
        return self.plain["mask"]

    @property
    def mask_planes(self) -> dict[str, int]:
        """Mask plane names and their bit values (2**bit)."""
        attrs = self.plain.attrs("mask")
        names = str(attrs.get("flag_meanings", "")).split()
        return {n: int(v) for n, v in zip(names, np.atleast_1d(attrs.get("flag_masks", [])), strict=True)}

    def bad(self, planes: str | Iterable[str] | None = None) -> NDArray[np.bool_]:
        """Find the pixels that measurements should leave out, by the mask.

        Fakes carry the mask planes ``INJECTED`` and ``INJECTED_CORE``, which say where they are and not that their
        pixels are bad: masking ``mask != 0`` would hide every one of them.

        Parameters
        ----------
        planes : str or iterable of str, optional
            Planes that make a pixel bad. By default all, and bits without a name, except those that mark sources:
            the ones whose names begin with ``INJECTED`` or ``DETECTED``.

        Returns
        -------
        ndarray of bool, shape (ny, nx)
            True where any of the planes is set.

        Raises
        ------
        ConfigError
            If the image has no plane of that name.
        """
        known = self.mask_planes
        if planes is None:
            marks = sum(bit for name, bit in known.items() if name.startswith(_SOURCE_PLANES))
            return np.asarray((self.mask & ~np.int32(marks)) != 0)
        bits = 0
        for name in [planes] if isinstance(planes, str) else planes:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ConfigError(
                    f"the image has no mask plane {name!r}; it has {', '.join(known) or 'none'}",
                    key="planes",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
            bits |= known[name]
        return np.asarray((self.mask & np.int32(bits)) != 0)

    def default_image_id(self, band: str | None = None) -> str:
        """Derive the name of the image for truth tables and random streams, where no other is given.

        The instrument, visit, detector and band; of a coadd, tract, patch and band. An image that is known by its
        file's name alone gets a fingerprint of its data id, times and pixels as well: files of one name are different
        images wherever they lie, and the same file is the same image. A cut-out of such an image is another one.

        Parameters
        ----------
        band : str, optional
            Instead of the data id's.

        Returns
        -------
        str
        """
        data_id = self.data_id
        band = band or data_id.band
        text = str(data_id)
        if data_id.visit is not None and data_id.detector is not None:
            return text if band is None else f"{text}-{band}"
        if data_id.tract is not None and data_id.patch is not None:
            return str(dataclasses.replace(data_id, band=band))
        content = hashlib.blake2b(repr((data_id.as_dict(), self.visit_info)).encode(), digest_size=4)
        content.update(np.ascontiguousarray(self.image).astype("<f4", copy=False).tobytes())
        return "-".join(part for part in (text, band, content.hexdigest()) if part)

    def __eq__(self, other: object) -> bool:
        """Equal exposures have the same planes, calibrations, identity and origin: a pickled copy is one."""
        if not isinstance(other, Exposure):
            return NotImplemented
        return all(same_content(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    def __hash__(self) -> int:
        return hash((self.data_id, self.visit_info))

    def __getitem__(self, slices: tuple[slice, slice]) -> Exposure:
        """Cut the exposure to rows and columns, ``exposure[y0:y1, x0:x1]``, as indices of parent pixels.

        Parameters
        ----------
        slices : (slice, slice)
            Rows and columns: the first, and one past the last. They are indices of the parent frame, as the
            coordinates of `planes`, the positions of truth tables and pixels of the WCS are; not counted from the
            first pixel of a cut-out, nor from the end. An end that is left out is the image's own.

        Returns
        -------
        Exposure
            See `cutout`.

        Raises
        ------
        ConfigError
            If these are not two slices of step 1, or not all of the pixels are on the image.

        Examples
        --------
        >>> from skygraft.testing import make_exposure
        >>> part = make_exposure((64, 128), xy0=(1000, 2000))[2010:2020, 1100:]
        >>> part.shape, part.xy0
        ((10, 28), (1100, 2010))
        """
        from skygraft.cutout import pixels_of_slices

        return self._cut(*pixels_of_slices(self._ranges, slices))

    def cutout(
        self,
        position: SkyCoord | tuple[float, float] | Box,
        size: Any = None,
        *,
        mode: Literal["trim", "strict"] = "trim",
    ) -> Exposure:
        """Cut the exposure to a rectangle around a position, or to a box.

        Parameters
        ----------
        position : SkyCoord, (float, float) or Box
            The middle, on the sky or as (x, y) in parent pixels; or the edges of the cut-out in parent pixels.
        size : int, Quantity or a pair of these
            Height and width (ny, nx), in pixels or as angles; one number for a square. Not with a box.
        mode : {"trim", "strict"}
            Whether pixels off the image are left out, or are an error.

        Returns
        -------
        Exposure
            Its pixels are a copy. WCS, PSF and calibration are those of the whole exposure: positions stay those of
            the parent frame. The part of a gain map and of noise realizations goes with it. `write_exposure` writes
            whole images only; see `to_ccddata` for cut-outs.

        Raises
        ------
        ConfigError
            If position or size cannot be read, or no pixel is left.

        Notes
        -----
        What is injected into a cut-out with the same image id and a recorded gain is, pixel by pixel, what is injected
        into the whole. It is not where something is measured on the pixels at hand: a gain that is not recorded, the
        noise correlation of a coadd, or the PSF at the centre of the image (``position="image"``).

        Examples
        --------
        >>> from skygraft.testing import make_exposure
        >>> exposure = make_exposure((64, 128), center=(150.0, 2.0))
        >>> exposure.cutout((100, 30), size=21).box
        Box(x_min=89.5, x_max=110.5, y_min=19.5, y_max=40.5)
        >>> from astropy.coordinates import SkyCoord
        >>> import astropy.units as u
        >>> exposure.cutout(SkyCoord(150, 2, unit="deg"), size=(3, 4) * u.arcsec).shape
        (15, 20)
        """
        from skygraft.cutout import on_the_image, pixels_around, pixels_of_box

        if isinstance(position, Box) == (size is not None):
            raise ConfigError(
                "a cut-out takes either a box, or a position and a size",
                key="size",
                fix="Give exposure.cutout((x, y), size=51), or exposure.cutout(box)",
            )
        ranges = pixels_of_box(position) if isinstance(position, Box) else pixels_around(self.wcs, position, size)
        return self._cut(*on_the_image(self._ranges, ranges, mode))

    @property
    def _ranges(self) -> tuple[range, range]:
        """Rows and columns, as indices of parent pixels."""
        (ny, nx), (x0, y0) = self.shape, self.xy0
        return range(y0, y0 + ny), range(x0, x0 + nx)

    def _cut(self, rows: range, columns: range) -> Exposure:
        """Cut the exposure to some rows and columns of parent pixels, all of them on the image."""
        x0, y0 = self.xy0
        where = np.s_[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        # Of an exposure that was opened lazily, these pixels are read here, and no others.
        changes: dict[str, Any] = {"planes": self.plain.cut(*where)}
        gain = np.asarray(self.gain)
        if gain.shape == self.shape:
            changes["gain"] = gain[where].copy()
        extra = dict(self.extra)
        if (rows, columns) != self._ranges:
            extra.setdefault(CUT_FROM, self.box)
        if COADD_NOISE in extra:
            noise = extra[COADD_NOISE]
            parts = tuple(np.array(p[where]) for p in noise.realizations if np.shape(p) == self.shape)
            extra[COADD_NOISE] = dataclasses.replace(noise, realizations=parts)
        if PHOTON_VARIANCE in extra:
            extra[PHOTON_VARIANCE] = np.array(extra[PHOTON_VARIANCE][where])
        return self.replace(**changes, extra=extra)

    def to_nddata(self, bad: str | Iterable[str] | None = None) -> NDData:
        """Copy the exposure into an `~astropy.nddata.NDData`.

        Parameters
        ----------
        bad : str or iterable of str, optional
            Mask planes that make a pixel bad; see `bad`.

        Returns
        -------
        NDData
            The image with its unit (none where astropy does not know it), the variance as a `VarianceUncertainty`,
            True in the mask where a pixel is bad, the WCS in pixels of the array, and in `meta` what is known of the
            image under FITS keywords: zeropoint, aperture, gain, time, visit, and so on. The PSF has no place in it.
        """
        from skygraft.nddata import to_nddata

        return to_nddata(self.plain, self.wcs, self.bad(bad), self._keywords())

    def to_ccddata(self, bad: str | Iterable[str] | None = None) -> CCDData:
        """Copy the exposure into a `~astropy.nddata.CCDData`.

        Parameters
        ----------
        bad : str or iterable of str, optional
            Mask planes that make a pixel bad; see `bad`.

        Returns
        -------
        CCDData
            As `to_nddata`, with the bits of the mask in `flags`. It can be written to a FITS file, from which
            `skygraft.read_exposure` reads the image and its calibration again.

        Raises
        ------
        WcsError
            If the WCS is one that FITS cannot hold, such as an AST frame set, and no TAN-SIP projection follows it to a
            tenth of a pixel. The largest error of one that does, in pixels, is ``meta["WCSERR"]``.
        """
        from skygraft.nddata import to_ccddata

        return to_ccddata(self.plain, self.wcs, self.bad(bad), self._keywords())

    def _keywords(self) -> dict[str, Any]:
        from skygraft.nddata import keywords

        return keywords(self.data_id, self.visit_info, self.photo_calib, self.gain, self.box)

    def __repr__(self) -> str:
        return text_table(f"Exposure {self.data_id}", self._rows())

    def _repr_html_(self) -> str:
        return html_table(f"Exposure {self.data_id}", self._rows())

    def _rows(self) -> Rows:
        """Label and text of each line of `repr`: what one wants to see of an image first."""
        (ny, nx), (x0, y0) = self.shape, self.xy0
        units = self.plain.units or "unknown units"
        start = f", first pixel ({x0}, {y0})" if (x0, y0) != (0, 0) else ""
        known = ", ".join(f"{key} {value}" for key, value in self.data_id.as_dict().items())
        scale, place = self._describe_wcs()
        planes = f"{'with' if 'variance' in self.plain else 'without'} variance"
        rows = [
            ("data id", known or "unknown"),
            ("pixels", f"{nx} x {ny}{start}, in {units}, {planes}"),
            ("wcs", place),
            *self._psf_rows(scale),
        ]
        if self.photo_calib is None:
            rows.append(("photo_calib", _absent(self.extra.get(NO_PHOTO_CALIB))))
        else:
            rows += [
                (f"  {label}", text) if i else ("photo_calib", f"{label} {text}")
                for i, (label, text) in enumerate(self.photo_calib.rows(self.box))
            ]
        gain = "not recorded"
        if self.gain is not None:
            kind = "" if np.ndim(self.gain) == 0 else ", the median of a map"
            gain = f"{np.median(self.gain):.4g} electrons per {units}{kind} ({self.gain_origin or 'origin unknown'})"
        rows.append(("gain", gain))
        if self.visit_info.mjd is not None or self.visit_info.exposure_time is not None:
            rows.append(("visit_info", f"MJD {self.visit_info.mjd}, {self.visit_info.exposure_time} s"))
        rows.append(("mask planes", ", ".join(self.mask_planes) or "none"))
        if self.path is not None:
            rows.append(("file", f"{self.path.name} ({self.format}), in {self.path.parent}"))
        return rows

    def _describe_wcs(self) -> tuple[float, str]:
        """The pixel scale at the centre in arcsec, NaN if unknown, and what people see of the WCS."""
        kind = type(self.wcs).__name__
        try:
            x, y = self.box.center
            ra, dec = (float(v) for v in self.wcs.pixel_to_world_values(x, y))
            scale = float(pixel_scale(self.wcs, x, y)[0])
        except (SkygraftError, ArithmeticError, ValueError, TypeError):
            return np.nan, kind
        return scale, f"{kind}, {scale:.4f} arcsec/pix, centre {ra:.5f} {dec:+.5f}"

    def _psf_rows(self, scale: float) -> Rows:
        if self.psf is None:
            return [("psf", _absent(self.extra.get(NO_PSF)))]
        low, high = self.psf.fwhm_range(self.box)
        width = "not known"
        if low <= high:
            in_arcsec = "" if np.isnan(scale) else f" = {span(low * scale, high * scale)} arcsec"
            width = f"{span(low, high)} pix{in_arcsec}"
        return [("psf", self.psf.description), ("  FWHM", width)]

    def replace(self, **changes: Any) -> Exposure:
        """Copy the exposure with some parts changed; planes are shared unless changed.

        Parameters
        ----------
        **changes
            Fields of `Exposure` by name.

        Returns
        -------
        Exposure
        """
        return dataclasses.replace(self, **{"planes": self.plain, **changes})


# Not before: a dataclass takes what its class has for a default.
Exposure.planes = _PlanesField()  # type: ignore[assignment]


def _absent(reason: object) -> str:
    return f"none: {reason}" if reason is not None else "none"
