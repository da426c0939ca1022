"""The section `injection: wings:` of a campaign file: extended wings of the PSF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from skygraft.config.yaml_schema import Section, base_dir
from skygraft.errors import ConfigError
from skygraft.paths import home_expanded

__all__ = ["WingsConfig"]


class WingsConfig(Section):
    """Extended wings that take over from the PSF's kernel at a radius; lengths have a unit, ``pix`` or ``arcsec``."""

    model: Literal["moffat", "power_law", "profile"]
    """Kind of profile: a Moffat, a power law, or a measured profile."""
    join: str
    """Radius from which on the profile is that of the wings, such as ``12 pix``: outside the core, in the kernel."""
    blend: str | None = None
    """Width of the zone inside the join radius in which the kernel goes over into the wings; by default a third of the
    join radius, and at least 5 pixels."""
    outer: str | None = None
    """Radius at which the wings end, such as ``300 arcsec``; by default they are drawn as far as `limit` and
    `flux_tolerance` ask for."""
    flux: Literal["calibrated", "total"] = "calibrated"
    """Which flux of a source the wings leave as it was: the one that the calibration measures, or all of it."""
    limit: float = Field(default=30.0, ge=10.0, le=50.0)
    """Surface brightness, AB magnitudes per square arcsec, down to which wings without an outer radius are drawn."""
    beta: float | None = None
    """Exponent of a Moffat."""
    alpha: float | None = None
    """Exponent of a power law."""
    core: str | None = None
    """Core radius of a Moffat; of a power law, the radius inside which it flattens."""
    cutoff: str | None = None
    """Scale of a power law's exponential cut-off."""
    file: str | None = None
    """Table of a measured profile, columns ``radius`` and ``surface_brightness``: ECSV, Parquet, FITS, VOTable or CSV.
    It is read when the campaign file is; its numbers become `radii`, `values` and `unit`."""
    radii: tuple[float, ...] | None = None
    """Radii of a measured profile, in `unit`."""
    values: tuple[float, ...] | None = None
    """Surface brightness of a measured profile, on any linear scale."""
    unit: Literal["pix", "arcsec"] | None = None
    """Unit of the profile's radii, where the table does not say."""

    @model_validator(mode="before")
    @classmethod
    def _with_profile(cls, content: Any, info: ValidationInfo) -> Any:
        """Read the table of a profile."""
        if not isinstance(content, Mapping) or not isinstance(content.get("file"), str):
            return content
        if content.get("radii") is not None or content.get("model") != "profile":
            return content
        from skygraft.injection.wing_settings import read_profile

        path = base_dir(info) / home_expanded(Path(content["file"]))
        unit = content.get("unit")
        try:
            radii, values, stated = read_profile(path, unit=unit if isinstance(unit, str) else None)
        except ConfigError as error:
            raise ValueError(f"{path}: {error.message}" + (f". {error.fix}" if error.fix else "")) from None
        return {**content, "radii": radii, "values": values, "unit": stated}

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        from skygraft.injection.wing_settings import WingSettings

        try:
            WingSettings.of(self.model_dump())
        except ConfigError as error:
            key = (error.key or "").removeprefix("wings.")
            named = f"{key}: " if key and key != "wings" and not error.message.startswith(key) else ""
            raise ValueError(f"{named}{error.message}" + (f". {error.fix}" if error.fix else "")) from None
        return self
