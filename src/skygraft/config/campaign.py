"""The configuration of a campaign: one YAML file, which is checked completely before anything runs.

Relative paths are relative to the file. All problems are reported together, each with its key and line and, for an
unknown key, the nearest known one. The resolved configuration (paths absolute, defaults filled in) can be written and
read back unchanged. Every key is described where it is declared; ``CampaignConfig.model_json_schema()`` lists them all.
"""

from __future__ import annotations

import json
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, model_validator

from skygraft.config.cluster import AnyCluster
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.config.recovery import RecoveryConfig
from skygraft.config.yaml_schema import (
    BASE_DIR,
    Flag,
    Name,
    PositiveFloat,
    PositiveInt,
    ResolvedPath,
    Section,
    base_dir,
    config_error,
    describe_problems,
    read_yaml,
)
from skygraft.conventions import Conventions, check_conventions
from skygraft.errors import ConfigError, SkygraftError
from skygraft.photometry import parse_radius
from skygraft.render.engines import stored_galaxy_engine, stored_star_engine
from skygraft.skymap import get_skymap

if TYPE_CHECKING:
    from skygraft.injection import InjectionOptions

__all__ = [
    "ButlerConfig",
    "CalibrationConfig",
    "CampaignConfig",
    "CatalogConfig",
    "InjectionConfig",
    "SurveyConfig",
    "load_config",
    "parse_config",
]


def _radius(value: Any) -> Any:
    if value is not None:
        parse_radius(value)
    return value


def _format(value: str) -> str:
    if value != "auto":
        # Formats take long to import; `skygraft status` does not need them.
        from skygraft.formats import get_format

        get_format(value)
    return value


def _column_map(value: dict[str, str]) -> dict[str, str]:
    from skygraft.catalog.column_maps import check_map

    check_map(value)
    return value


def _expression(value: str) -> str:
    from skygraft.catalog.row_choice import check_expression

    return check_expression(value)


def _skymap(value: Any) -> Any:
    get_skymap(value)
    return value


# Any, not a union: pydantic reports one problem for each member of a union.
Radius = Annotated[Any, AfterValidator(_radius)]
FormatName = Annotated[str, AfterValidator(_format)]
SkyMapSpec = Annotated[Any, AfterValidator(_skymap)]


class CalibrationConfig(Section):
    """Calibration that the images do not record, or record wrongly."""

    aperture: Radius = None
    """What calibrated fluxes are the flux of: an aperture's radius (``12 pix``, ``2 arcsec``) or diameter
    (``{diameter: 4 arcsec}``), ``psf_model`` or ``total``."""
    zeropoint: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """AB magnitude of a source with a flux of one image unit."""
    unit: str | None = None
    """Unit of the image's pixels; only together with `zeropoint`."""
    gain: PositiveFloat | None = None
    """Electrons per image unit."""
    psf: Any = None
    """PSFEx file of each image, relative to the image, such as ``{stem}.psf``, where ``{stem}`` and ``{name}`` are
    those of the image file; or one model for all images, such as ``{kind: moffat, fwhm: 0.9 arcsec}``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.unit is not None and self.zeropoint is None:
            raise ValueError("unit is given without zeropoint; give both or neither")
        if isinstance(self.psf, Mapping):
            if self.psf.get("kind") == "psfex":
                raise ValueError("psf: for a PSFEx model give the name of its file, such as '{stem}.psf'")
            from skygraft.formats.given import make_psf

            make_psf(self.psf, 1.0)
        elif self.psf is not None and not isinstance(self.psf, str):
            raise ValueError(f"psf is {self.psf!r}; the name of a file or a mapping with a kind is needed")
        self.psf_of(Path("image.fits"))
        return self

    def psf_of(self, image: Path) -> Path | dict[str, Any] | None:
        """Return the PSF of an image.

        Parameters
        ----------
        image : Path
            Path of the image file.

        Returns
        -------
        Path, dict or None
            Path of the PSFEx file, or the model; None if the image's own PSF is used.
        """
        if not isinstance(self.psf, str):
            model: dict[str, Any] | None = self.psf
            return model
        stem = image.name.removesuffix(".fz").removesuffix(".gz")
        try:
            parts = list(string.Formatter().parse(self.psf))
        except ValueError as error:
            raise ValueError(f"psf is {self.psf!r}; only {{stem}} and {{name}} can stand in it ({error})") from error
        given = {None: "", "stem": Path(stem).stem, "name": image.name}
        odd = [field for _, field, form, conversion in parts if field not in given or form or conversion]
        if odd:
            raise ValueError(f"psf is {self.psf!r}; only {{stem}} and {{name}} can stand in it, not {odd[0]!r}")
        return image.parent / "".join(text + given[field] for text, field, _, _ in parts)

    def photo_calib(self) -> dict[str, Any] | None:
        """Return the calibration that replaces the image's own, as `read_exposure` takes it; None if there is none."""
        if self.zeropoint is None:
            return None
        given: dict[str, Any] = {"zeropoint": self.zeropoint}
        return given if self.unit is None else given | {"unit": self.unit}


def _repository(text: str, info: ValidationInfo) -> str:
    # Imported here: a configuration without a repository does not need it.
    from skygraft.survey.butler import repository

    return repository(text, base_dir(info))


def _collections(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class ButlerConfig(Section):
    """Images in a Butler repository, and where the outputs are registered in it."""

    repo: Annotated[Name, AfterValidator(_repository)]
    """Repository: its folder, the URI of its ``butler.yaml``, or a name in ``DAF_BUTLER_REPOSITORIES``."""
    collections: Annotated[tuple[Name, ...], BeforeValidator(_collections), Field(min_length=1)]
    """Collections to search, in order, as a list or as text separated by commas."""
    dataset_type: Name
    """Dataset type of the images."""
    where: str = ""
    """Expression of the Butler that selects data ids."""
    schema_type: Name | None = None
    """Dataset type of the source catalogues' schema, which records the calibration aperture of calexps."""
    output_run: Name | None = None
    """Run collection to register the outputs in, as datasets; by default they are not registered."""
    output_repo: Annotated[Name, AfterValidator(_repository)] | None = None
    """Repository of `output_run`, by default `repo`; dimension records that it lacks are copied to it."""
    output_type: Name | None = None
    """Dataset type of the outputs; by default ``injected_`` followed by `dataset_type`."""
    transfer: Literal["direct", "copy", "link", "hardlink", "symlink", "relsymlink"] = "direct"
    """How the repository stores the files: in place (``direct``), or as copies or links in its own folder."""

    @property
    def repo_written(self) -> str:
        """Repository that the outputs are registered in."""
        return self.output_repo or self.repo

    @property
    def type_written(self) -> str:
        """Dataset type of the outputs."""
        return self.output_type or f"injected_{self.dataset_type}"

    @model_validator(mode="after")
    def _outputs_apart(self) -> Self:
        same = self.repo_written == self.repo and self.type_written == self.dataset_type
        if same and self.output_run in self.collections:
            raise ValueError("output_run is one of the collections and output_type that of the images; change either")
        if self.output_run is None and (self.output_repo or self.output_type or self.transfer != "direct"):
            raise ValueError(
                "output_repo, output_type and transfer apply to outputs that are registered: give output_run too"
            )
        return self

    def query(self) -> dict[str, Any]:
        """Return the mapping that `skygraft.survey.butler.ButlerQuery.from_spec` takes."""
        return {
            "repo": self.repo,
            "collections": list(self.collections),
            "dataset_type": self.dataset_type,
            "where": self.where,
            "schema_type": self.schema_type,
        }


class SurveyConfig(Section):
    """Which images to inject into: exactly one of `images`, `ccds`, `butler` and `index`."""

    root: ResolvedPath = Path()
    """Folder that `images` and the layout of the outputs are relative to; by default that of the file."""
    images: str | tuple[str, ...] | None = None
    """Glob pattern of the image files (``**`` allowed), or a list of them."""
    ccds: str | None = None
    """Table of CCDs in the layout of the Legacy Surveys."""
    butler: ButlerConfig | None = None
    """Images in a Butler repository."""
    index: str | None = None
    """Parquet file written by ``skygraft index -o``, relative to `root`; the headers are then not read again."""
    format: FormatName = "auto"
    """Name of the image format; ``auto`` recognises it."""
    calibration: CalibrationConfig = CalibrationConfig()
    """Calibration that the images do not record, or record wrongly."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the format for reading images."""
    role: Literal["auto", "science", "template"] = "auto"
    """What the images are in a search for transients: a source may be meant for ``science`` images or for templates
    alone (`inject_into`). ``auto`` takes coadds for templates."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(way is not None for way in (self.images, self.ccds, self.butler, self.index)) != 1:
            raise ValueError(
                "give exactly one of images (a glob pattern), ccds (a table), butler (a repository) and index (a file "
                "of skygraft index)"
            )
        if self.index is not None and (self.format != "auto" or self.options):
            raise ValueError("format and options cannot be combined with index, which has them for every image")
        return self

    def spec(self) -> dict[str, Any]:
        """Return the mapping that `skygraft.survey.index_images` takes."""
        spec: dict[str, Any] = {"format": self.format, "options": dict(self.options)}
        if self.images is not None:
            spec["images"] = self.images if isinstance(self.images, str) else list(self.images)
        elif self.ccds is not None:
            spec["ccds"] = self.ccds
        elif self.butler is not None:
            spec["butler"] = self.butler.query()
        else:
            spec["index"] = self.index
        return spec


class CatalogConfig(Section):
    """Which sources to inject."""

    path: ResolvedPath
    """File or folder of the catalogue."""
    dialect: str = "auto"
    """Name of the catalogue's dialect, its convention for columns; ``auto`` recognises it."""
    band: Name | None = None
    """Band of the magnitudes in a catalogue with a single ``mag`` column."""
    on_bad: Literal["raise", "flag"] = "raise"
    """Rows that cannot be drawn are an error (``raise``), or are flagged and not drawn (``flag``)."""
    columns: Annotated[dict[str, str], AfterValidator(_column_map)] = Field(default_factory=dict)
    """Names of the catalogue's columns by those of the native schema, such as ``{ra: RAJ2000}``; a value that begins
    with ``=`` is one value for all rows, such as ``{source_type: =Star}``."""
    select: Annotated[str, AfterValidator(_expression)] = ""
    """Which rows an image gets, as an expression of columns, of the image's ``visit``, ``band``, ``detector`` and
    ``mjd``, and of ``mag`` in the image's band, such as ``mag_r < 24 and mjd > 60000``."""
    light_curves: ResolvedPath | None = None
    """Table of light curves: id, mjd, band, and mag or flux."""
    ephemerides: ResolvedPath | None = None
    """Table of ephemerides: id, mjd, ra, dec, and optionally mag."""


class InjectionConfig(Section):
    """How the sources are drawn; each key is an option of `skygraft.injection.InjectionOptions`."""

    flux_mode: Literal["calibrated", "aperture", "psf_sum", "total"] = "calibrated"
    """What a source's flux is the flux of: the image's own calibration reference, the flux inside `aperture`, the sum
    of the PSF kernel, or the total flux in an infinite plane."""
    aperture: Radius = None
    """Aperture for ``flux_mode: aperture``, such as ``12 pix``, ``2 arcsec`` or ``{diameter: 4 arcsec}``."""
    position: Literal["source", "image"] = "source"
    """Where the PSF is normalised: at each source, or at the average position of the image."""
    noise: Flag = True
    """Add the photon noise of the sources."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """Seed of the noise."""
    gain: PositiveFloat | None = None
    """Electrons per image unit; by default the image's own, or fitted to its variance."""
    coadd_noise: Literal["correlated", "white"] = "correlated"
    """Photon noise in coadds: correlated between pixels like the coadd's own noise, or white."""
    flux_tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3
    """Fraction of a source's flux that may fall outside its stamp."""
    mask_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """The mask plane INJECTED marks pixels that change by more than this fraction of their noise."""
    mark_injected: Flag = True
    """Add the mask planes INJECTED and INJECTED_CORE."""
    stars: Annotated[Literal["precise", "fast", "galsim", "fourier", "taps"], AfterValidator(stored_star_engine)] = (
        "fourier"
    )
    """How stars are shifted by fractions of a pixel: to single precision, faster, or by GalSim. ``fourier`` and
    ``taps`` are earlier names of ``precise`` and ``fast``, which are stored so that campaigns keep their records."""
    galaxies: Annotated[Literal["fast", "precise", "galsim", "fourier"], AfterValidator(stored_galaxy_engine)] = (
        "fourier"
    )
    """How Sérsic profiles are drawn: fast, more precisely, or by GalSim. ``fourier`` is an earlier name of ``fast``."""
    conventions: Conventions = "skygraft"
    """Conventions to draw sources by; those of ``lsst_source_injection`` reproduce that package's pixels."""
    variance: Flag | None = None
    """Add the sources' variance to the variance plane; by default as `noise`."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ValueError(
                "flux_mode: aperture and an aperture belong together; to say what the images are calibrated to, "
                "use survey.calibration.aperture"
            )
        settings = self.model_dump()
        try:
            check_conventions(settings, {name: field.default for name, field in type(self).model_fields.items()})
        except ConfigError as error:
            raise ValueError(f"{error.message}. {error.fix}") from None
        return self

    def options(self) -> InjectionOptions:
        """Return the options that `skygraft.inject` takes."""
        from skygraft.injection import InjectionOptions

        return InjectionOptions(**self.model_dump())


class CampaignConfig(Section):
    """A campaign: the content of its YAML file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the campaign."""
    survey: SurveyConfig
    """Which images to inject into."""
    catalog: CatalogConfig
    """Which sources to inject."""
    output: ResolvedPath
    """Folder for the outputs."""
    skymap: SkyMapSpec = "hsc_rings_v1"
    """Sky map whose tracts and patches divide the sky: a name, or a mapping with a ``kind``."""
    injection: InjectionConfig = InjectionConfig()
    """How the sources are drawn."""
    recovery: RecoveryConfig = RecoveryConfig()
    """How injected sources are detected and measured afterwards."""
    margin_arcsec: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """How far outside an image a source may lie and still be drawn on it, arcseconds."""
    cluster: AnyCluster = LocalConfig()
    """Where the tasks run: a kind of cluster, the address of a scheduler, the path of a profile, or a mapping."""
    task_seconds: PositiveFloat = 60.0
    """Intended length of a task, seconds."""
    images_per_task: PositiveInt = 100
    """Largest number of images in a task."""
    retries: Annotated[int, Field(ge=0, strict=True)] = 1
    """Number of further attempts for an image that failed for a reason that may be temporary, after all others."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.cluster.check_task(self.task_seconds)
        if self.survey.root.is_relative_to(self.output):
            raise ValueError(
                f"output is {str(self.output)!r}, a folder that the survey lies in; outputs would be mistaken for "
                "inputs. Name a folder of its own"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as JSON types, with absolute paths and defaults; `parse_config` reads it back."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        return dumped

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True)

    def pixel_settings(self) -> dict[str, Any]:
        """Return the settings that an image's pixels depend on.

        Paths are left out, so that a campaign can be moved: inputs are identified by content, or by size and time.

        Returns
        -------
        dict
            Dotted key to value, as JSON types.
        """
        resolved = self.resolved()
        parts = {
            "survey.calibration": resolved["survey"]["calibration"],
            "survey.format": resolved["survey"]["format"],
            "survey.options": resolved["survey"]["options"],
            "catalog.dialect": resolved["catalog"]["dialect"],
            "catalog.band": resolved["catalog"]["band"],
            "catalog.columns": sorted(resolved["catalog"]["columns"].items()),
            "catalog.select": resolved["catalog"]["select"],
            "survey.role": resolved["survey"]["role"],
            "injection": resolved["injection"],
            "margin_arcsec": resolved["margin_arcsec"],
        }
        butler = self.survey.butler
        if butler is not None and butler.output_run is not None:
            # The output files record which datasets they are.
            parts["survey.butler"] = {"output_run": butler.output_run, "output_type": butler.type_written}
        settings: dict[str, Any] = json.loads(json.dumps(dict(_flatten(parts))))
        return {key: value for key, value in settings.items() if (key, value) not in _LATER_SETTINGS}


_LATER_SETTINGS: tuple[tuple[str, Any], ...] = (
    ("injection.conventions", "skygraft"),
    ("injection.variance", None),
    ("catalog.columns", []),
    ("catalog.select", ""),
    ("survey.role", "auto"),
)
"""Settings added later: with these values they are left out, as in older records, since they change nothing."""


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        items += _flatten(inner, f"{name}.") if isinstance(inner, dict) else [(name, inner)]
    return items


def load_config(path: str | os.PathLike[str], *, butler: Mapping[str, Any] | None = None) -> CampaignConfig:
    """Read and check a campaign's YAML file.

    Parameters
    ----------
    path : path-like
        The file; relative paths in it are relative to its folder.
    butler : mapping, optional
        Keys of ``survey: butler:`` that replace those in the file; a ``repo`` among them also replaces other ways to
        list images.

    Returns
    -------
    CampaignConfig

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or anything in it is not allowed; all problems are named.
    """
    path = Path(path)
    content = read_yaml(path, "configuration")
    if butler and isinstance(content, Mapping):
        content = _with_butler(content, butler)
    return parse_config(content, base_dir=path.resolve().parent, path=path)


def _with_butler(content: Mapping[str, Any], butler: Mapping[str, Any]) -> dict[str, Any]:
    survey = content.get("survey")
    survey = dict(survey) if isinstance(survey, Mapping) else {}
    before = survey.get("butler")
    if "repo" in butler:
        survey = {key: value for key, value in survey.items() if key not in ("images", "ccds", "index")}
    elif before is None:
        raise ConfigError(
            f"{', '.join(butler)} applies to a Butler repository, and the campaign names none",
            key="survey.butler",
            fix="Name it: butler: {repo: ...} in survey, or --butler",
        )
    survey["butler"] = {**(before if isinstance(before, Mapping) else {}), **butler}
    return {**content, "survey": survey}


def _with_skymap(content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Replace a sky map that a Butler repository defines by its parameters, so that it is read only once."""
    skymap = content.get("skymap")
    if not isinstance(skymap, Mapping) or skymap.get("kind") != "butler":
        return dict(content)
    from skygraft.survey.butler import repository
    from skygraft.survey.butler_skymap import as_skymap

    survey = content.get("survey")
    butler = survey.get("butler") if isinstance(survey, Mapping) else None
    repo = skymap.get("repo") or (butler.get("repo") if isinstance(butler, Mapping) else None)
    return {**content, "skymap": as_skymap(skymap, repository(str(repo), base) if repo else None)}


def parse_config(
    content: Any, *, base_dir: str | os.PathLike[str] | None = None, path: str | os.PathLike[str] | None = None
) -> CampaignConfig:
    """Check a configuration given as a mapping.

    Parameters
    ----------
    content : mapping
        Content of the YAML file.
    base_dir : path-like, optional
        Folder that relative paths are relative to; by default the current one.
    path : path-like, optional
        Path of the file, for errors.

    Returns
    -------
    CampaignConfig

    Raises
    ------
    ConfigError
        If a key is unknown or missing, or a value is not allowed; all problems are named, and for an unknown key the
        nearest known one.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(
            "the configuration is empty"
            if content is None
            else f"the configuration is a {type(content).__name__}; a mapping is needed",
            path=path,
            fix="Start with name:, survey:, catalog: and output:",
        )
    base = Path(base_dir) if base_dir is not None else Path.cwd()
    content = _with_skymap(content, base)
    try:
        return CampaignConfig.model_validate(content, context={BASE_DIR: base.resolve()})
    except ValidationError as error:
        problems = describe_problems(error, CampaignConfig)
    except SkygraftError as error:
        # Pydantic does not catch errors that are not ValueErrors; name their key.
        problems = [(error.key or "configuration", error.message)]
    raise config_error(problems, "configuration", path)
