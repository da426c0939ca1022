"""The configuration of a campaign: one YAML file, checked whole before anything runs.

Relative paths are relative to the file. What is wrong is reported all at once, each problem with the place in the
file and, for an unknown key, the nearest known one. The resolved configuration (paths absolute, defaults filled in)
can be written out and read back unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from skygraft.campaign.clusters.config import ClusterConfig, as_cluster
from skygraft.campaign.sections import (
    BASE_DIR,
    Positive,
    ResolvedPath,
    Section,
    describe_problems,
    problems_error,
    read_yaml,
)
from skygraft.errors import ConfigError, SkygraftError
from skygraft.photometry import parse_radius
from skygraft.skymap import get_skymap

if TYPE_CHECKING:
    from skygraft.injection import InjectionOptions

__all__ = [
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
            name = self.psf.format(stem=Path(stem).stem, name=image.name)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(f"psf is {self.psf!r}; only {{stem}} and {{name}} can stand in it ({error!r})") from error
        return image.parent / name

    def photo_calib(self) -> dict[str, Any] | None:
        """The calibration that replaces the image's own, as `read_exposure` takes it, or None."""
        if self.zeropoint is None:
            return None
        given: dict[str, Any] = {"zeropoint": self.zeropoint}
        return given if self.unit is None else given | {"unit": self.unit}


class SurveyConfig(Section):
    """Which images."""

    root: ResolvedPath = Path()
    """Folder that `images` and the outputs' layout are relative to; by default that of the file."""
    images: str | tuple[str, ...] | None = None
    """Glob pattern (``**`` allowed), or several."""
    ccds: str | None = None
    """Table of CCDs in the Legacy Surveys' layout."""
    index: str | None = None
    """Parquet file that ``skygraft index -o`` wrote, relative to `root`: the headers are not read again."""
    format: FormatName = "auto"
    """Name of the image format."""
    calibration: CalibrationConfig = CalibrationConfig()
    options: dict[str, Any] = Field(default_factory=dict)
    """Reading options of the format."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(way is not None for way in (self.images, self.ccds, self.index)) != 1:
            raise ValueError(
                "give exactly one of images (a glob pattern), ccds (a table) and index (a file of skygraft index)"
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
        else:
            spec["index"] = self.index
        return spec


class CatalogConfig(Section):
    """Which fake sources."""

    path: ResolvedPath
    dialect: str = "auto"
    band: str | None = None
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
    stars: Literal["fourier", "taps", "galsim"] = "fourier"
    galaxies: Literal["fourier", "precise", "galsim"] = "fourier"

    @model_validator(mode="after")
    def _aperture_mode(self) -> Self:
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ValueError(
                "flux_mode: aperture and an aperture belong together; to say what the images are calibrated to, "
                "use survey.calibration.aperture"
            )
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
        settings: dict[str, Any] = json.loads(json.dumps(dict(_flatten(parts))))
        return settings


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        items += _flatten(inner, f"{name}.") if isinstance(inner, dict) else [(name, inner)]
    return items


def load_config(path: str | os.PathLike[str]) -> CampaignConfig:
    """Read and check a campaign's YAML file.

    Parameters
    ----------
    path : path-like
        The file; relative paths in it are relative to its folder.

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
    return parse_config(content, base_dir=path.resolve().parent, path=path)


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
    try:
        return CampaignConfig.model_validate(dict(content), context={BASE_DIR: base.resolve()})
    except ValidationError as error:
        problems = describe_problems(error, CampaignConfig)
    except SkygraftError as error:
        # Pydantic lets errors that are not ValueErrors through; say where they come from.
        problems = [(error.key or "configuration", error.message)]
    raise problems_error(problems, "configuration", path)
