"""Dialects of skygraft's own columns, and of LSST source_injection, which is similar."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.dialects.base import Canonical, Dialect, Source, read_columns, require_band, shape_from_g
from skygraft.catalog.schema import COLUMNS, TYPE_ALIASES, is_mag_column, unit_of

__all__ = ["Lsst", "Native"]


def usual_types(kind: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return source types with other names of them replaced, such as DoubleSersic."""
    for other, usual in TYPE_ALIASES.items():
        if (kind == other).any():
            kind = np.where(kind == other, usual, kind)
    return kind


class Native(Dialect):
    """The canonical schema itself; units in the table's metadata are converted."""

    name: ClassVar[str] = "native"
    looks_for: ClassVar[str] = "ra, dec, source_type and mag_<band> (or light_curve)"
    keeps_extra_columns: ClassVar[bool] = True

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has positions, a type and a magnitude per band, or light curves."""
        shines = any(is_mag_column(name) for name in columns) or ("light_curve" in columns and "mag" not in columns)
        return {"ra", "dec", "source_type"} <= columns and shines

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert the columns to the schema's units."""
        bands = {name.removeprefix("mag_"): name for name in source.names if is_mag_column(name)}
        if "light_curve" not in source:  # which may have other bands
            require_band(source, bands, band)
        source.refuse_other_capitals(COLUMNS)
        out: Canonical = {
            "injection_id": source.ids("injection_id"),
            "ra": source.numbers("ra", "deg"),
            "dec": source.numbers("dec", "deg"),
            "source_type": usual_types(source.text("source_type")),
            "flags": source.integers("flags"),
        }
        out |= {name: source.numbers(name, "mag") for name in bands.values()}
        out |= read_columns(source, [name for name in COLUMNS if name in source and name not in out])
        if "trunc" in out:
            out["trunc"] = np.where(out["trunc"] == 0, np.nan, out["trunc"])
        return out


# GalSim classes that are Sersic profiles of a fixed index.
_FIXED_INDEX = {"Exponential": 1.0, "DeVaucouleurs": 4.0}
# What GalSim calls parameters of its Spergel and RandomKnots.
_GALSIM_NAMES = {"spergel_nu": "nu", "n_knots": "npoints"}
_HLR_OF_SIGMA = float(np.sqrt(2.0 * np.log(2.0)))  # Gaussian


class Lsst(Dialect):
    """LSST source_injection: one band, ``beta`` from East to North, trails in pixels with a magnitude per pixel.

    The exponent of a Moffat is the column ``moffat_beta``, as in the schema.
    """

    name: ClassVar[str] = "lsst"
    looks_for: ClassVar[str] = "ra, dec, source_type and mag (no mag_<band>)"
    keeps_extra_columns: ClassVar[bool] = True
    consumed: ClassVar[frozenset[str]] = frozenset({"mag", "beta", "fwhm", "sigma", "g1", "g2", "nu", "npoints"})

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has positions, a type, and one magnitude without a band."""
        return {"ra", "dec", "source_type", "mag"} <= columns and not any(is_mag_column(name) for name in columns)

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert beta to position angles, and name the magnitude after its band; trails stay in pixels."""
        if band is None:
            raise source.error(
                "the column 'mag' does not say which band it is of",
                key="mag",
                fix="Give the band, as in read_catalog(path, band='r'), or rename the column to mag_r",
            )
        source.refuse_other_capitals({*COLUMNS, *self.consumed})
        kind = source.text("source_type").astype("U32")
        n, radius = source.numbers("n", ""), source.numbers("half_light_radius", "arcsec")
        for name, index in _FIXED_INDEX.items():
            n[kind == name] = index
            kind[kind == name] = "Sersic"
        kind[kind == "DeltaFunction"] = "Star"
        kind = usual_types(kind)
        gaussian = (kind == "Gaussian") & np.isnan(radius)
        radius = np.where(gaussian, source.numbers("fwhm", "arcsec") / 2.0, radius)
        gaussian &= np.isnan(radius)
        radius = np.where(gaussian, source.numbers("sigma", "arcsec") * _HLR_OF_SIGMA, radius)
        if (kind == "Moffat").any() and "moffat_beta" not in source:
            raise source.error(
                "there are Moffats, but no column 'moffat_beta': 'beta' is the position angle in this dialect",
                key="moffat_beta",
                fix="Add the Moffats' exponents in a column moffat_beta",
            )
        q, beta = self._shape(source)
        trail = kind == "Trail"
        out: Canonical = {
            "injection_id": source.ids("injection_id"),
            "ra": source.numbers("ra", "deg"),
            "dec": source.numbers("dec", "deg"),
            "source_type": np.array(kind.tolist(), dtype=np.str_),
            f"mag_{band}": source.numbers("mag", "mag"),
        }
        # Decided by columns, not values: chunks of a large file must all get the same columns.
        if {"half_light_radius", "fwhm", "sigma"} & set(source.names) or (kind == "Sersic").any():
            out |= {"n": n, "half_light_radius": radius, "q": q, "pa": np.where(trail, np.nan, (90.0 - beta) % 180.0)}
        if "moffat_beta" in source:
            out["moffat_beta"] = source.numbers("moffat_beta", "")
        for name, own in _GALSIM_NAMES.items():
            if own in source and name not in source:
                whole = COLUMNS[name].kind == "int"
                out[name] = source.integers(own) if whole else source.numbers(own, unit_of(name))
        if "trunc" in source:
            trunc = source.numbers("trunc", "arcsec")
            # GalSim's Gaussian has no index.
            out["trunc"] = np.where((trunc == 0) | (kind == "Gaussian"), np.nan, trunc)
        if "trail_length" in source:
            # Length and angle are in pixels: only the renderer, which has the image's WCS, can convert them.
            out["trail_length_pix"] = source.numbers("trail_length", "pix", strict=True)
            out["trail_angle_pix"] = np.where(trail, beta, np.nan)
            out["mag_per_pixel"] = trail
        return out

    @staticmethod
    def _shape(source: Source) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return axis ratio and beta, from q and beta or from a shear as in GalSim."""
        q, beta = source.numbers("q", ""), source.numbers("beta", "deg")
        if {"g1", "g2"} <= set(source.names):
            q_g, beta_g = shape_from_g(source.numbers("g1", ""), source.numbers("g2", ""))
            beta = np.where(np.isnan(q) & np.isnan(beta), beta_g, beta)
            q = np.where(np.isnan(q), q_g, q)
        return q, beta
