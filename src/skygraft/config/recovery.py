"""The section ``recovery:`` of a campaign's YAML file: how injected sources are detected, measured and matched.

No pixel depends on it, so it may be changed at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator

from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.config.yaml_schema import Flag, Name, Section, config_error, describe_problems

__all__ = ["RecoveryConfig", "RecoverySettings"]

_PixelRadius = Annotated[float, Field(gt=0, le=500)]


class RecoverySettings(Section):
    """How the fakes of an image are detected, measured and matched."""

    threshold: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.5
    """Detection threshold on the filtered image, in standard deviations of the sky in one pixel before it was filtered,
    as Source Extractor's DETECT_THRESH."""
    min_area: Annotated[int, Field(ge=1, le=10**6, strict=True)] = 5
    """Connected pixels above the threshold that make a detection."""
    filter: Literal["default", "psf", "none"] = "default"
    """What images are filtered with before: the 3 x 3 pyramid of SEP and Source Extractor (``default``), a Gaussian as
    wide as the PSF (``psf``), or nothing."""
    deblend_nthresh: Annotated[int, Field(ge=1, le=64, strict=True)] = 32
    """Levels between threshold and peak at which a detection is split."""
    deblend_cont: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Part of the flux that a branch must have to become a detection of its own; 1 for no deblending."""
    clean: Flag = True
    """Remove detections that are but the wings of a brighter neighbour."""
    clean_param: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    """Strength of the cleaning; larger values remove fewer."""
    background_size: Annotated[int, Field(ge=4, le=10**5, strict=True)] = 64
    """Side of the meshes of the background map, pixels."""
    background_filter: Annotated[int, Field(ge=1, le=99, strict=True)] = 3
    """Width of the median filter over meshes."""
    match_radius: Annotated[float | None, Field(ge=1e-3, le=3600)] = None
    """Largest distance between an injected source and its detection, arcsec; by default three quarters of the FWHM
    that the source is expected to have, and at least one pixel."""
    ambiguous_fraction: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Where the original image has a detection too, an injected source counts as recovered only if that detection has
    less than this fraction of its flux."""
    blend_fraction: Annotated[float, Field(ge=0, le=1e6)] = 0.02
    """Light of neighbours in the calibration aperture, over the source's own, from which on it counts as blended."""
    apertures: tuple[_PixelRadius, ...] = (3.0, 6.0)
    """Radii of further apertures to measure in, pixels."""
    bad_planes: tuple[Name, ...] | None = None
    """Mask planes whose pixels are left out; by default all but those that mark sources, such as INJECTED and
    DETECTED."""
    columns: tuple[Name, ...] = ()
    """Further columns of the catalogue that the table takes over."""

    @field_validator("apertures")
    @classmethod
    def _different(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{radius:g}" for radius in radii}) < len(radii):
            raise ValueError("give each radius once")
        return radii

    @field_validator("bad_planes", "columns", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"a list is needed, such as [{value}]")
        return value

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """Read settings from JSON types; those that are not given have their default.

        Parameters
        ----------
        settings : mapping of str to object
            Settings by name.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is not allowed; all problems are named.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            problems = [(f"recovery.{key}", text) for key, text in describe_problems(error, cls)]
        raise config_error(problems, "configuration", None)

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return self.model_dump(mode="json")


class RecoveryConfig(RecoverySettings):
    """How `skygraft recover` detects and measures sources, and matches them with those that were injected.

    Pixels do not depend on it: it may be changed after a run.
    """

    catalogs: RecoveryCatalogs | None = None
    """Catalogues of the survey's own pipeline, in place of detections by skygraft."""

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return these settings with some of them replaced; those that are None stay as they are.

        Errors are those of `from_mapping`.
        """
        return self.from_mapping(
            self.model_dump() | {key: value for key, value in changes.items() if value is not None}
        )

    def settings(self) -> dict[str, Any]:
        """Return what `skygraft.recovery.measuring.measure_pair` takes, as JSON types; and the catalogues, if any."""
        return self.model_dump(mode="json", exclude={"catalogs"} if self.catalogs is None else None)
