"""What a catalogue of fakes is made of: the keys of ``population.yaml``, strictly checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from skygraft.catalog.column_maps import nearest
from skygraft.catalog.schema import COLUMNS, SOURCE_TYPES
from skygraft.config.yaml_schema import (
    BASE_DIR,
    Flag,
    Name,
    PositiveFloat,
    PositiveInt,
    ResolvedPath,
    Section,
    config_error,
    describe_problems,
    read_yaml,
)
from skygraft.errors import ConfigError, SkygraftError
from skygraft.generation.distributions import AnyDistribution
from skygraft.generation.region import as_region

__all__ = [
    "AreaSpec",
    "AvoidMasks",
    "AvoidTable",
    "DepthSpec",
    "PopulationSpec",
    "PositionsSpec",
    "RealPopulation",
    "SourceSpec",
    "load_spec",
    "parse_spec",
]

LARGEST_ID = 2**63 - 1


def _arcsec(value: Any) -> float:
    """An angle in arcsec: a number, or text with a unit."""
    if isinstance(value, str):
        from astropy import units as u

        try:
            value = u.Quantity(value).to_value(u.arcsec)
        except (TypeError, ValueError, u.UnitsError) as error:
            raise ValueError(f"{value!r} is not an angle; give arcsec, or text such as '1.5 arcmin'") from error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not an angle; give arcsec, or text such as '1.5 arcmin'")
    return float(value)


def _separation(value: Any) -> Any:
    """Leave a number of FWHM as text; otherwise arcsec."""
    if isinstance(value, str) and value.strip().lower().endswith("fwhm"):
        number = value.strip()[: -len("fwhm")].strip()
        try:
            return f"{float(number):.17g} fwhm"
        except ValueError:
            raise ValueError(f"{value!r} is not a number of FWHM, such as '3 fwhm'") from None
    return _arcsec(value)


def _region(value: Any) -> Any:
    if value is not None:
        as_region(value)
    return value


Arcsec = Annotated[float, BeforeValidator(_arcsec), Field(ge=0, allow_inf_nan=False)]
Bands = Annotated[tuple[Name, ...], Field(min_length=1)]
RegionSpec = Annotated[Any, AfterValidator(_region)]


class AreaSpec(Section):
    """Where sources are put: the intersection of the given areas."""

    footprint: ResolvedPath | None = None
    """Images that show them: a campaign's YAML file or output folder, its plan, or an index (``skygraft index -o``)."""
    images_at_least: PositiveInt = 1
    """Number of images that must show a place."""
    image_bands: Bands | None = None
    """Bands of the images that count; by default all."""
    region: RegionSpec = None
    """A circle ``{ra, dec, radius}`` (degrees), ``{polygon: [[ra, dec], ...]}``, or ``{skymap, tract, patch}``."""
    moc: ResolvedPath | None = None
    """A coverage map (MOC): FITS, JSON or text."""
    density_map: ResolvedPath | None = None
    """A map of densities, HEALPix in FITS or healsparse: sources are as dense as its values, in relative terms, or in
    numbers per square arcminute if neither `n` nor `density` is given."""
    map_column: str | int | None = None
    """Column of the density map, by default the first."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.footprint is None and self.region is None and self.moc is None and self.density_map is None:
            raise ValueError("name an area: footprint, region, moc or density_map")
        if self.footprint is None and (self.images_at_least != 1 or self.image_bands is not None):
            raise ValueError("images_at_least and image_bands belong to a footprint")
        if self.density_map is None and self.map_column is not None:
            raise ValueError("map_column belongs to a density_map")
        return self


class AroundSpec(Section):
    """Positions to put sources around."""

    path: ResolvedPath
    """Table of them."""
    ra: Name = "ra"
    """Column of right ascensions: degrees, unless the file says otherwise."""
    dec: Name = "dec"
    """Column of declinations."""
    id: Name | None = None
    """Column of their numbers, which become `host_id`; by default the numbers of their rows, from 0."""
    radius: tuple[Arcsec, Arcsec] = (0.0, 0.0)
    """Inner and outer radius of the ring that sources are put in, uniformly by area; arcsec."""
    each: PositiveInt = 1
    """Sources around each."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.radius[0] > self.radius[1]:
            raise ValueError(f"radius is {list(self.radius)}; give the inner radius first")
        return self


class PositionsSpec(Section):
    """How positions are chosen within the area."""

    kind: Literal["uniform", "halton", "hexagonal", "around"] = "uniform"
    """Random; a Halton sequence, which leaves no gaps and makes no clumps; a hexagonal grid; around given positions."""
    separation: Annotated[float | str | None, BeforeValidator(lambda v: None if v is None else _separation(v))] = None
    """Smallest distance between sources: arcsec, text with a unit, or a number of FWHM of the images' PSF, such as
    ``3 fwhm``."""
    around: AroundSpec | None = None
    """Given positions, for ``kind: around``."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind == "around") != (self.around is not None):
            raise ValueError("kind: around and the section around belong together")
        if self.separation is not None and self.kind not in ("uniform", "hexagonal"):
            raise ValueError(f"a separation cannot be kept with kind: {self.kind}; use uniform or hexagonal")
        if isinstance(self.separation, (int, float)) and not 0 < self.separation < 3.6e5:
            raise ValueError(
                f"the separation is {self.separation:g} arcsec; it must be positive, and below 100 degrees"
            )
        if isinstance(self.separation, str) and not 0 < float(self.separation.split()[0]) < 1e4:
            raise ValueError(f"the separation is {self.separation}; a positive number of FWHM is needed")
        return self


class AvoidTable(Section):
    """Real sources to stay away from."""

    path: ResolvedPath
    """Table of them."""
    ra: Name = "ra"
    """Column of right ascensions: degrees, unless the file says otherwise."""
    dec: Name = "dec"
    """Column of declinations."""
    radius: Arcsec | None = None
    """Distance to keep from each, arcsec."""
    radius_column: Name | None = None
    """Column with the distance to keep, arcsec unless the file says otherwise."""
    mag: Name | None = None
    """Column of magnitudes, for `radius_by_mag`."""
    radius_by_mag: tuple[tuple[float, Arcsec], ...] | None = None
    """Distances by magnitude, such as ``[[12, 60], [16, 15], [20, 4]]``: log-linear between, none for fainter ones."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(way is not None for way in (self.radius, self.radius_column, self.radius_by_mag)) != 1:
            raise ValueError("give one of radius, radius_column and radius_by_mag")
        if (self.mag is None) != (self.radius_by_mag is None):
            raise ValueError("mag and radius_by_mag belong together")
        if self.radius_by_mag is not None:
            mags = [pair[0] for pair in self.radius_by_mag]
            if sorted(set(mags)) != mags or not all(pair[1] > 0 for pair in self.radius_by_mag):
                raise ValueError("radius_by_mag needs ascending magnitudes and positive radii")
        return self


class AvoidMasks(Section):
    """Mask planes of the images to stay away from; their pixels are read."""

    planes: tuple[Name, ...] | None = None
    """Mask planes; by default all that mark bad pixels."""
    grow: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    """Pixels by which they are grown."""
    on: Literal["any", "every"] = "any"
    """Whether a place is avoided if any image that shows it is masked there, or only if every one is."""


class AvoidSpec(Section):
    """Places where no source is put."""

    tables: tuple[AvoidTable, ...] = ()
    """Tables of real sources, such as detections, or bright stars."""
    masks: AvoidMasks | None = None
    """Mask planes of the images of the footprint."""


class DepthSpec(Section):
    """The depth of the images, for magnitudes relative to it."""

    m5: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """5 sigma magnitude by band; the depth of other bands is measured on the images."""
    of: Literal["mean", "deepest", "shallowest"] = "mean"
    """Of the images that show a place."""
    file: ResolvedPath | None = None
    """Parquet table that keeps what was measured (``image_id``, ``m5``, ``fwhm``), so that images are read once."""


class RealPopulation(Section):
    """A table of real or simulated sources, whose rows are drawn whole."""

    path: ResolvedPath
    """The table: a catalogue in any dialect (CatSim, skyCatalogs, ...), the fits of a GalSim COSMOS catalogue
    (``real_galaxy_catalog_*_fits.fits``), or any table with `columns`."""
    hdu: int | str | None = None
    """HDU of the table in a FITS file with several."""
    dialect: str = "auto"
    """Dialect of a catalogue; ``auto`` recognises it."""
    columns: dict[str, Name] = Field(default_factory=dict)
    """For any other table: its columns by those of the native schema, such as ``{mag_r: MAG_R, n: SERSIC_N}``; a value
    that begins with ``=`` is one for all rows, as in ``{n: =1}``."""
    bands: dict[str, Name] = Field(default_factory=dict)
    """For a band of the catalogue, the band of the table that gives it, such as ``{r: magnorm}``; by default the same
    name."""
    weight: Name | None = None
    """Column with how often each row is drawn, on any scale."""
    smooth: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Scatter added to rows, as a part of the population's own scatter and along its correlations: 0 draws rows as
    they are, 0.1 to 0.3 fills the gaps between them."""


class SourceSpec(Section):
    """One kind of sources."""

    type: Literal[SOURCE_TYPES] | None = None  # type: ignore[valid-type]
    """Type, such as Star or Sersic; by default that of each row of `population`, or Star without one."""
    fraction: PositiveFloat | None = None
    """Part of all sources, on any scale; by default what the others leave of 1, shared equally."""
    mag: AnyDistribution | None = None
    """Magnitudes in the first band of the catalogue; by default those of `population`."""
    mag_relative_to: Literal["depth"] | None = None
    """``depth``: `mag` is added to the 5 sigma depth of the images at each place."""
    colors: dict[str, AnyDistribution] = Field(default_factory=dict)
    """For the other bands, band minus first band; by default those of `population`, or zero."""
    columns: dict[str, AnyDistribution] = Field(default_factory=dict)
    """Other columns of the native schema: half_light_radius, n, q, pa, period, ..."""
    population: RealPopulation | None = None
    """Real sources whose properties are drawn jointly."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mag is None and self.population is None:
            raise ValueError("give mag, or a population that has magnitudes")
        for name, drawn in {"mag": self.mag, **{f"colors: {band}": one for band, one in self.colors.items()}}.items():
            some = getattr(drawn, "values", None) or (getattr(drawn, "value", None),)
            if any(isinstance(one, (str, bool)) for one in some):
                raise ValueError(f"{name} is {some[0]!r}; numbers are needed")
        if self.mag_relative_to is not None and self.mag is None:
            raise ValueError("mag_relative_to needs mag, the difference from the depth")
        for name in self.columns:
            if name not in COLUMNS:
                raise ValueError(
                    f"columns: there is no column {name!r} in the native schema. {nearest(name, COLUMNS)}".strip()
                )
            if name in ("injection_id", "ra", "dec", "source_type", "flags", "host_id"):
                raise ValueError(f"columns: {name} is set by the generator")
        return self


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not min_length, which counts items that are wrong as missing.
    if not value:
        raise ValueError("at least 1 kind of sources is needed")
    return value


class PopulationSpec(Section):
    """A catalogue to generate: the content of ``population.yaml``."""

    area: AreaSpec
    """Where sources are put."""
    sources: Annotated[tuple[SourceSpec, ...], AfterValidator(_not_empty)]
    """What sources there are."""
    bands: Bands | None = None
    """Bands of the catalogue, the first of which `mag` is in; by default those of the images."""
    n: PositiveInt | None = None
    """Number of sources."""
    density: PositiveFloat | None = None
    """Sources per square arcminute of the area."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Seed of all random numbers."""
    first_id: Annotated[int, Field(ge=0, strict=True)] = 0
    """First injection id; the others follow."""
    positions: PositionsSpec = PositionsSpec()
    """How positions are chosen."""
    avoid: AvoidSpec = AvoidSpec()
    """Places where no source is put."""
    depth: DepthSpec = DepthSpec()
    """The depth of the images."""
    object_ids: Flag = False
    """Give every source an `object_id` too, equal to its injection id."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.n is not None and self.density is not None:
            raise ValueError("n and density are both given; give one")
        free = self.positions.kind == "around" or self.area.density_map is not None or (
            self.positions.kind == "hexagonal" and self.positions.separation is not None
        )  # fmt: skip
        if self.n is None and self.density is None and not free:
            raise ValueError("give n, the number of sources, or density, their number per square arcminute")
        if self.n is not None and self.first_id + self.n - 1 > LARGEST_ID:
            raise ValueError(
                f"first_id {self.first_id} and {self.n} sources: ids would pass the largest of 64 bits, {LARGEST_ID}"
            )
        if self.area.density_map is not None and (
            self.positions.kind not in ("uniform", "halton") or self.positions.separation is not None
        ):
            raise ValueError(
                "a density_map sets how close sources are: use kind: uniform or halton, without a separation"
            )
        if self.bands is not None and len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands: {list(self.bands)} has one twice")
        if self.bands is None and self.area.footprint is None:
            raise ValueError("bands is missing: name the bands of the catalogue, as in bands: [g, r]")
        if self.area.footprint is None:
            if self.avoid.masks is not None:
                raise ValueError("avoid.masks needs the images of a footprint")
            if isinstance(self.positions.separation, str):
                raise ValueError("a separation in FWHM needs the images of a footprint")
            relative = any(source.mag_relative_to for source in self.sources)
            if relative and self.bands is not None and self.bands[0] not in self.depth.m5:
                raise ValueError(
                    f"magnitudes relative to the depth need the images of a footprint, or depth.m5 of {self.bands[0]}"
                )
        given = sum(source.fraction or 0.0 for source in self.sources)
        if any(source.fraction is None for source in self.sources) and given >= 1.0 and len(self.sources) > 1:
            raise ValueError("sources: the fractions that are given leave nothing for the others")
        return self

    def fractions(self) -> list[float]:
        """The part of each kind of sources, of sum 1."""
        given = [source.fraction for source in self.sources]
        missing = given.count(None)
        rest = (1.0 - sum(one or 0.0 for one in given)) / missing if missing else 0.0
        shares = [rest if one is None else one for one in given]
        return [share / sum(shares) for share in shares]


def load_spec(path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> PopulationSpec:
    """Read and check a ``population.yaml``.

    Parameters
    ----------
    path : path-like
        Relative paths in it are relative to its folder.
    changes : mapping, optional
        Keys that replace those of the file; mappings in it replace single keys of sections.

    Returns
    -------
    PopulationSpec

    Raises
    ------
    ConfigError
        If it cannot be read, or anything in it is not allowed; all problems are named, with their lines.
    """
    path = Path(path)
    content = read_yaml(path, "population")
    return parse_spec(content, changes, base_dir=path.resolve().parent, path=path)


def parse_spec(
    content: Any,
    changes: Mapping[str, Any] | None = None,
    *,
    base_dir: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> PopulationSpec:
    """Check the content of a ``population.yaml``, given as a mapping.

    Parameters
    ----------
    content : mapping
    changes : mapping, optional
        As in `load_spec`.
    base_dir : path-like, optional
        Folder that relative paths are relative to, by default the current one.
    path : path-like, optional
        The file, for errors.

    Returns
    -------
    PopulationSpec

    Raises
    ------
    ConfigError
        As `load_spec`.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"the population is {'empty' if content is None else 'a ' + type(content).__name__}; a mapping is needed",
            path=path,
            fix="Start with area:, sources:, bands: and n:",
        )
    merged = _changed(content, changes or {})
    base = Path(base_dir) if base_dir is not None else Path.cwd()
    try:
        return PopulationSpec.model_validate(merged, context={BASE_DIR: base.resolve()})
    except ValidationError as error:
        found = describe_problems(error, PopulationSpec)
        problems = [("population" if place == "configuration" else place, problem) for place, problem in found]
    except SkygraftError as error:  # not a ValueError, so pydantic does not catch it
        problems = [(error.key or "population", error.message)]
    raise config_error(problems, "population", path)


def _changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[key] = _changed(before, value) if both else value  # type: ignore[arg-type]
    if changes.get("n") is not None:
        merged.pop("density", None)
    elif changes.get("density") is not None:
        merged.pop("n", None)
    return merged
