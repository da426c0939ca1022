"""The configuration of a campaign: one YAML file, which is checked completely before anything runs.

Relative paths are relative to the file. All problems are reported together, each with its key and line and, for an
unknown key, the nearest known one. The resolved configuration (paths absolute, defaults filled in) can be written and
read back unchanged. Every key is described where it is declared; ``CampaignConfig.model_json_schema()`` lists them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from skygraft.config.cluster import AnyCluster
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.config.inputs import (
    ButlerConfig,
    CalibrationConfig,
    CatalogConfig,
    Radius,
    ScratchConfig,
    StorageConfig,
    SurveyConfig,
)
from skygraft.config.recovery import RecoveryConfig
from skygraft.config.wings import WingsConfig
from skygraft.config.yaml_schema import (
    BASE_DIR,
    SCRATCH,
    WORK,
    Flag,
    OutputPlace,
    PositiveFloat,
    PositiveInt,
    ResolvedPath,
    Section,
    config_error,
    describe_problems,
    parse_bytes,
    read_yaml,
)
from skygraft.conventions import Conventions, check_conventions
from skygraft.errors import ConfigError, SkygraftError
from skygraft.paths import home_expanded
from skygraft.place_names import is_copy, is_url, shown_place
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


def _skymap(value: Any) -> Any:
    get_skymap(value)
    return value


SkyMapSpec = Annotated[Any, AfterValidator(_skymap)]


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
    stars: Annotated[
        Literal["precise", "fast", "grid", "stamps", "galsim", "fourier", "taps"], AfterValidator(stored_star_engine)
    ] = "fourier"
    """How stars are shifted by fractions of a pixel: to single precision, faster, or by GalSim. Where there are very
    many, the first two draw them together on a grid; ``grid`` does so everywhere and ``stamps`` nowhere. ``fourier``
    and ``taps`` are earlier names of ``precise`` and ``fast``, which are stored so that campaigns keep their
    records."""
    galaxies: Annotated[Literal["fast", "precise", "galsim", "fourier"], AfterValidator(stored_galaxy_engine)] = (
        "fourier"
    )
    """How Sérsic profiles are drawn: fast, more precisely, or by GalSim. ``fourier`` is an earlier name of ``fast``."""
    conventions: Conventions = "skygraft"
    """Conventions to draw sources by; those of ``lsst_source_injection`` reproduce that package's pixels."""
    variance: Flag | None = None
    """Add the sources' variance to the variance plane; by default as `noise`."""
    wings: WingsConfig | None = None
    """Extended wings of the PSF; by default none."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ValueError(
                "flux_mode: aperture and an aperture belong together; to say what the images are calibrated to, "
                "use survey.calibration.aperture"
            )
        try:
            check_conventions(self.model_dump(), {name: of.default for name, of in type(self).model_fields.items()})
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
    output: OutputPlace
    """Folder for the outputs, or its URL."""
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
    storage: StorageConfig = StorageConfig()
    """Options of the stores that URLs are in."""
    scratch: ScratchConfig = ScratchConfig()
    """Where copies of files from stores are kept while they are used."""
    work: ResolvedPath | None = None
    """With a URL as `output`: folder for plan, ledger and tables while the campaign runs, by default in that of
    `scratch`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.cluster.check_task(self.task_seconds)
        butler = self.survey.butler
        if is_copy(self.output) and butler is not None and butler.output_run is not None:
            raise ValueError(
                "output is a URL, and a Butler repository registers files of its own file system; give a folder as "
                "output, or leave survey.butler.output_run out"
            )
        if self.work is not None and not is_copy(self.output):
            raise ValueError("work belongs to an output that is a URL; leave it out")
        if Path(shown_place(self.survey.root)).is_relative_to(shown_place(self.output)):
            raise ValueError(
                f"output is {shown_place(self.output)!r}, a folder that the survey lies in; outputs would be mistaken "
                "for inputs. Name a folder of its own"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as JSON types, with absolute paths and defaults; `parse_config` reads it back."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        # Campaigns that use no store are written as they were before there were these keys.
        for key in ("storage", "scratch", "work"):
            if getattr(self, key) == type(self).model_fields[key].default:
                del dumped[key]
        return dumped

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True)

    def pixel_settings(self) -> dict[str, Any]:
        """Return the settings that an image's pixels depend on: dotted key to value, as JSON types.

        Paths are left out, so that a campaign can be moved: inputs are identified by content, or by size and time.
        """
        resolved = self.resolved()
        parts = {
            "survey.calibration": resolved["survey"]["calibration"],
            "survey.format": _without_folder(resolved["survey"]["format"]),
            "survey.options": resolved["survey"]["options"],
            "catalog.dialect": resolved["catalog"]["dialect"],
            "catalog.band": resolved["catalog"]["band"],
            "catalog.columns": sorted(resolved["catalog"]["columns"].items()),
            "catalog.select": resolved["catalog"]["select"],
            "survey.role": resolved["survey"]["role"],
            "injection": resolved["injection"],
            "margin_arcsec": resolved["margin_arcsec"],
        }
        if self.injection.wings is not None:
            from skygraft.injection.wing_settings import WingSettings

            # A measured profile counts by its numbers, wherever its table lies.
            wings = WingSettings.of(self.injection.wings.model_dump()).record()
            parts["injection"] = {**resolved["injection"], "wings": wings}
        butler = self.survey.butler
        if butler is not None and butler.output_run is not None:
            # The output files record which datasets they are.
            parts["survey.butler"] = {"output_run": butler.output_run, "output_type": butler.type_written}
        settings: dict[str, Any] = json.loads(json.dumps(dict(_flatten(parts))))
        return {key: value for key, value in settings.items() if (key, value) not in _LATER_SETTINGS}


_LATER_SETTINGS: tuple[tuple[str, Any], ...] = (
    ("injection.conventions", "skygraft"),
    ("injection.variance", None),
    ("injection.wings", None),
    ("catalog.columns", []),
    ("catalog.select", ""),
    ("survey.role", "auto"),
)
"""Settings added later: with these values they are left out, as in older records, since they change nothing."""


def _without_folder(name: str) -> str:
    """The name of a format; of one in a file, without the folder."""
    place, colon, cls = name.rpartition(":")
    return f"{Path(place).name}{colon}{cls}"


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


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


def _places(content: Mapping[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """The scratch folder for what lies in stores, as a part of pydantic's context; none if no value is a URL."""
    if not _has_url(content):
        return {}
    from skygraft.places import Scratch, use_scratch
    from skygraft.places.scratch import default_folder

    # What is wrong with these is reported with the rest.
    storage, scratch = StorageConfig(), ScratchConfig()
    with contextlib.suppress(ValidationError, SkygraftError):
        storage = StorageConfig.model_validate(content.get("storage") or {}, context=context)
    with contextlib.suppress(ValidationError, SkygraftError):
        scratch = ScratchConfig.model_validate(content.get("scratch") or {}, context=context)
    n_bytes = 0 if scratch.max_bytes is None else parse_bytes(scratch.max_bytes)
    given = Scratch(scratch.folder or default_folder(), storage.storage(), n_bytes)
    use_scratch(given)
    work = content.get("work")
    folder = Path(os.path.normpath(context[BASE_DIR] / home_expanded(work))) if isinstance(work, str) else given.folder
    return {SCRATCH: given, WORK: dataclasses.replace(given, folder=folder)}


def _has_url(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(_has_url, value)) if isinstance(value, list | tuple) else is_url(value)


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
    context = {BASE_DIR: base.resolve()}
    try:
        return CampaignConfig.model_validate(content, context=context | _places(content, context))
    except ValidationError as error:
        problems = describe_problems(error, CampaignConfig)
    except SkygraftError as error:
        # Pydantic does not catch errors that are not ValueErrors; name their key.
        problems = [(error.key or "configuration", error.message)]
    raise config_error(problems, "configuration", path)
