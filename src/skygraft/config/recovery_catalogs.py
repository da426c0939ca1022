"""The section ``recovery: catalogs:`` of a campaign's YAML file: detections of a pipeline of one's own."""

from __future__ import annotations

import re
import string
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from skygraft.config.yaml_schema import Name, PositiveFloat, Section, base_dir
from skygraft.paths import home_expanded

__all__ = ["PLACES", "CatalogColumnMap", "RecoveryCatalogs"]

PLACES = ("file", "folder", "stem", "image_id", "visit", "detector", "band", "tract", "patch", "instrument")
"""What a path may have in braces: the name of the image's file without its ending, its folder beneath the root of the
survey, and columns of the plan."""

_FORM = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?0?[0-9]{0,2}[a-z]?")
"""How a number or text is written; no wider than the name of a file can be."""


def _template(path: str, info: ValidationInfo) -> str:
    """Make the path of a template absolute, and refuse braces that stand for nothing known."""
    try:
        parts = [(name, form or "") for _, name, form, _ in string.Formatter().parse(path) if name is not None]
    except ValueError as error:
        raise ValueError(f"{path!r} is not a path with names in braces ({error})") from None
    unknown = [name for name, _ in parts if name not in PLACES]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACES)
        raise ValueError(f"{{{unknown[0]}}} stands for nothing; known are {known}")
    if odd := next((f"{{{name}:{form}}}" for name, form in parts if not _FORM.fullmatch(form)), None):
        raise ValueError(f"{odd} is not a form of a name; write it like {{visit:07d}}")
    return str(base_dir(info) / home_expanded(path))


Template = Annotated[str, Field(min_length=1), AfterValidator(_template)]


class CatalogColumnMap(Section):
    """Names of the columns of a catalogue that no other kind describes."""

    ra: Name | None = None
    """Right ascension: degrees, unless the file or `units` says otherwise."""
    dec: Name | None = None
    """Declination: degrees, unless the file or `units` says otherwise."""
    x: Name | None = None
    """Column on the image, used where there is no right ascension; the first pixel's centre is 1, as in FITS."""
    y: Name | None = None
    """Row on the image; the first pixel's centre is 1, as in FITS."""
    mag: Name | None = None
    """AB magnitude."""
    flux: Name | None = None
    """Flux: in the unit that the file or `units` says (nJy, uJy, nanomaggy), else in image units, or by `zeropoint`."""
    error: Name | None = None
    """Error of the magnitude or flux, in its unit."""
    class_star: Name | None = None
    """Star classifier, 1 for a star and 0 for a galaxy."""
    size: Name | None = None
    """Half-light radius: arcsec, unless the file or `units` says otherwise."""
    fwhm: Name | None = None
    """Full width at half maximum: arcsec, unless the file or `units` says otherwise."""
    flags: Name | None = None
    """Flags, a whole number."""
    id: Name | None = None
    """Number of the detection."""

    @model_validator(mode="after")
    def _positions(self) -> Self:
        if (self.ra is None) != (self.dec is None) or (self.x is None) != (self.y is None):
            raise ValueError("ra and dec belong together, and so do x and y")
        if self.ra is None and self.x is None:
            raise ValueError("name the columns of positions: ra and dec, or x and y")
        if self.mag is not None and self.flux is not None:
            raise ValueError("name mag or flux, not both")
        if self.error is not None and self.mag is None and self.flux is None:
            raise ValueError("error is that of mag or flux: name one of them")
        return self


class RecoveryCatalogs(Section):
    """Catalogues that the survey's own pipeline made of the injected images, in place of detections by skygraft."""

    injected: Template
    """Catalogue of the injected images: a file for each image, such as ``cats/{file}.cat``, for each tract or patch, or
    one for all (a folder of Parquet files, too). In braces may be file (the image's, without its ending), folder, stem,
    image_id, visit, detector, band, tract, patch, instrument."""
    original: Template | None = None
    """The same of the images before injection. Without it nothing says which fakes lie on a real source."""
    kind: Literal["auto", "lsst", "afw", "sextractor", "tractor", "columns"] = "auto"
    """What made it; ``auto`` recognises it by its columns."""
    hdu: int | str | None = None
    """HDU of the table, in a FITS file with several."""
    columns: CatalogColumnMap | None = None
    """Names of the columns, where nothing else describes them."""
    units: dict[str, str] = Field(default_factory=dict)
    """Units of columns whose unit the file does not say, such as ``{RA: rad}``."""
    frame: Literal["icrs", "fk5", "fk4", "galactic"] | None = None
    """Frame of the positions, where the file does not say: by default ICRS."""
    zeropoint: Annotated[float, Field(allow_inf_nan=False)] | Literal["image"] | None = None
    """AB magnitude of one unit of the catalogue's fluxes (Source Extractor's MAG_ZEROPOINT), or ``image`` for the
    calibration of the image."""
    band: Name | None = None
    """The image's band as the catalogue's columns name it, if they name it otherwise."""
    calibrated: Name | None = None
    """Column of the flux or magnitude that the calibration is about (``flux_cal`` and ``mag_cal``)."""
    phot_apertures: tuple[PositiveFloat, ...] = ()
    """Diameters of Source Extractor's apertures in pixels, as its PHOT_APERTURES, where the file does not say."""
    duplicate_arcsec: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2
    """Detections closer than this are one."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind == "columns" and self.columns is None:
            raise ValueError("kind: columns needs columns:, the names of the columns")
        if self.columns is not None and self.kind not in ("auto", "columns"):
            raise ValueError(f"columns: applies to kind: columns, not to kind: {self.kind}")
        if self.injected == self.original:
            raise ValueError("injected and original are the same catalogue")
        return self
