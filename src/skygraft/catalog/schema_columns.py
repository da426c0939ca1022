"""The columns of the canonical schema: names, units, meanings, allowed values and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import shown

__all__ = [
    "COLUMNS",
    "LEAST_INCLINED_TRUNCATION",
    "LEAST_TRUNCATION",
    "MOFFAT_RANGE",
    "SERSIC_RANGE",
    "SOURCE_TYPES",
    "SPERGEL_RANGE",
    "TYPE_ALIASES",
    "VARIABILITIES",
    "ColumnSpec",
]

SOURCE_TYPES = (
    *("Star", "Sersic", "BulgeDisk", "Gaussian", "Moffat", "Trail", "Stamp"),
    *("Spergel", "InclinedExponential", "InclinedSersic", "Kolmogorov", "RandomKnots", "RealGalaxy"),
)
VARIABILITIES: dict[str, tuple[str, ...]] = {
    "sine": ("period", "amplitude"),
    "top_hat": ("light_curve_mjd", "duration"),
    "flare": ("light_curve_mjd", "amplitude", "decay_time"),
}
"""Analytic light curves, and the columns that each needs; see `skygraft.timedomain.analytic`."""
TYPE_ALIASES = {"DoubleSersic": "BulgeDisk"}
"""Other names of source types, and what they become."""
SERSIC_RANGE = (0.3, 6.2)  # what GalSim and LSST source_injection draw
MOFFAT_RANGE = (1.5, 100.0)  # below, much of the light is outside of any stamp; above, it is a Gaussian
SPERGEL_RANGE = (-0.85, 4.0)  # what GalSim draws

LEAST_INCLINED_TRUNCATION = 1.45  # over the half-light radius: nearer to a flat disk GalSim fails
LEAST_TRUNCATION = 2**0.5 * (1.0 - 1e-9)  # over the half-light radius: a flat disk, but for rounding


@dataclass(frozen=True)
class ColumnSpec:
    """One column of the canonical schema.

    Parameters
    ----------
    name : str
    kind : {"float", "int", "str", "bool"}
        Stored as float64, int64, str or bool.
    unit : str or None
        astropy unit string.
    doc : str
        Meaning.
    default : object
        Value of an absent column, or of missing elements.
    low, high : float
        Allowed range, including both ends unless `open_low`.
    open_low : bool
        `low` itself is not allowed.
    least, sane : float
        Smallest and largest plausible values within the range; others are a mistake (another unit, an overflow).
    types : tuple of str
        Source types that the range applies to; empty means all.
    required : bool
        Rows of `types` must have a finite value.
    choices : tuple of str
        Allowed values of a str column.
    """

    name: str
    kind: Literal["float", "int", "str", "bool"]
    unit: str | None
    doc: str
    default: Any
    low: float = -np.inf
    high: float = np.inf
    open_low: bool = False
    least: float = 0.0
    sane: float = np.inf
    types: tuple[str, ...] = ()
    required: bool = False
    choices: tuple[str, ...] = ()

    def clip(self, array: NDArray[Any]) -> NDArray[Any]:
        """Move values back into the range that left it only by rounding in single precision.

        This applies to dimensionless numbers only: q = b / a of equal numbers may be 1.0000001, next to 1 in single
        precision.
        """
        if self.unit is not None or array.dtype.kind != "f":
            return array
        outside = (array < self.low) | (array > self.high)
        if not outside.any():
            return array
        bound = np.where(array < self.low, self.low, self.high)
        return np.where(outside & (np.abs(array - bound) <= np.abs(bound) * _ROUNDING), bound, array)

    def fails(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values are out of range, or missing although required, as booleans."""
        below = array <= self.low if self.open_low else array < self.low
        bad: NDArray[np.bool_] = below | (array > self.high) | np.isinf(array) | (np.abs(array) > self.sane)
        if self.least:
            bad |= array < self.least
        return bad | np.isnan(array) if self.required else bad

    def allowed(self, value: float) -> str:
        """Return the allowed range in words, for a message about a bad value."""
        unit = f" {self.unit}" if self.unit else ""
        if self.sane < abs(value) < np.inf:
            return f"within {shown(self.sane)}{unit}, the largest that is taken for meant"
        if self.low < value < self.least:
            return f"{shown(self.least)}{unit} or more, the smallest that is plausible"
        if np.isfinite(self.high):
            return f"in {'(' if self.open_low else '['}{shown(self.low)}, {shown(self.high)}]{unit}"
        at_least = f" and {'>' if self.open_low else '>='} {shown(self.low)}" if np.isfinite(self.low) else ""
        return f"finite{at_least}{unit}"


_NAN = float("nan")
_ROUNDING = 2.0**-23  # of single precision
_TEN_DEGREES = 36000.0  # arcsec
_TINY = 1e-9  # arcsec
_THIN = 1e-4  # axis ratio
_MOTION = 1e7  # mas / yr
_RATE = 1e8  # arcsec / h, faster than any satellite
_EPOCH = 2e5  # d, the year 2406: Julian dates and seconds are larger
_TURNS = 3600.0  # deg; angles may go around some times
_SERSIC = ("Sersic",)
_BULGE = ("BulgeDisk",)
_ELLIPSES = ("Sersic", "Gaussian", "Moffat", "Spergel", "Kolmogorov", "RandomKnots")
_INCLINED = ("InclinedExponential", "InclinedSersic")
_DRAWN_BY_PA = (*_ELLIPSES, *_INCLINED, "RealGalaxy")


def _component(name: str, index: float) -> list[ColumnSpec]:
    return [
        ColumnSpec(
            f"{name}_half_light_radius", "float", "arcsec", f"Circularised half-light radius of the {name}.", _NAN,
            low=0.0, open_low=True, least=_TINY, sane=_TEN_DEGREES, types=_BULGE, required=True,
        ),
        ColumnSpec(
            f"{name}_q", "float", None, f"Axis ratio b/a of the {name}.", 1.0,
            low=0.0, high=1.0, open_low=True, least=_THIN, types=_BULGE,
        ),
        ColumnSpec(
            f"{name}_pa", "float", "deg", f"Position angle of the {name}, North through East.", 0.0, sane=_TURNS,
            types=_BULGE,
        ),
        ColumnSpec(
            f"{name}_n", "float", None, f"Sersic index of the {name}.", index,
            low=SERSIC_RANGE[0], high=SERSIC_RANGE[1], types=_BULGE,
        ),
    ]  # fmt: skip


_SPECS = [
    ColumnSpec("injection_id", "int", None, "Unique number of the source; sums are made in its order.", -1),
    ColumnSpec(
        "ra", "float", "deg", "Right ascension, ICRS, at `epoch_mjd`.", _NAN, low=0.0, high=360.0, required=True
    ),
    ColumnSpec("dec", "float", "deg", "Declination, ICRS, at `epoch_mjd`.", _NAN, low=-90.0, high=90.0, required=True),
    ColumnSpec("source_type", "str", None, "What to draw: " + ", ".join(SOURCE_TYPES) + ".", "", choices=SOURCE_TYPES),
    ColumnSpec(
        "n", "float", None, "Sersic index.", _NAN,
        low=SERSIC_RANGE[0], high=SERSIC_RANGE[1], types=(*_SERSIC, "InclinedSersic"), required=True,
    ),
    ColumnSpec(
        "moffat_beta", "float", None, "Exponent of a Moffat, I ~ (1 + (r / r_d)^2)^-beta.", _NAN,
        low=MOFFAT_RANGE[0], high=MOFFAT_RANGE[1], types=("Moffat",), required=True,
    ),
    ColumnSpec(
        "half_light_radius", "float", "arcsec", "Circularised half-light radius sqrt(ab), of the truncated profile; "
        "of an inclined disk that of the disk seen face-on.", _NAN, low=0.0, open_low=True, least=_TINY,
        sane=_TEN_DEGREES, types=(*_ELLIPSES, *_INCLINED), required=True,
    ),
    ColumnSpec(
        "q", "float", None, "Axis ratio b/a.", 1.0, low=0.0, high=1.0, open_low=True, least=_THIN, types=_ELLIPSES
    ),
    ColumnSpec(
        "pa", "float", "deg", "Position angle of the major axis, North through East; a RealGalaxy is turned by it.",
        0.0, sane=_TURNS, types=_DRAWN_BY_PA,
    ),
    ColumnSpec(
        "bulge_fraction", "float", None, "Bulge flux over total flux.", _NAN,
        low=0.0, high=1.0, types=_BULGE, required=True,
    ),
    *_component("bulge", 4.0),
    *_component("disk", 1.0),
    ColumnSpec(
        "trunc", "float", "arcsec", "Truncation radius of a Sersic, of an InclinedSersic in its plane; NaN for none.",
        _NAN, low=0.0, open_low=True, least=_TINY, sane=1e9, types=(*_SERSIC, "InclinedSersic"),
    ),
    ColumnSpec(
        "spergel_nu", "float", None, "Index of a Spergel profile (2010): 0.5 is an exponential, -0.6 close to n = 4.",
        _NAN, low=SPERGEL_RANGE[0], high=SPERGEL_RANGE[1], types=("Spergel",), required=True,
    ),
    ColumnSpec(
        "inclination", "float", "deg", "Inclination of a disk: 0 is face-on, 90 edge-on.", _NAN,
        low=0.0, high=90.0, types=_INCLINED, required=True,
    ),
    ColumnSpec(
        "scale_h_over_r", "float", None, "Scale height of an inclined disk, sech(z / h)^2, over the scale "
        "radius r_s of its profile, exp(-(r / r_s)^(1 / n)).", 0.1, low=0.0, high=1.0, open_low=True, types=_INCLINED,
    ),
    ColumnSpec(
        "n_knots", "int", None, "Number of point sources of a RandomKnots.", 0,
        low=1.0, sane=1e6, types=("RandomKnots",), required=True,
    ),
    ColumnSpec(
        "real_galaxy_catalog", "str", None, "Path of GalSim's catalogue of a RealGalaxy, relative to the catalogue's "
        "folder.", "",
    ),
    ColumnSpec(
        "real_galaxy", "int", None, "Row of a RealGalaxy in its catalogue, from 0.", -1,
        low=0.0, types=("RealGalaxy",), required=True,
    ),
    ColumnSpec(
        "shear", "float", None, "Reduced gravitational shear |g| of the source.", 0.0, low=0.0, high=0.999,
    ),
    ColumnSpec(
        "shear_pa", "float", "deg", "Direction in which the shear stretches, North through East.", 0.0, sane=_TURNS
    ),
    ColumnSpec(
        "magnification", "float", None, "Factor of a source's flux, and of an extended source's area, by lensing; the "
        "magnitudes are those before it.", 1.0, low=0.0, open_low=True, sane=1e6,
    ),
    ColumnSpec(
        "trail_length", "float", "arcsec", "Length of the trail on the sky, of a source of any type; lensing leaves "
        "it alone.", _NAN,
        low=0.0, open_low=True, sane=_TEN_DEGREES, types=("Trail",),
    ),
    ColumnSpec(
        "trail_pa", "float", "deg", "Direction of the trail, North through East.", 0.0, sane=_TURNS, types=("Trail",)
    ),
    ColumnSpec(
        "trail_length_pix", "float", "pix", "Length of the trail in pixels of the image (LSST catalogues).", _NAN,
        low=0.0, open_low=True, sane=1e6, types=("Trail",),
    ),
    ColumnSpec(
        "trail_angle_pix", "float", "deg", "Direction of the trail in the image, from +x towards +y.", 0.0,
        sane=_TURNS, types=("Trail",),
    ),
    ColumnSpec(
        "mag_per_pixel", "bool", None, "The magnitude is that of one pixel of the trail's length, not the total.", False
    ),
    ColumnSpec("stamp", "str", None, "Path of the stamp's image: FITS, HDF5 or Zarr.", ""),
    ColumnSpec(
        "stamp_alignment", "str", None, "Follow the stamp's own WCS, or keep the image's axes and pixels; by "
        "default the WCS, if it has one.", "",
        choices=("", "wcs", "pixel"),
    ),
    ColumnSpec(
        "stamp_psf", "str", None, "Convolve the stamp with the image's PSF (the default), or with none: it "
        "holds a PSF already.", "",
        choices=("", "image", "none"),
    ),
    ColumnSpec(
        "stamp_index", "int", None, "Number of the stamp in a cube, or in a file of several, from 0; -1 for a "
        "file of one.", -1,
        low=-1.0,
    ),
    ColumnSpec(
        "stamp_rotation", "float", "deg", "Angle by which the stamp is turned on the sky, from North towards East.",
        0.0, sane=_TURNS, types=("Stamp",),
    ),
    ColumnSpec(
        "stamp_flux", "str", None, "Take the flux from the row's magnitude (the default), or from the stamp's "
        "pixels.", "",
        choices=("", "row", "stamp"),
    ),
    ColumnSpec(
        "stamp_zeropoint", "float", "mag", "AB magnitude of one unit of the stamp's pixels, for `stamp_flux` stamp.",
        _NAN, sane=100.0,
    ),
    ColumnSpec("object_id", "int", None, "Number of the object that the row belongs to; -1 for one of its own.", -1),
    ColumnSpec("group_id", "int", None, "Number of the group of objects that it belongs to; -1 for none.", -1),
    ColumnSpec("host_id", "int", None, "Injection id, or number in another catalogue, of its host; -1 for none.", -1),
    ColumnSpec(
        "mjd_from", "float", "d", "Only on images whose mid-exposure is at this time (MJD, TAI) or later.", _NAN,
        sane=_EPOCH,
    ),
    ColumnSpec(
        "mjd_to", "float", "d", "Only on images whose mid-exposure is before this time (MJD, TAI).", _NAN, sane=_EPOCH
    ),
    ColumnSpec(
        "light_curve", "str", None, "Id of its light curve in the table of light curves, which then gives its flux.", ""
    ),
    ColumnSpec(
        "light_curve_key", "int", None, "Number of the light curve, from its values; campaigns add it.",
        -1, low=-1.0,
    ),
    ColumnSpec(
        "variability", "str", None, "Analytic light curve.", "", choices=("", *VARIABILITIES),
    ),
    ColumnSpec(
        "light_curve_mjd", "float", "d", "Time (MJD, TAI) of a light curve's zero of time.", _NAN, sane=_EPOCH
    ),
    ColumnSpec("time_delay", "float", "d", "Time by which the light curve is seen later.", 0.0, sane=_EPOCH),
    ColumnSpec("period", "float", "d", "Period of a sine.", _NAN, low=0.0, open_low=True, sane=_EPOCH),
    ColumnSpec("phase", "float", None, "Phase of a sine at its zero of time, in periods.", 0.0, sane=1e6),
    ColumnSpec("amplitude", "float", "mag", "Semi-amplitude of a sine, or brightening of a flare.", _NAN, sane=100.0),
    ColumnSpec("duration", "float", "d", "Length of a top hat.", _NAN, low=0.0, open_low=True, sane=_EPOCH),
    ColumnSpec("rise_time", "float", "d", "Time of a flare's linear rise.", 0.0, low=0.0, sane=_EPOCH),
    ColumnSpec("decay_time", "float", "d", "Time of a flare's decay by e.", _NAN, low=0.0, open_low=True, sane=_EPOCH),
    ColumnSpec(
        "inject_into", "str", None, "Which images have the source: science images, templates (coadds), or both; empty "
        "is both, and science of a difference image.", "", choices=("", "science", "template", "both"),
    ),
    ColumnSpec("pm_ra_cosdec", "float", "mas / yr", "Proper motion in ra, times cos(dec).", 0.0, sane=_MOTION),
    ColumnSpec("pm_dec", "float", "mas / yr", "Proper motion in dec.", 0.0, sane=_MOTION),
    ColumnSpec(
        "parallax", "float", "mas", "Parallax; `ra` and `dec` are then seen from the barycentre.", 0.0,
        low=0.0, sane=1e4,
    ),
    ColumnSpec(
        "rate_ra_cosdec", "float", "arcsec / h", "Rate in ra, times cos(dec); it leaves a trail.", 0.0, sane=_RATE
    ),
    ColumnSpec("rate_dec", "float", "arcsec / h", "Rate in dec; it leaves a trail.", 0.0, sane=_RATE),
    ColumnSpec(
        "epoch_mjd", "float", "d", "Time (MJD, TAI) at which the source is at (ra, dec).", _NAN, sane=_EPOCH
    ),
    *(
        ColumnSpec(
            f"bend_{end}_{axis}", "float", "arcsec", f"Curvature of the way {toward} at the {which} of a piece of an "
            "ephemeris, from `mjd_from` to `mjd_to` (see `skygraft.catalog.motion`).", 0.0, sane=_TEN_DEGREES,
        )
        for end, which in (("from", "beginning"), ("to", "end"))
        for axis, toward in (("east", "to the East"), ("north", "to the North"))
    ),
    ColumnSpec("visit", "int", None, "The only visit to inject into; -1 for all.", -1, low=-1.0),
    ColumnSpec(
        "draw_size", "int", "pix", "Largest side of the stamp of an extended source; 0 for as large as needed.", 0,
        low=0.0, sane=1e5,
    ),
    ColumnSpec("flags", "int", None, "Bits, see `skygraft.catalog.flags`.", 0),
]  # fmt: skip

COLUMNS: dict[str, ColumnSpec] = {spec.name: spec for spec in _SPECS}
"""All canonical columns by name, except ``mag_<band>`` (AB magnitudes, NaN if the source is not in the band)."""
