"""Catalogues of earlier injectors: LSST insertFakes (two generations), SynPipe and Obiwan."""

from __future__ import annotations

from typing import ClassVar, Literal

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

__all__ = ["InsertFakes", "Obiwan", "SynPipe"]

_NEW_MAG = r"(\w+?)_mag"
_OLD_MAG = r"(\w+?)magVar"


def _types(words: NDArray[np.str_], names: dict[str, str]) -> NDArray[np.str_]:
    """Translate source types; unknown ones are kept, so that validation names them."""
    return np.array([names.get(word.lower(), word) for word in words.tolist()], dtype=np.str_)


class InsertFakes(Dialect):
    """LSST insertFakes: radians, bulge and disk with semi-major axes, trails in pixels and radians.

    The older generation (``raJ2000, decJ2000, <band>magVar, BulgeHalfLightRadius, a_b, b_b, pa_bulge, ...``) has
    circularised half-light radii, uses the axes only for the axis ratio, and adds a bulge and a disk of equal flux.
    Without ``DiskHalfLightRadius`` the axes are treated as half-light axes.
    """

    name: ClassVar[str] = "insertfakes"
    looks_for: ClassVar[str] = "ra, dec (radians), sourceType and <band>_mag; or raJ2000, decJ2000 and <band>magVar"
    positions: ClassVar[Literal["deg", "rad"]] = "rad"

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has the columns of either generation."""
        names = list(columns)
        new = {"ra", "dec", "sourceType"} <= columns and bool(per_band(names, _NEW_MAG))
        old = {"raJ2000", "decJ2000"} <= columns and bool(per_band(names, _OLD_MAG) or per_band(names, _NEW_MAG))
        return new or old

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert to degrees and circularised half-light radii; position angles are kept."""
        old = "raJ2000" in source
        ra, dec = ("raJ2000", "decJ2000") if old else ("ra", "dec")
        bands = per_band(source.names, _OLD_MAG) or per_band(source.names, _NEW_MAG)
        require_band(source, bands, band)
        if "sourceType" in source:
            kind = _types(source.text("sourceType"), {"star": "Star", "galaxy": "BulgeDisk", "trail": "Trail"})
        else:
            sized = np.nan_to_num(source.numbers("a_d", "arcsec")) + np.nan_to_num(source.numbers("a_b", "arcsec")) > 0
            kind = np.where(sized, "BulgeDisk", "Star")
        out: Canonical = {
            "injection_id": source.ids("injection_id", "fakeId", "uniqueId", "id"),
            "ra": np.degrees(source.numbers(ra, "rad", strict=True)),
            "dec": np.degrees(source.numbers(dec, "rad", strict=True)),
            "source_type": kind,
        }
        for name, column in bands.items():
            out[f"mag_{name}"] = source.numbers(column, "mag", strict=True)
        # Decided by columns, not values: chunks of a large file must all get the same columns.
        galaxies = bool((kind == "BulgeDisk").any())
        if galaxies or {"disk_semimajor", "bulge_semimajor", "a_d", "a_b"} & set(source.names):
            fraction = self._bulge_fraction(source, list(bands), band, old) if galaxies else np.full(len(kind), np.nan)
            out["bulge_fraction"] = fraction
            for part in ("bulge", "disk"):
                radius, q, pa, n = self._component(source, part, old)
                out[f"{part}_half_light_radius"] = radius
                out |= {f"{part}_q": q, f"{part}_pa": pa, f"{part}_n": n}
        trail = kind == "Trail"
        if trail.any() or "trail_length" in source:
            out["trail_length_pix"] = np.where(trail, source.numbers("trail_length", "pix", strict=True), np.nan)
            angle = np.degrees(source.numbers("trail_angle", "rad", strict=True))
            out["trail_angle_pix"] = np.where(trail, angle, np.nan)
            out["mag_per_pixel"] = trail
        return out

    @staticmethod
    def _component(source: Source, part: str, old: bool) -> tuple[NDArray[np.float64], ...]:
        """Return circularised half-light radius, axis ratio, position angle and index of bulge or disk."""
        n = source.numbers(f"{part}_n")
        if not old or f"{part}_semimajor" in source:
            major = source.numbers(f"{part}_semimajor", "arcsec", strict=True)
            q = source.numbers(f"{part}_axis_ratio")
            return major * np.sqrt(q), q, source.numbers(f"{part}_pa", "deg", strict=True), n
        letter, word = ("b", "Bulge") if part == "bulge" else ("d", "Disk")
        a = source.numbers(f"a_{letter}", "arcsec", strict=True)
        b = source.numbers(f"b_{letter}", "arcsec", strict=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            q = b / a
        named = f"{word}HalfLightRadius"
        radius = source.numbers(named, "arcsec", strict=True) if named in source else np.sqrt(a * b)
        return radius, q, source.numbers(f"pa_{part}", "deg", strict=True), n

    @staticmethod
    def _bulge_fraction(source: Source, bands: list[str], band: str | None, old: bool) -> NDArray[np.float64]:
        """Return B/T from a fraction or the ratio B/D, per band or for all bands."""
        fractions = per_band(source.names, r"(\w+?)_bulge_flux_fraction")
        ratios = per_band(source.names, r"(\w+?)_bulge_disk_flux_ratio")
        for table, is_ratio in ((fractions, False), (ratios, True)):
            wanted = band if band is not None else (bands[0] if len(bands) == 1 else None)
            if wanted in table:
                value = source.numbers(table[wanted])
                return value / (1.0 + value) if is_ratio else value
        if "bulge_disk_flux_ratio" in source:
            ratio = source.numbers("bulge_disk_flux_ratio")
            return ratio / (1.0 + ratio)
        if (fractions or ratios) and not old:
            raise source.error(
                "the bulge's share of the flux is given per band, and no band is asked for",
                key="band",
                fix="Read one band at a time, with band=",
            )
        return np.full(len(source), 0.5)


class SynPipe(Dialect):
    """HSC SynPipe: single Sersic (``reff, sersic_n, b_a, theta``) or double (the same with 1 and 2, and ``b2t``).

    Half-light radii are circularised, theta is North through East. SynPipe truncated its profiles at a multiple of the
    radius that is not in the catalogue; here they are not truncated.
    """

    name: ClassVar[str] = "synpipe"
    looks_for: ClassVar[str] = "ID, RA, DEC (or Dec) and mag"

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has SynPipe's positions (in capitals) and one magnitude."""
        return {"ID", "RA", "mag"} <= columns and bool({"DEC", "Dec"} & columns)

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Name the magnitude after its band; rows without a radius are stars."""
        if band is None:
            raise source.error(
                "the column 'mag' does not say which band it is of", key="mag", fix="Give the band, with band="
            )
        reff = source.numbers("reff", "arcsec", strict=True)
        double = source.numbers("reff1", "arcsec", strict=True)
        kind = np.where(np.nan_to_num(double) > 0, "BulgeDisk", np.where(np.nan_to_num(reff) > 0, "Sersic", "Star"))
        out: Canonical = {
            "injection_id": source.ids("ID"),
            "ra": source.numbers("RA", "deg", strict=True),
            "dec": source.numbers("DEC" if "DEC" in source else "Dec", "deg", strict=True),
            "source_type": kind,
            f"mag_{band}": source.numbers("mag", "mag", strict=True),
        }
        if "reff" in source:
            out |= {
                "n": source.numbers("sersic_n"),
                "half_light_radius": reff,
                "q": source.numbers("b_a"),
                "pa": source.numbers("theta", "deg", strict=True),
            }
        if "reff1" in source:
            out["bulge_fraction"] = source.numbers("b2t")
            for part, number, radius in (
                ("bulge", 1, double),
                ("disk", 2, source.numbers("reff2", "arcsec", strict=True)),
            ):
                out[f"{part}_half_light_radius"] = radius
                out[f"{part}_q"] = source.numbers(f"b_a{number}")
                out[f"{part}_pa"] = source.numbers(f"theta{number}", "deg", strict=True)
                out[f"{part}_n"] = source.numbers(f"sersic_n{number}")
        return out


class Obiwan(Dialect):
    """Obiwan: nanomaggies per band and Tractor shapes; or the older randoms, with magnitudes.

    The radius is the half-light *semi-major* axis, e = (1 - q) / (1 + q), and half of atan2(e2, e1) is the position
    angle North through East (https://www.legacysurvey.org/dr9/catalogs/#ellipticities). A row without a radius or an
    index is a star. The older randoms (``rhalf, n, e1, e2`` and magnitudes ``g, r, z``) have the same meaning, that of
    Obiwan's Tractor engine. Obiwan applies Galactic extinction to its magnitudes; here it is not applied.
    """

    name: ClassVar[str] = "obiwan"
    looks_for: ClassVar[str] = (
        "ra, dec, flux_<band>, sersic, shape_r, shape_e1 and shape_e2; or ra, dec, rhalf, n, e1, e2 and g, r or z"
    )
    # Tables of Tractor have the parallaxes of Gaia, without the motions that go with them.
    means_otherwise: ClassVar[frozenset[str]] = frozenset({"parallax"})

    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether the table has fluxes and Tractor's shape columns, or those of the older randoms."""
        new = {"ra", "dec", "sersic", "shape_r", "shape_e1", "shape_e2"} <= columns
        old = {"ra", "dec", "rhalf", "n", "e1", "e2"} <= columns
        return (new and bool(per_band(list(columns), r"flux_(\w+)"))) or (old and bool({"g", "r", "z"} & columns))

    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert nanomaggies (zeropoint 22.5) to magnitudes, and ellipticity to axis ratio and angle."""
        old = "rhalf" in source and "shape_r" not in source
        bands = per_band(source.names, r"([grz])" if old else r"flux_(?!ivar)([^\W_]+)")
        require_band(source, bands, band)
        radius, index, e1, e2 = ("rhalf", "n", "e1", "e2") if old else ("shape_r", "sersic", "shape_e1", "shape_e2")
        major = np.nan_to_num(source.numbers(radius, "arcsec", strict=True))
        n = source.numbers(index)
        q, pa = shape_from_g(source.numbers(e1), source.numbers(e2))
        extended = (major > 0) & (n != 0)
        out: Canonical = {
            "injection_id": source.ids("injection_id", "id", "objid"),
            "ra": source.numbers("ra", "deg", strict=True),
            "dec": source.numbers("dec", "deg", strict=True),
            "source_type": np.where(extended, "Sersic", "Star"),
        }
        for name, column in bands.items():
            out[f"mag_{name}"] = (
                source.numbers(column, "mag", strict=True) if old else magnitude(source.numbers(column, "nmgy"), 22.5)
            )
        out |= {
            "n": np.where(extended, n, np.nan),
            "half_light_radius": np.where(extended, major * np.sqrt(q), np.nan),
            "q": np.where(extended, q, np.nan),
            "pa": np.where(extended, pa, np.nan),
        }
        return out
