"""FITS world coordinate systems: all projections of wcslib, with SIP, TPV, TNX, ZPX and plate solutions, to ICRS.

Greisen & Calabretta 2002 and Calabretta & Greisen 2002 (A&A 395, 1061 and 1077); SIP: Shupe et al. 2005.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import FK4, FK5, BaseCoordinateFrame, FK4NoETerms, Galactic, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, Sip
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import WcsError
from skygraft.wcs.base import CelestialWcs, FloatArray, to_lonlat, to_vectors
from skygraft.wcs.card_text import header_text, inherited, inherits
from skygraft.wcs.distortion import (
    Distortion,
    IrafDistortion,
    IrafSurface,
    LookupTable,
    PlateDistortion,
    SipDistortion,
)
from skygraft.wcs.fits_cards import WcsCards, missing, read_wcs_cards
from skygraft.wcs.plate import plate_model

__all__ = ["FitsWcs", "read_fits_wcs"]

# A solved position is accepted if mapping it forward comes back within this (pixels, at the reference scale).
_ROUND_TRIP = 1e-3
# Positions that come back further away than this are refined by Newton's method, unless they are far off.
_EXACT, _NEAR = 1e-7, 1e3
_ROUNDING = 5e-16
"""Rounding error of unit vectors, radians."""
# astropy's FITS warnings are silenced while a WCS is built; warning filters are global to the process.
_build_lock = threading.Lock()


class FitsWcs(CelestialWcs):
    """The celestial WCS of a FITS header, from parent pixels to ICRS.

    Parameters
    ----------
    header : mapping or str
        FITS header: an `~astropy.io.fits.Header`, a mapping of keyword to value, or cards of 80 characters.
    xy0 : (int, int)
        Parent coordinates of the array's first pixel: parent pixel = array pixel + `xy0`.
    path, hdu : optional
        The header's file and HDU, for errors.
    tables : sequence of LookupTable
        Lookup tables of the file, which CPDIS and D2IMDIS cards refer to.

    Raises
    ------
    MissingWcsError
        If the header has no celestial axes.
    WcsError
        If it has, but a card is missing, invalid, contradicts another, or is not supported (-TAB, other distortions);
        the card is named.

    Notes
    -----
    The header is read by astropy, except for the corrections of IRAF's TNX and ZPX and plate solutions. The frame
    follows RADESYS and EQUINOX with the defaults of the FITS standard; FK5, FK4 and galactic coordinates are converted
    to ICRS. Distortions are inverted by Newton's method on the forward polynomials (the AP and BP polynomials of SIP
    are approximations), and so are projections whose inverse in wcslib is inaccurate. Where the round trip of an
    inverse does not close, the result is NaN.
    """

    def __init__(
        self,
        header: Mapping[str, Any] | str,
        xy0: tuple[float, float] = (0, 0),
        path: str | os.PathLike[str] | None = None,
        hdu: int | str | None = None,
        tables: Sequence[LookupTable] = (),
    ) -> None:
        place: dict[str, Any] = {"path": path, "hdu": hdu}
        self._tables = tuple(tables)
        with _build_lock:
            self._text = header_text(header)
            self._cards = read_wcs_cards(self._text, place, tables=bool(tables))
            self._wcs = _build(self._cards, place, self._tables)
        self._xy0 = (float(xy0[0]), float(xy0[1]))
        # wcslib modifies its own structure while it computes, without holding the GIL.
        self._lock = threading.Lock()
        self._world_lon, self._world_lat = int(self._wcs.wcs.lng), int(self._wcs.wcs.lat)
        self._frame = _celestial_frame(self._wcs, place)
        self._rotation = _rotation_to_icrs(self._frame)
        # Degrees per pixel: rows are the axes in the header, columns (x, y).
        self._matrix: FloatArray = np.asarray(self._wcs.pixel_scale_matrix, dtype=np.float64)
        self._scale = float(np.sqrt(abs(np.linalg.det(self._matrix))))
        if not (np.isfinite(self._scale) and self._scale > 0):
            raise WcsError(
                f"the matrix of the WCS has no inverse: {self._matrix.tolist()} degrees a pixel",
                **place,
                fix="Repair the header's WCS, or leave this image out",
            )
        self._distortion = self._read_distortion()

    def _read_distortion(self) -> Distortion | None:
        """Return the distortion: SIP, which astropy applies too, or TNX, ZPX or a plate, which it does not."""
        sip, iraf = self._wcs.sip, self._cards.iraf
        if sip is not None and sip.a is not None and sip.b is not None:
            return SipDistortion(sip.a, sip.b)
        if self._cards.plate:
            return PlateDistortion(*plate_model(self._cards.values)[:2])
        if iraf is None:
            return None
        lngcor, latcor = (None if n is None else IrafSurface(n) for n in (iraf.lngcor, iraf.latcor))
        return IrafDistortion(lngcor, latcor, self._matrix[[self._world_lon, self._world_lat]])

    @classmethod
    def tan(
        cls, ra: float, dec: float, *, crpix: tuple[float, float], cd: ArrayLike, xy0: tuple[float, float] = (0, 0)
    ) -> FitsWcs:
        """Build a gnomonic (TAN) WCS.

        Parameters
        ----------
        ra, dec : float
            Tangent point, ICRS degrees.
        crpix : (float, float)
            Pixel (x, y) of the tangent point, 0-based in the array frame (the parent frame if `xy0` is zero).
        cd : array_like, shape (2, 2)
            Degrees per pixel: rows (East, North), columns (x, y).
        xy0 : (float, float)
            As for the class.
        """
        matrix = np.asarray(cd, dtype=np.float64)
        # LONPOLE is given: its default rotates the axes by 180 degrees if the tangent point is the north pole.
        header = {
            "WCSAXES": 2,
            "LONPOLE": 180.0,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
        }
        values = {"CRVAL1": ra, "CRVAL2": dec, "CRPIX1": crpix[0] + 1, "CRPIX2": crpix[1] + 1}
        values |= {f"CD{i + 1}_{j + 1}": matrix[i, j] for i in range(2) for j in range(2)}
        return cls(header | {k: float(v) for k, v in values.items()} | {"RADESYS": "ICRS"}, xy0)

    @property
    def header(self) -> fits.Header:
        """Cards that describe the WCS, in the array frame (see `xy0`)."""
        return self._cards.header()

    @property
    def xy0(self) -> tuple[float, float]:
        """Parent coordinates of the array's first pixel."""
        return self._xy0

    def to_astropy(self, xy0: tuple[float, float] | None = None) -> WCS | None:
        """The same WCS as an `astropy.wcs.WCS`, for the pixels of an array.

        Parameters
        ----------
        xy0 : (float, float), optional
            Parent coordinates of the array's first pixel; by default those of the header's own array.

        Returns
        -------
        astropy.wcs.WCS or None
            In the header's own frame, which need not be ICRS. None where it could not hold all of this WCS: with
            the corrections of TNX, ZPX and plates, and with lookup tables.
        """
        sip = self._wcs.sip
        if self._tables or (self._distortion is not None and not isinstance(self._distortion, SipDistortion)):
            return None
        found = self._wcs.deepcopy()
        shift = np.subtract(self._xy0 if xy0 is None else xy0, self._xy0)
        found.wcs.crpix = found.wcs.crpix - shift
        if sip is not None:
            found.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - shift)
        return found

    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        pixels = np.column_stack([x - self._xy0[0], y - self._xy0[1]])
        with np.errstate(all="ignore"):
            if self._distortion is not None and not isinstance(self._distortion, SipDistortion):
                offsets = (pixels - self._origin).T
                pixels += np.column_stack(self._distortion.shift(*offsets))
            with self._lock:
                world = self._wcs.all_pix2world(pixels, 0)
        return self._to_icrs(world[:, self._world_lon], world[:, self._world_lat])

    def _inverse(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        ok = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
        ra, dec = np.where(ok, ra, np.nan), np.where(ok, dec, np.nan)
        world = np.empty((len(ra), 2))
        world[:, self._world_lon], world[:, self._world_lat] = self._from_icrs(ra, dec)
        with np.errstate(all="ignore"):
            with self._lock:
                pixels = self._wcs.wcs_world2pix(world, 0)
            if self._distortion is not None:
                offsets = (pixels - self._origin).T
                pixels = np.column_stack(self._distortion.invert(*offsets)) + self._origin
            x, y = pixels[:, 0] + self._xy0[0], pixels[:, 1] + self._xy0[1]
            target = to_vectors(ra, dec)
            miss = np.linalg.norm(to_vectors(*self._forward(x, y)) - target, axis=-1)
            pixel = np.radians(self._scale)
            inexact = np.flatnonzero((miss > max(_EXACT * pixel, _ROUNDING)) & (miss < _NEAR * pixel))
            if len(inexact):
                better = self._improved(x[inexact], y[inexact], target[inexact])
                x[inexact], y[inexact], miss[inexact] = np.where(
                    better[2] < miss[inexact], better, (x[inexact], y[inexact], miss[inexact])
                )
            good = miss < pixel * _ROUND_TRIP
        return np.where(good, x, np.nan), np.where(good, y, np.nan)

    def _improved(self, x: FloatArray, y: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return pixels refined towards unit vectors `target`, and their remaining distance in radians."""
        for _ in range(10):
            dx, dy = self._newton_step(x, y, target)
            x, y = x + dx, y + dy
            if not (np.hypot(dx, dy) > _EXACT / 10).any():
                break
        return x, y, np.linalg.norm(to_vectors(*self._forward(x, y)) - target, axis=-1)

    @cached_property
    def _origin(self) -> FloatArray:
        """CRPIX, 0-based in the array frame."""
        origin: FloatArray = np.asarray(self._wcs.wcs.crpix[:2], dtype=np.float64) - 1
        return origin

    def _to_icrs(self, lon: FloatArray, lat: FloatArray) -> tuple[FloatArray, FloatArray]:
        if self._frame is None:
            return lon, lat
        if self._rotation is not None:
            return to_lonlat(to_vectors(lon, lat) @ self._rotation.T)
        return _converted(lon, lat, self._frame, "icrs")

    def _from_icrs(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        if self._frame is None:
            return ra, dec
        if self._rotation is not None:
            return to_lonlat(to_vectors(ra, dec) @ self._rotation)
        return _converted(ra, dec, "icrs", self._frame)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        """Everything that positions depend on, as a hashable tuple."""
        wcs, sip = self._wcs.wcs, self._wcs.sip
        plate = np.ravel(plate_model(self._cards.values)[:2]).tolist() if self._cards.plate else ()
        return (
            tuple(str(ctype).removesuffix("-SIP") for ctype in wcs.ctype),
            *(
                tuple(np.ravel(part).tolist())
                for part in (wcs.crpix, wcs.crval, self._matrix, wcs.lonpole, wcs.latpole)
            ),
            tuple(sorted(wcs.get_pv())),
            repr(self._frame),
            *(() if sip is None else (tuple(np.ravel(part).tolist()) for part in (sip.a, sip.b))),
            self._cards.iraf,
            tuple(plate),
            *(table.key for table in self._tables),
            self._xy0,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (FitsWcs, (self._text, self._xy0, None, None, self._tables))

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, FitsWcs) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        kinds = "/".join(str(self._cards.values.get(f"CTYPE{axis}", "")).strip() for axis in (1, 2))
        kinds = "plate solution" if self._cards.plate else kinds
        values = ", ".join(f"{v:.6f}" for v in self._wcs.wcs.crval)
        return f"<FitsWcs {kinds} at ({values}), {self._scale * 3600:.4g} arcsec/pixel, xy0={self._xy0}>"


def read_fits_wcs(
    header: Mapping[str, Any],
    *,
    primary: fits.Header | None = None,
    tables: Sequence[LookupTable] = (),
    xy0: tuple[float, float] = (0, 0),
    path: str | os.PathLike[str] | None = None,
    hdu: int | str | None = None,
) -> FitsWcs:
    """Read the celestial WCS of an image from its header, or from the primary header if its own has none.

    Parameters
    ----------
    header : mapping
        FITS header.
    primary : Header, optional
        Primary header of the file, from which an extension may inherit its WCS.
    tables : sequence of LookupTable
        Lookup tables of the file.
    xy0 : (float, float)
        Parent coordinates of the array's first pixel.
    path, hdu : optional
        The header's file and HDU, for errors.

    Returns
    -------
    FitsWcs

    Raises
    ------
    MissingWcsError
        If the header has no celestial axes.
    WcsError
        If it has, but they cannot be used.
    """
    whole: Mapping[str, Any] | str = header
    with _build_lock:
        if primary is not None and inherits(header, primary):
            whole = inherited(header_text(header), header_text(primary))
    return FitsWcs(whole, xy0, path, hdu, tables)


def _build(cards: WcsCards, place: dict[str, Any], tables: Sequence[LookupTable]) -> WCS:
    hdus = fits.HDUList([fits.PrimaryHDU(), *(table.hdu() for table in tables)]) if tables else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(cards.text, hdus)
    except (ValueError, KeyError, TypeError, MemoryError, fits.VerifyError) as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise WcsError(
            f"the WCS in the header cannot be used: {reason}",
            **place,
            fix="Repair the header's WCS cards, or leave this image out",
        ) from error
    if not wcs.has_celestial:
        raise missing(f"the axes are {', '.join(repr(str(c)) for c in wcs.wcs.ctype)}", place)
    if wcs.naxis != 2:
        raise WcsError(
            f"the WCS has {wcs.naxis} axes, and an image has two",
            **place,
            key="NAXIS",
            fix="Repair NAXIS and WCSAXES, or leave this image out",
        )
    if not cards.plate:
        _check_read(wcs, cards.values, place)
    return wcs


def _check_read(wcs: WCS, values: Mapping[str, Any], place: dict[str, Any]) -> None:
    """Check that CRVAL and CRPIX were read as the header has them: wcslib ignores cards that it does not understand."""
    for axis in (1, 2):
        found = {f"CRPIX{axis}": wcs.wcs.crpix[axis - 1]}
        if str(values.get(f"CUNIT{axis}", "deg")).strip().lower() == "deg":
            found[f"CRVAL{axis}"] = wcs.wcs.crval[axis - 1]
        for key, value in found.items():
            if not np.isclose(float(value), float(values[key]), rtol=1e-13, atol=0):
                raise WcsError(
                    f"{key} is read as {value}, and the header says {values[key]}",
                    **place,
                    key=key,
                    fix="Rewrite the WCS cards, or leave this image out",
                )


def _celestial_frame(wcs: WCS, place: dict[str, Any]) -> BaseCoordinateFrame | None:
    """Return the frame of the world coordinates by the rules of the FITS standard; None for ICRS."""
    kind, system = str(wcs.wcs.lngtyp).strip(), str(wcs.wcs.radesys).strip().upper()
    equinox = float(wcs.wcs.equinox)
    if kind == "GLON":
        return Galactic()
    if kind != "RA":
        raise WcsError(
            f"celestial coordinates of type {kind!r} are not supported: RA/DEC and GLON/GLAT are",
            **place,
            fix="Convert the header's WCS to equatorial coordinates",
        )
    if not system:
        system = "ICRS" if np.isnan(equinox) else ("FK4" if equinox < 1984 else "FK5")
    if system == "ICRS":
        return None
    if system == "FK5":
        return FK5(equinox=Time(2000.0 if np.isnan(equinox) else equinox, format="jyear"))
    if system == "FK4":
        return FK4(equinox=Time(1950.0 if np.isnan(equinox) else equinox, format="byear"))
    if system == "FK4-NO-E":
        return FK4NoETerms(equinox=Time(1950.0 if np.isnan(equinox) else equinox, format="byear"))
    raise WcsError(
        f"the reference system {system!r} is not supported: ICRS, FK5, FK4 and FK4-NO-E are",
        **place,
        key="RADESYS",
        fix="Convert the header's WCS to ICRS",
    )


def _rotation_to_icrs(frame: BaseCoordinateFrame | None) -> NDArray[np.float64] | None:
    """Return the rotation matrix from a frame to ICRS; None if it is not a rotation (FK4 has E-terms)."""
    if frame is None or isinstance(frame, FK4):
        return None
    lon, lat = to_lonlat(np.eye(3))
    images: NDArray[np.float64] = to_vectors(*_converted(lon, lat, frame, "icrs")).T
    return images


def _converted(
    lon: FloatArray, lat: FloatArray, source: BaseCoordinateFrame | str, target: BaseCoordinateFrame | str
) -> tuple[FloatArray, FloatArray]:
    ok = np.isfinite(lon) & np.isfinite(lat)
    result = np.full((2, len(lon)), np.nan)
    if ok.any():
        points = SkyCoord(lon[ok] * u.deg, lat[ok] * u.deg, frame=source).transform_to(target)
        result[:, ok] = points.spherical.lon.deg, points.spherical.lat.deg
    return result[0], result[1]
