"""Catalogues of simulators: skyCatalogs (cosmoDC2 and diffsky galaxies, point sources), romanisim and CatSim."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.dialects.base import (
    Canonical,
    Dialect,
    Source,
    magnitude,
    per_band,
    require_band,
    shape_from_g,
)

__all__ = ["CatSim", "RomanIsim", "SkyCatalogs"]

_MAGNORM = "magnorm"
Array = NDArray[np.float64]


class SkyCatalogs(Dialect):
    """skyCatalogs galaxies and point sources.

    Angles and ellipticities are in GalSim's sky frame, u towards West and v towards North: a position angle PA (North
    through East) is at 90 + PA degrees from u, and an ellipticity (e1, e2), e = (1 - q) / (1 + q), or a shear, is that
    of an ellipse whose major axis is at atan2(e2, e1) / 2 from u. Sizes are circularised, and lensed with ``shear_1``,
    ``shear_2`` and ``convergence``, as in skyCatalogs' own GalSim objects; the flux of knots is added to the disk.

    The files contain only ``magnorm``, the AB magnitude of the spectrum at 500 nm, which becomes the band "magnorm"
    (summed over components). If columns ``mag_<band>`` were joined to the file, these are the only bands.
    """

    name: ClassVar[str] = "skycatalogs"
    looks_for: ClassVar[str] = (
        "galaxy_id, ra, dec with size_bulge_true and size_disk_true or diskHalfLightRadiusArcsec; "
        "or id, ra, dec, object_type and magnorm"
    )
    # Sizes and magnitudes are lensed already, from shear_1, shear_2 and convergence.
    means_otherwise: ClassVar[frozenset[str]] = frozenset({"magnification", "shear", "shear_pa", "parallax"})

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has the columns of galaxies or of point sources."""
        galaxies = {"galaxy_id", "ra", "dec"} <= columns and (
            {"size_bulge_true", "size_disk_true"} <= columns or "diskHalfLightRadiusArcsec" in columns
        )
        return galaxies or {"id", "ra", "dec", "object_type", "magnorm"} <= columns

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert to bulge and disk with lensed shapes, or to stars."""
        stars = "galaxy_id" not in source
        out: Canonical = {
            "injection_id": source.ids("id" if stars else "galaxy_id"),
            "ra": source.numbers("ra", "deg", strict=True),
            "dec": source.numbers("dec", "deg", strict=True),
            "source_type": np.full(len(source), "Star" if stars else "BulgeDisk"),
        }
        if stars:
            fluxes = {"total": self._flux(source, "magnorm")}
        else:
            fluxes = {part: self._flux(source, f"{part}_magnorm") for part in ("bulge", "disk", "knots")}
        total = np.asarray(sum(fluxes.values()), dtype=np.float64)
        g1, g2, mu = self._lens(source)
        mags = per_band(source.names, r"mag_(\w+)")
        if band is not None and not mags and band != _MAGNORM:
            raise source.error(
                f"the file has no magnitudes in band {band!r}, only magnorm (the spectrum at 500 nm)",
                key="band",
                fix=f"Join a column mag_{band} to the file, or use band='magnorm' to take the spectrum as flat",
            )
        if mags:
            require_band(source, mags, band)
            out |= {f"mag_{name}": source.numbers(column, "mag", strict=True) for name, column in mags.items()}
        else:
            out[f"mag_{_MAGNORM}"] = magnitude(total * mu, 0.0)
        if stars:
            return out
        if "bulge_fraction" in source:
            out["bulge_fraction"] = source.numbers("bulge_fraction")
        elif {"bulge_magnorm", "disk_magnorm"} <= set(source.names):
            with np.errstate(invalid="ignore", divide="ignore"):
                out["bulge_fraction"] = np.where(total > 0, fluxes["bulge"] / total, 0.0)
        else:
            raise source.error(
                "the file does not say how the flux is shared between bulge and disk",
                key="bulge_fraction",
                fix="Join a column bulge_fraction to the file",
            )
        for part, word in (("bulge", "spheroid"), ("disk", "disk")):
            radius, e1, e2 = self._component(source, part, word)
            q, angle = shape_from_g(*_compose(e1, e2, g1, g2))
            out[f"{part}_half_light_radius"] = radius * np.sqrt(mu)
            out[f"{part}_q"] = q
            out[f"{part}_pa"] = (angle - 90.0) % 180.0
            out[f"{part}_n"] = source.numbers(f"sersic_{part}", default=4.0 if part == "bulge" else 1.0)
        return out

    @staticmethod
    def _flux(source: Source, column: str) -> Array:
        """Return 10**(-0.4 m), zero where the component is missing (magnorm infinite)."""
        mag = source.numbers(column, "mag", strict=True)
        return np.where(np.isfinite(mag), 10.0 ** (-0.4 * np.where(np.isfinite(mag), mag, 0.0)), 0.0)

    @staticmethod
    def _lens(source: Source) -> tuple[Array, Array, Array]:
        """Return reduced shear and magnification."""
        first, second = ("shear1", "shear2") if "shear1" in source else ("shear_1", "shear_2")
        gamma1, gamma2 = source.numbers(first, default=0.0), source.numbers(second, default=0.0)
        rest = 1.0 - source.numbers("convergence", default=0.0)
        return gamma1 / rest, gamma2 / rest, 1.0 / (rest**2 - gamma1**2 - gamma2**2)

    @staticmethod
    def _component(source: Source, part: str, word: str) -> tuple[Array, Array, Array]:
        """Return circularised radius and ellipticity (in GalSim's frame) before lensing."""
        if f"{word}HalfLightRadiusArcsec" in source:
            radius = source.numbers(f"{word}HalfLightRadiusArcsec", "arcsec", strict=True)
            return radius, source.numbers(f"{word}Ellipticity1"), source.numbers(f"{word}Ellipticity2")
        major = source.numbers(f"size_{part}_true", "arcsec", strict=True)
        minor = source.numbers(f"size_minor_{part}_true", "arcsec", strict=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            e = (major - minor) / (major + minor)
        twice = 2.0 * np.radians(90.0 + source.numbers("position_angle_unlensed", "deg", strict=True))
        return np.sqrt(major * minor), e * np.cos(twice), e * np.sin(twice)


def _compose(e1: Array, e2: Array, g1: Array, g2: Array) -> tuple[Array, Array]:
    """Apply a reduced shear: e' = (e + g) / (1 + g* e), e.g. Bartelmann & Schneider 2001, eq. 4.12."""
    e, g = e1 + 1j * e2, g1 + 1j * g2
    sheared = (e + g) / (1.0 + np.conj(g) * e)
    return sheared.real, sheared.imag


class RomanIsim(Dialect):
    """romanisim: ``type`` PSF or SER, circularised radii, fluxes in maggies in columns named by the filter."""

    name: ClassVar[str] = "romanisim"
    looks_for: ClassVar[str] = "ra, dec, type, n, half_light_radius, pa, ba, and a flux column such as F158"

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has romanisim's shape columns."""
        return {"ra", "dec", "type", "n", "half_light_radius", "pa", "ba"} <= columns

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert maggies to magnitudes; shapes are kept."""
        bands = per_band(source.names, r"([FW]\d{3})") | per_band(source.names, r"(PRISM|GRISM)")
        if band is not None and band in source:
            bands |= {band: band}
        require_band(source, bands, band)
        if not bands:
            raise source.error("there is no flux column such as F158", fix="Name the flux column, with band=")
        kinds = {"PSF": "Star", "SER": "Sersic"}
        kind = np.array([kinds.get(word, word) for word in source.text("type").tolist()], dtype=np.str_)
        galaxy = kind == "Sersic"
        out: Canonical = {
            "injection_id": source.ids("injection_id", "id"),
            "ra": source.numbers("ra", "deg", strict=True),
            "dec": source.numbers("dec", "deg", strict=True),
            "source_type": kind,
        }
        out |= {f"mag_{name}": magnitude(source.numbers(column, "mgy"), 0.0) for name, column in bands.items()}
        for name, column, unit in (
            ("n", "n", ""),
            ("half_light_radius", "half_light_radius", "arcsec"),
            ("q", "ba", ""),
            ("pa", "pa", "deg"),
        ):
            out[name] = np.where(galaxy, source.numbers(column, unit, strict=True), np.nan)
        return out


class CatSim(Dialect):
    """LSST CatSim galaxies: half-light axes of bulge and disk, ``<band>_ab``, and the ratio of normalising fluxes.

    The Sersic indices are not in the file; they are 4 and 1, as in CatSim.
    """

    name: ClassVar[str] = "catsim"
    looks_for: ClassVar[str] = "ra, dec, a_b, b_b, a_d, b_d, fluxnorm_bulge, fluxnorm_disk and <band>_ab"
    means_otherwise: ClassVar[frozenset[str]] = frozenset({"magnification", "shear", "shear_pa", "parallax"})

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has CatSim's axes, normalisations and magnitudes."""
        needed = {"ra", "dec", "a_b", "b_b", "a_d", "b_d", "fluxnorm_bulge", "fluxnorm_disk"}
        return needed <= columns and bool(per_band(list(columns), r"(\w)_ab"))

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert to circularised radii and one bulge fraction for all bands; position angles are kept."""
        bands = per_band(source.names, r"(\w)_ab")
        require_band(source, bands, band)
        bulge, disk = (np.nan_to_num(source.numbers(f"fluxnorm_{part}", None)) for part in ("bulge", "disk"))
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = np.where(bulge + disk > 0, bulge / (bulge + disk), 0.0)
        out: Canonical = {
            "injection_id": source.ids("injection_id", "galtileid", "id"),
            "ra": source.numbers("ra", "deg", strict=True),
            "dec": source.numbers("dec", "deg", strict=True),
            "source_type": np.full(len(source), "BulgeDisk"),
        }
        out |= {f"mag_{name}": source.numbers(column, "mag", strict=True) for name, column in bands.items()}
        out["bulge_fraction"] = fraction
        for part, letter, index in (("bulge", "b", 4.0), ("disk", "d", 1.0)):
            a, b = (source.numbers(f"{axis}_{letter}", "arcsec", strict=True) for axis in "ab")
            with np.errstate(invalid="ignore", divide="ignore"):
                out[f"{part}_q"] = b / a
            out[f"{part}_half_light_radius"] = np.sqrt(a * b)
            out[f"{part}_pa"] = source.numbers(f"pa_{part}", "deg", strict=True)
            out[f"{part}_n"] = np.full(len(source), index)
        return out
