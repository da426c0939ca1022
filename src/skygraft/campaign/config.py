"""The configuration of a campaign: one YAML file, checked whole before anything runs.

Relative paths are relative to the file. What is wrong is reported all at once, each problem with the place in the
file and, for an unknown key, the nearest known one. The resolved configuration (paths absolute, defaults filled in)
can be written out and read back unchanged.
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

from skygraft.campaign.clusters.config import ClusterConfig, as_cluster
from skygraft.campaign.sections import (
    BASE_DIR,
    Positive,
    ResolvedPath,
    Section,
    base_dir,
    describe_problems,
    problems_error,
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
    "ClusterConfig",
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
        # What reads and draws images is loaded where it is needed: the driver of a large campaign does without.
        from skygraft.formats import get_format

        get_format(value)
    return value


def _skymap(value: Any) -> Any:
    get_skymap(value)
    return value


# Any, not a union: of a union pydantic reports one problem for each member.
Radius = Annotated[Any, AfterValidator(_radius)]
FormatName = Annotated[str, AfterValidator(_format)]
SkyMapSpec = Annotated[Any, AfterValidator(_skymap)]


class CalibrationConfig(Section):
    """What the images do not say themselves, or say wrongly."""

    aperture: Radius = None
    """Calibration reference: ``12 pix``, ``2 arcsec``, ``{diameter: 4 arcsec}``, ``psf_model`` or ``total``."""
    zeropoint: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """AB magnitude of one image unit."""
    unit: str | None = None
    """Unit of the image; only together with `zeropoint`."""
    gain: Positive | None = None
    """Electrons per image unit."""
    psf: Any = None
    """PSFEx file of an image, relative to the image: ``{stem}.psf``, where ``{stem}`` and ``{name}`` are the image
    file's; or a model for all, such as ``{kind: moffat, fwhm: 0.9 arcsec}``."""

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
        """The PSF of an image, its file or its model; None where the image is to find its own."""
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
        """The calibration that replaces the image's own, as `read_exposure` takes it, or None."""
        if self.zeropoint is None:
            return None
        given: dict[str, Any] = {"zeropoint": self.zeropoint}
        return given if self.unit is None else given | {"unit": self.unit}


def _repository(text: str, info: ValidationInfo) -> str:
    # Here, so that whoever reads a configuration without a repository does not load what reads images.
    from skygraft.survey.butler import repository

    return repository(text, base_dir(info))


def _collections(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1)]


class ButlerConfig(Section):
    """Datasets of a Butler repository, and where the outputs are registered in it."""

    repo: Annotated[Name, AfterValidator(_repository)]
    """The repository: its folder, the URI of its ``butler.yaml``, or a name in ``DAF_BUTLER_REPOSITORIES``."""
    collections: Annotated[tuple[Name, ...], BeforeValidator(_collections), Field(min_length=1)]
    """Collections to search, in order; also as one text with commas between them."""
    dataset_type: Name
    """Name of the images' dataset type."""
    where: str = ""
    """Butler's expression that selects data ids."""
    schema_type: Name | None = None
    """Dataset type of the schema of the source catalogues, which records the calibration aperture of calexps."""
    output_run: Name | None = None
    """Run collection that the outputs are registered in, as datasets; by default they are not."""
    output_repo: Annotated[Name, AfterValidator(_repository)] | None = None
    """Repository that `output_run` is in, by default `repo`; records of dimensions that it lacks are copied to it."""
    output_type: Name | None = None
    """Their dataset type; by default ``injected_`` before `dataset_type`."""
    transfer: Literal["direct", "copy", "link", "hardlink", "symlink", "relsymlink"] = "direct"
    """How the repository takes the files: where they lie (direct), or as copies or links in its own folder."""

    @property
    def repo_written(self) -> str:
        """Repository of the outputs."""
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
                "output_repo, output_type and transfer are of outputs that are registered: give output_run too"
            )
        return self

    def query(self) -> dict[str, Any]:
        """The mapping that `skygraft.survey.butler.ButlerQuery.from_spec` takes."""
        return {
            "repo": self.repo,
            "collections": list(self.collections),
            "dataset_type": self.dataset_type,
            "where": self.where,
            "schema_type": self.schema_type,
        }


class SurveyConfig(Section):
    """Which images."""

    root: ResolvedPath = Path()
    """Folder that `images` and the outputs' layout are relative to; by default that of the file."""
    images: str | tuple[str, ...] | None = None
    """Glob pattern (``**`` allowed), or several."""
    ccds: str | None = None
    """Table of CCDs in the Legacy Surveys' layout."""
    butler: ButlerConfig | None = None
    """Datasets of a Butler repository."""
    index: str | None = None
    """Parquet file that ``skygraft index -o`` wrote, relative to `root`: the headers are not read again."""
    format: FormatName = "auto"
    """Name of the image format."""
    calibration: CalibrationConfig = CalibrationConfig()
    options: dict[str, Any] = Field(default_factory=dict)
    """Reading options of the format."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(way is not None for way in (self.images, self.ccds, self.butler, self.index)) != 1:
            raise ValueError(
                "give exactly one of images (a glob pattern), ccds (a table), butler (a repository) and index (a file "
                "of skygraft index)"
            )
        if self.index is not None and (self.format != "auto" or self.options):
            raise ValueError("format and options do not go with index, which says them for every image")
        return self

    def spec(self) -> dict[str, Any]:
        """The mapping that `skygraft.survey.index_images` takes."""
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
    """Which fake sources."""

    path: ResolvedPath
    dialect: str = "auto"
    band: Annotated[str, Field(min_length=1)] | None = None
    """Band of a catalogue with a single ``mag`` column."""
    on_bad: Literal["raise", "flag"] = "raise"
    """Whether rows that cannot be drawn are an error, or are kept, flagged and not drawn."""


class InjectionConfig(Section):
    """How the sources are drawn; each key is one of `skygraft.injection.InjectionOptions`."""

    flux_mode: Literal["calibrated", "aperture", "psf_sum", "total"] = "calibrated"
    aperture: Radius = None
    position: Literal["source", "image"] = "source"
    noise: Annotated[bool, Field(strict=True)] = True
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    gain: Positive | None = None
    coadd_noise: Literal["correlated", "white"] = "correlated"
    flux_tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3
    mask_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    mark_injected: Annotated[bool, Field(strict=True)] = True
    stars: Annotated[Literal["precise", "fast", "galsim", "fourier", "taps"], AfterValidator(stored_star_engine)] = (
        "fourier"
    )
    galaxies: Annotated[Literal["fast", "precise", "galsim", "fourier"], AfterValidator(stored_galaxy_engine)] = (
        "fourier"
    )
    conventions: Conventions = "skygraft"
    variance: Annotated[bool, Field(strict=True)] | None = None

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
        """The options that `skygraft.inject` takes."""
        from skygraft.injection import InjectionOptions

        return InjectionOptions(**self.model_dump())


class CampaignConfig(Section):
    """A whole campaign, as one YAML file says it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    survey: SurveyConfig
    catalog: CatalogConfig
    output: ResolvedPath
    skymap: SkyMapSpec = "hsc_rings_v1"
    injection: InjectionConfig = InjectionConfig()
    margin_arcsec: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """How far outside an image a source may lie and still be drawn on it."""
    cluster: Annotated[ClusterConfig, BeforeValidator(as_cluster)] = ClusterConfig()
    task_seconds: Positive = 60.0
    """Aimed-at length of a task."""
    images_per_task: Annotated[int, Field(ge=1)] = 100
    """Largest number of images in a task."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often an image that failed for a reason that may pass is tried again, after all others."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.cluster.check_task(self.task_seconds)
        if self.survey.root.is_relative_to(self.output):
            raise ValueError(
                f"output is {str(self.output)!r}, a folder that the survey lies in; outputs would be taken for inputs. "
                "Name a folder of its own"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """The configuration as JSON types, defaults filled in and paths absolute; `parse_config` takes it back."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        return dumped

    def to_yaml(self) -> str:
        """The resolved configuration as YAML."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True)

    def pixel_settings(self) -> dict[str, Any]:
        """What of the configuration an image's pixels depend on, flat: dotted key to value (JSON types).

        Paths are left out: inputs are known by their content or stamps, so that a campaign can move house.
        """
        resolved = self.resolved()
        parts = {
            "survey.calibration": resolved["survey"]["calibration"],
            "survey.format": resolved["survey"]["format"],
            "survey.options": resolved["survey"]["options"],
            "catalog.dialect": resolved["catalog"]["dialect"],
            "catalog.band": resolved["catalog"]["band"],
            "injection": resolved["injection"],
            "margin_arcsec": resolved["margin_arcsec"],
        }
        butler = self.survey.butler
        if butler is not None and butler.output_run is not None:
            # The files say which datasets they are.
            parts["survey.butler"] = {"output_run": butler.output_run, "output_type": butler.type_written}
        settings: dict[str, Any] = json.loads(json.dumps(dict(_flatten(parts))))
        return {key: value for key, value in settings.items() if (key, value) not in _LATER_SETTINGS}


_LATER_SETTINGS = (("injection.conventions", "skygraft"), ("injection.variance", None))
"""Settings that records made before them do not have: left out where they change nothing."""


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
        Keys of ``survey: butler:`` that count instead of those in the file; with a ``repo`` among them, also instead
        of other ways to list images.

    Returns
    -------
    CampaignConfig

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or anything in it is not as it should be; all problems are named.
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
            f"{', '.join(butler)} is of a Butler repository, and the campaign names none",
            key="survey.butler",
            fix="Name it: butler: {repo: ...} in survey, or --butler",
        )
    survey["butler"] = {**(before if isinstance(before, Mapping) else {}), **butler}
    return {**content, "survey": survey}


def _with_skymap(content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The content with a sky map that a Butler repository defines put in its parameters: read once, and then kept."""
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
        What the YAML file would hold.
    base_dir : path-like, optional
        Folder that relative paths are relative to; by default the current one.
    path : path-like, optional
        Named in errors.

    Raises
    ------
    ConfigError
        All problems at once: an unknown key (the nearest known one is named), a missing one, a bad value.
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
        # Pydantic lets errors that are not ValueErrors through; say where they come from.
        problems = [(error.key or "configuration", error.message)]
    raise problems_error(problems, "configuration", path)
