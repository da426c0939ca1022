"""FITS world coordinate systems: TAN, SIP, TPV, ZPN and whatever else wcslib knows, always to ICRS.

Greisen & Calabretta 2002 and Calabretta & Greisen 2002 (A&A 395, 1061 and 1077); SIP: Shupe et al. 2005.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import FK4, FK5, BaseCoordinateFrame, Galactic, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import MissingWcsError, WcsError
from skygraft.wcs.base import CelestialWcs, FloatArray, to_lonlat, to_vectors

__all__ = ["FitsWcs", "read_fits_wcs"]

# The cards of the primary WCS description; alternates (a letter behind) describe something else.
_WCS_CARD = re.compile(
    r"WCSAXES|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC|PV|PS)\d+_\d+|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX"
    r"|EPOCH|MJD-OBS|DATE-OBS|[AB]P?_(ORDER|DMAX|\d_\d)"
)
# Distortions by lookup table: they live in other HDUs, where a header alone cannot reach.
_TABLE_CARD = re.compile(r"CPDIS\d|CQDIS\d|D2IMDIS\d|D2IMARR\d|DP\d|DQ\d")
_SIP_CARD = re.compile(r"[AB]P?_(ORDER|DMAX|\d_\d)")
# A found position counts when mapping it forward comes back this near (pixels, at the reference scale).
_ROUND_TRIP = 1e-3
# astropy's FITS warnings are silenced while a WCS is built; the filters are global to the process.
_build_lock = threading.Lock()


class FitsWcs(CelestialWcs):
    """The celestial WCS of a FITS header, in parent pixels, converted to ICRS.

    Parameters
    ----------
    header : mapping
        FITS header (an `~astropy.io.fits.Header`, or a mapping of keyword to value).
    xy0 : (int, int)
        Parent coordinates of the array's first pixel: parent pixel = array pixel + `xy0`.
    path, hdu : optional
        Where the header came from, for messages.

    Raises
    ------
    MissingWcsError
        If the header has no celestial axes.
    WcsError
        If it has, but they cannot be used.

    Notes
    -----
    The frame follows RADESYS and EQUINOX with the defaults of the FITS standard; FK5, FK4 and galactic coordinates
    are converted to ICRS. SIP is inverted by Newton's method on the forward polynomial (the header's AP and BP
    polynomials are approximations). An inverse that does not come back to where it started is NaN.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        xy0: tuple[float, float] = (0, 0),
        path: str | os.PathLike[str] | None = None,
        hdu: int | str | None = None,
    ) -> None:
        place: dict[str, Any] = {"path": path, "hdu": hdu}
        self._header = _wcs_cards(header, place)
        # Values rather than text: a card has no room for all the digits of a float.
        self._key = tuple(sorted(self._header.items()))
        self._xy0 = (float(xy0[0]), float(xy0[1]))
        self._wcs = _build(self._header, place)
        # wcslib changes its own structure while it computes, without holding Python's lock.
        self._lock = threading.Lock()
        self._world_lon, self._world_lat = int(self._wcs.wcs.lng), int(self._wcs.wcs.lat)
        self._frame = _celestial_frame(self._wcs, place)
        self._rotation = _rotation_to_icrs(self._frame)
        self._scale = float(np.sqrt(abs(np.linalg.det(self._wcs.pixel_scale_matrix))))
        if not (np.isfinite(self._scale) and self._scale > 0):
            raise WcsError(
                "the CD (or PC and CDELT) matrix of the WCS is singular",
                **place,
                fix="Repair the header's WCS, or leave this image out",
            )

    @classmethod
    def tan(
        cls, ra: float, dec: float, *, crpix: tuple[float, float], cd: ArrayLike, xy0: tuple[float, float] = (0, 0)
    ) -> FitsWcs:
        """A gnomonic WCS made from numbers.

        Parameters
        ----------
        ra, dec : float
            Tangent point, ICRS degrees.
        crpix : (float, float)
            Its pixel (x, y), 0-based in the array frame (parent frame where `xy0` is zero).
        cd : array_like, shape (2, 2)
            Degrees per pixel: rows (East, North), columns (x, y).
        xy0 : (float, float)
            As for the class.
        """
        matrix = np.asarray(cd, dtype=np.float64)
        # LONPOLE is spelt out: its default turns the axes by 180 degrees where the tangent point is the north pole.
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
        """A copy of the header's WCS cards, for the array frame (see `xy0`)."""
        return self._header.copy()

    @property
    def xy0(self) -> tuple[float, float]:
        """Parent coordinates of the array's first pixel."""
        return self._xy0

    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        pixels = np.column_stack([x - self._xy0[0], y - self._xy0[1]])
        with self._lock, np.errstate(all="ignore"):
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
            if self._wcs.sip is not None:
                pixels = _undistort(self._wcs.sip, pixels)
            x, y = pixels[:, 0] + self._xy0[0], pixels[:, 1] + self._xy0[1]
            back = self._forward(x, y)
            miss = np.linalg.norm(to_vectors(*back) - to_vectors(ra, dec), axis=-1)
            good = miss < np.radians(self._scale * _ROUND_TRIP)
        return np.where(good, x, np.nan), np.where(good, y, np.nan)

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

    def __reduce__(self) -> tuple[Any, ...]:
        return (FitsWcs, (dict(self._key), self._xy0))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FitsWcs):
            return NotImplemented
        return self._xy0 == other._xy0 and self._key == other._key

    def __hash__(self) -> int:
        return hash((self._key, self._xy0))

    def __repr__(self) -> str:
        kinds = "/".join(str(kind) for kind in self._header["CTYPE*"].values())
        values = ", ".join(f"{v:.6f}" for v in self._wcs.wcs.crval)
        return f"<FitsWcs {kinds} at ({values}), {self._scale * 3600:.4g} arcsec/pixel, xy0={self._xy0}>"


def read_fits_wcs(
    header: Mapping[str, Any],
    *,
    xy0: tuple[float, float] = (0, 0),
    path: str | os.PathLike[str] | None = None,
    hdu: int | str | None = None,
) -> FitsWcs:
    """The celestial WCS of a FITS header: `FitsWcs` by another name.

    Parameters
    ----------
    header : mapping
        FITS header.
    xy0 : (float, float)
        Parent coordinates of the array's first pixel.
    path, hdu : optional
        Where the header came from, for messages.

    Raises
    ------
    MissingWcsError
        If the header has no celestial axes.
    WcsError
        If it has, but they cannot be used.
    """
    return FitsWcs(header, xy0, path, hdu)


def _wcs_cards(header: Mapping[str, Any], place: dict[str, Any]) -> fits.Header:
    """The cards that describe the primary WCS, made plain enough that astropy has nothing to remark on."""
    kept = fits.Header()
    for keyword, value in header.items():
        key = str(keyword).upper()
        if _TABLE_CARD.fullmatch(key):
            raise WcsError(
                f"the WCS has a lookup-table distortion ({key}), which is not supported",
                **place,
                fix="Fit the distortion with SIP or TPV polynomials and put those into the header",
            )
        if _WCS_CARD.fullmatch(key) and not isinstance(value, fits.card.Undefined) and value is not None:
            kept[key] = value
    for key in ("CUNIT1", "CUNIT2"):
        if str(kept.get(key, "")).strip().lower() in {"degree", "degrees"}:
            kept[key] = "deg"
    if "RADECSYS" in kept:
        kept.setdefault("RADESYS", kept["RADECSYS"])
        del kept["RADECSYS"]
    has_sip = "A_ORDER" in kept and "B_ORDER" in kept
    types = [str(kept.get(key, "")).strip() for key in ("CTYPE1", "CTYPE2")]
    if has_sip and all(t.endswith("TAN") for t in types):
        # Common (SCAMP, SWarp, astrometry.net): the coefficients are meant, the suffix was forgotten.
        kept["CTYPE1"], kept["CTYPE2"] = (f"{t}-SIP" for t in types)
    elif has_sip and not all(t.endswith("-SIP") for t in types):
        # TPV with left-over SIP cards (PTF): CTYPE says which of the two distortions is meant.
        for key in [k for k in kept if _SIP_CARD.fullmatch(k)]:
            del kept[key]
    return kept


def _build(header: fits.Header, place: dict[str, Any]) -> WCS:
    if not any(re.fullmatch(r"CTYPE\d", key) for key in header):
        raise _missing("no CTYPE cards", place)
    try:
        with _build_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header, fix=False)
            if wcs.naxis > 2:
                wcs = wcs.celestial
            wcs.wcs.fix()
            wcs.wcs.set()
    except (ValueError, KeyError, TypeError, fits.VerifyError) as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise WcsError(
            f"the WCS in the header cannot be used: {reason}",
            **place,
            fix="Repair the header's WCS cards, or leave this image out",
        ) from error
    if not wcs.has_celestial:
        raise _missing(f"the axes are {', '.join(repr(str(c)) for c in wcs.wcs.ctype)}", place)
    return wcs


def _missing(reason: str, place: dict[str, Any]) -> MissingWcsError:
    return MissingWcsError(
        f"the header has no celestial WCS ({reason})",
        **place,
        fix="Choose the HDU that has one, or solve the image's astrometry and write CTYPE, CRVAL, CRPIX and CD cards",
    )


def _celestial_frame(wcs: WCS, place: dict[str, Any]) -> BaseCoordinateFrame | None:
    """The frame of the world coordinates by the rules of the FITS standard; None for ICRS."""
    kind, system = str(wcs.wcs.lngtyp).strip(), str(wcs.wcs.radesys).strip().upper()
    equinox = float(wcs.wcs.equinox)
    if kind == "GLON":
        return Galactic()
    if kind != "RA":
        raise WcsError(
            f"celestial coordinates of type {kind!r} are not supported: RA and GLON are",
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
    raise WcsError(
        f"the reference system {system!r} is not supported: ICRS, FK5 and FK4 are",
        **place,
        key="RADESYS",
        fix="Convert the header's WCS to ICRS",
    )


def _rotation_to_icrs(frame: BaseCoordinateFrame | None) -> NDArray[np.float64] | None:
    """The matrix that takes vectors of a frame to ICRS; None where it is no mere rotation (FK4 has E-terms)."""
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


def _undistort(sip: Any, focal: FloatArray) -> FloatArray:
    """Solve p + (A, B)(p - CRPIX) = focal for the pixels p (0-based), by Newton's method; NaN where it fails."""
    origin: FloatArray = np.asarray(sip.crpix, dtype=np.float64) - 1
    terms = [np.asarray(sip.a if sip.a is not None else [[0.0]]), np.asarray(sip.b if sip.b is not None else [[0.0]])]
    slopes = [(polynomial.polyder(t, axis=0), polynomial.polyder(t, axis=1)) for t in terms]
    target = focal - origin
    u_, v_ = target[:, 0].copy(), target[:, 1].copy()
    open_ = np.flatnonzero(np.isfinite(u_) & np.isfinite(v_))
    for _ in range(50):
        u, v = u_[open_], v_[open_]
        ru = u + polynomial.polyval2d(u, v, terms[0]) - target[open_, 0]
        rv = v + polynomial.polyval2d(u, v, terms[1]) - target[open_, 1]
        j00, j01 = 1 + polynomial.polyval2d(u, v, slopes[0][0]), polynomial.polyval2d(u, v, slopes[0][1])
        j10, j11 = polynomial.polyval2d(u, v, slopes[1][0]), 1 + polynomial.polyval2d(u, v, slopes[1][1])
        det = j00 * j11 - j01 * j10
        du, dv = (j11 * ru - j01 * rv) / det, (j00 * rv - j10 * ru) / det
        u_[open_], v_[open_] = u - du, v - dv
        size = 1 + np.hypot(u, v)
        # A step that is not finite never becomes so again; the caller's round trip turns it into NaN.
        open_ = open_[np.isfinite(du) & np.isfinite(dv) & (np.hypot(du, dv) > 1e-13 * size)]
        if not len(open_):
            break
    pixels: FloatArray = np.column_stack([u_, v_]) + origin
    return pixels
