"""What a user says of a PSF's extended wings: a mapping of `injection: wings:`, checked, with units.

Measured profiles are read once, where the settings are made, and are from then on part of them: a campaign does not
depend on a file that may change or move.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.photometry import parse_radius
from skygraft.psf.wings import MoffatWing, PowerLawWing, TableWing, Wings, WingShape

__all__ = ["WING_KEYS", "WingFlux", "WingModel", "WingSettings", "length_pixels", "read_profile"]

type WingModel = Literal["moffat", "power_law", "profile"]
type WingFlux = Literal["calibrated", "total"]

_OWN_KEYS: dict[str, tuple[str, ...]] = {
    "moffat": ("beta", "core"),
    "power_law": ("alpha", "core", "cutoff"),
    "profile": ("file", "radii", "values", "unit"),
}
_COMMON = ("model", "join", "blend", "outer", "flux", "limit")
WING_KEYS = (*_COMMON, "beta", "alpha", "core", "cutoff", "file", "radii", "values", "unit")
"""All keys of the section."""
_MOST_ROWS = 2000
_LEAST_BLEND_PIXELS = 5.0
_LIMITS = (10.0, 50.0)


@dataclass(frozen=True)
class WingSettings:
    """The extended wings of a PSF, as a user gives them.

    Parameters
    ----------
    model : {"moffat", "power_law", "profile"}
        Kind of profile.
    join : str
        Radius from which on the profile is that of the wings: ``"12 pix"`` or ``"3 arcsec"``.
    blend : str, optional
        Width of the zone inside the join radius in which the kernel goes over into the wings; by default a third of
        the join radius, and at least 5 pixels.
    outer : str, optional
        Radius at which the wings end. Without one they are drawn as far as `limit` and the flux tolerance ask for.
    flux : {"calibrated", "total"}
        Which flux the wings leave as it was: the one that the calibration measures, or all of it.
    limit : float
        Surface brightness, AB magnitudes per square arcsec, down to which wings without an outer radius are drawn.
    beta, core : float, str
        Of a Moffat; the core also of a power law, which flattens inside of it.
    alpha, cutoff : float, str
        Exponent of a power law, and the scale of its exponential cut-off.
    radii, values, unit : tuple of float, tuple of float, str
        A measured profile: radii in `unit` (``pix`` or ``arcsec``), and surface brightness on any linear scale.
    file : str
        Where a profile was read from, for people.

    Raises
    ------
    ConfigError
        If a key is missing, not of this model, or not allowed.
    """

    model: WingModel
    join: str
    blend: str | None = None
    outer: str | None = None
    flux: WingFlux = "calibrated"
    limit: float = 30.0
    beta: float | None = None
    core: str | None = None
    alpha: float | None = None
    cutoff: str | None = None
    radii: tuple[float, ...] | None = None
    values: tuple[float, ...] | None = None
    unit: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        _one_of("model", self.model, get_args(WingModel.__value__))
        _one_of("flux", self.flux, get_args(WingFlux.__value__))
        for name in ("beta", "core", "alpha", "cutoff", "file", "radii", "values", "unit"):
            if getattr(self, name) is not None and name not in _OWN_KEYS[self.model]:
                others = [kind for kind, keys in _OWN_KEYS.items() if name in keys]
                raise ConfigError(
                    f"{name} is given, which model {self.model!r} does not have, but {' and '.join(others)}",
                    key=f"wings.{name}",
                    fix="Leave it out",
                )
        if self.join is None:
            raise ConfigError(
                "the radius at which the wings join the kernel is missing",
                key="wings.join",
                fix="Give it: join: 12 pix, or 3 arcsec; well outside the core and inside the kernel",
            )
        for name in ("join", "blend", "outer", "core", "cutoff"):
            _length(name, getattr(self, name))
        limit = _number("limit", self.limit)
        if not _LIMITS[0] <= limit <= _LIMITS[1]:
            raise ConfigError(
                f"limit is {self.limit!r}; a surface brightness of {_LIMITS[0]:g} to {_LIMITS[1]:g} AB magnitudes per "
                "square arcsec is needed",
                key="wings.limit",
            )
        object.__setattr__(self, "limit", limit)
        getattr(self, f"_check_{self.model}")()
        self._check_divergence()

    def _check_moffat(self) -> None:
        self._need("beta", "core")
        self._positive("beta")

    def _check_power_law(self) -> None:
        self._need("alpha")
        self._positive("alpha")

    def _check_profile(self) -> None:
        if self.radii is None or self.values is None:
            raise ConfigError(
                "a profile needs its table of radius and surface brightness",
                key="wings.file",
                fix="Give the file (file: wings.ecsv), or radii, values and unit",
            )
        if self.unit not in ("pix", "arcsec"):
            raise ConfigError(
                f"the unit of the profile's radii is {self.unit!r}; pix or arcsec is needed",
                key="wings.unit",
                fix="Write it into the table, or give unit: arcsec",
            )
        _check_table(np.asarray(self.radii, dtype=float), np.asarray(self.values, dtype=float))

    def _check_divergence(self) -> None:
        """Refuse wings whose total is infinite, whatever the image."""
        shape = self._shape(1.0)
        why = shape.why_endless()
        if why and self.outer is None:
            key = "alpha" if self.model == "power_law" else "beta"
            raise ConfigError(
                f"the total flux of these wings is infinite: {why}",
                key=f"wings.{key}",
                fix="Give the radius at which they end (outer: 300 arcsec), or a steeper slope",
            )

    def _need(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is None:
                raise ConfigError(f"{name} is missing, which a {self.model} needs", key=f"wings.{name}")

    def _positive(self, name: str) -> None:
        value = _number(name, getattr(self, name))
        if not 0 < value <= 50:
            raise ConfigError(f"{name} is {value:g}; a number above 0 and up to 50 is needed", key=f"wings.{name}")
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, given: Any, folder: Path | None = None) -> WingSettings:
        """Check what a user gives.

        Parameters
        ----------
        given : WingSettings or mapping
            Keys of `WING_KEYS`; those that are None count as left out.
        folder : Path, optional
            Folder that a profile's path is relative to.

        Returns
        -------
        WingSettings

        Raises
        ------
        ConfigError
            If it is neither, or one of its keys is unknown or not allowed.
        """
        if isinstance(given, WingSettings):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"wings is {given!r}; a mapping is needed",
                key="wings",
                fix="Give one, such as {model: power_law, alpha: 3, join: 12 pix, outer: 300 arcsec}",
            )
        known = {str(key): value for key, value in given.items() if value is not None}
        for key in known:
            if key not in WING_KEYS:
                near = difflib.get_close_matches(key, WING_KEYS, 1)
                raise ConfigError(
                    f"unknown key {key!r}; known: {', '.join(WING_KEYS)}",
                    key=f"wings.{key}",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
        if "model" not in known:
            raise ConfigError("the model is missing", key="wings.model", fix="Give moffat, power_law or profile")
        if known["model"] == "profile" and "file" in known and "radii" not in known:
            path = Path(str(known["file"])).expanduser()
            path = path if path.is_absolute() or folder is None else folder / path
            radii, values, unit = read_profile(path, unit=known.get("unit"))
            known |= {"radii": radii, "values": values, "unit": unit}
        for key in ("radii", "values"):
            if key in known:
                known[key] = _numbers(key, known[key])
        return cls(**{"join": None, **known})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are given, as JSON types; `of` reads them back."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value is not None
        }

    def record(self) -> dict[str, Any]:
        """Describe the settings for records: a measured profile by the checksum of its numbers."""
        found = {name: value for name, value in self.to_dict().items() if name not in ("radii", "values", "file")}
        if self.radii is not None:
            numbers = json.dumps([self.radii, self.values]).encode()
            found["profile_sha256"] = hashlib.sha256(numbers).hexdigest()
        return found

    def on(self, pixel_scale: float) -> Wings:
        """Convert the wings to the pixels of an image.

        Parameters
        ----------
        pixel_scale : float
            Arcsec per pixel.

        Returns
        -------
        Wings

        Raises
        ------
        ConfigError
            If they make no sense there.
        """
        join = self._pixels("join", pixel_scale)
        assert join is not None
        blend, outer = self._pixels("blend", pixel_scale), self._pixels("outer", pixel_scale)
        if blend is None:
            blend = max(join / 3.0, _LEAST_BLEND_PIXELS)
        shape = self._shape(pixel_scale)
        if outer is not None and outer > shape.ends * (1 + 1e-6):
            raise ConfigError(
                f"the outer radius of the wings, {outer:.4g} pixels, is beyond the end of the measured profile at "
                f"{shape.ends:.4g} pixels",
                key="wings.outer",
                fix="Leave it out, or give one within the profile",
            )
        if isinstance(shape, TableWing) and shape.radii[0] > join - blend:
            raise ConfigError(
                f"the measured profile begins at {shape.radii[0]:.4g} pixels, outside the radius of "
                f"{join - blend:.4g} at which the kernel begins to go over into it",
                key="wings.join",
                fix="Join further out, or give a narrower blend",
            )
        return Wings(shape, join, blend, math.inf if outer is None else outer)

    def _pixels(self, name: str, pixel_scale: float) -> float | None:
        found = _length(name, getattr(self, name))
        if found is None:
            return None
        value, unit = found
        return value if unit == "pix" else value / pixel_scale

    def _shape(self, pixel_scale: float) -> WingShape:
        core, cutoff = self._pixels("core", pixel_scale), self._pixels("cutoff", pixel_scale)
        if self.model == "moffat":
            return MoffatWing(cast(float, self.beta), cast(float, core))
        if self.model == "power_law":
            return PowerLawWing(cast(float, self.alpha), core or 0.0, math.inf if cutoff is None else cutoff)
        scale = 1.0 if self.unit == "pix" else 1.0 / pixel_scale
        assert self.radii is not None
        assert self.values is not None
        return TableWing(tuple(scale * r for r in self.radii), self.values)


def read_profile(
    path: str | os.PathLike[str], *, unit: str | None = None
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Read a measured profile: columns ``radius`` and ``surface_brightness``.

    Parameters
    ----------
    path : path-like
        ECSV, Parquet, FITS, VOTable or CSV.
    unit : str, optional
        Unit of the radii, ``pix`` or ``arcsec``, where the table does not say.

    Returns
    -------
    radii, values : tuple of float
        In order of radius; surface brightness on a linear scale, also where the table has magnitudes.
    unit : str
        ``pix`` or ``arcsec``.

    Raises
    ------
    ConfigError
        If the table cannot be read, has no such columns, or no unit.
    """
    import astropy.units as u

    from skygraft.catalog.columns import ColumnReader, refused
    from skygraft.catalog.io import read_table
    from skygraft.errors import SkygraftError

    path = Path(path)
    try:
        table = read_table(path)
        there = [*table.colnames, *refused(table)]
        missing = [name for name in ("radius", "surface_brightness") if name not in there]
        if missing:
            raise ConfigError(
                f"the profile of the wings has no column {' and no column '.join(missing)}; it has {', '.join(there)}",
                path=path,
                key="wings.file",
                fix="Name the columns radius and surface_brightness",
            )
        for name in ("radius", "surface_brightness"):
            if name in refused(table):
                raise refused(table)[name].error(name)
        radius, brightness = (ColumnReader(table[name], name) for name in ("radius", "surface_brightness"))
        radii, values = radius.floats(), brightness.floats()
    except ConfigError:
        raise
    except SkygraftError as error:
        raise ConfigError(
            f"the profile of the wings cannot be read: {error.message}", path=path, key="wings.file", fix=error.fix
        ) from error
    given = radius.unit
    if given is not None and given != u.dimensionless_unscaled:
        if given == u.pix:
            stated = "pix"
        elif given.is_equivalent(u.arcsec):
            stated = "arcsec"
            radii = radii * float((1.0 * given).to_value(u.arcsec))
        else:
            raise ConfigError(
                f"the radii of the profile are in {given}; pix or an angle is needed", path=path, key="wings.file"
            )
        if unit is not None and unit != stated:
            raise ConfigError(
                f"unit is {unit!r}, and the table says that its radii are in {given}", path=path, key="wings.unit"
            )
        unit = stated
    if unit is None:
        raise ConfigError(
            "the column radius of the profile has no unit",
            path=path,
            key="wings.unit",
            fix="Give unit: arcsec, or unit: pix",
        )
    # A number of magnitudes has a unit such as mag / arcsec2, which is no linear scale.
    if brightness.unit is not None and "mag" in str(brightness.unit).lower():
        with np.errstate(over="ignore", invalid="ignore"):
            values = 10.0 ** (-0.4 * (values - np.min(values, initial=np.inf, where=np.isfinite(values))))
    order = np.argsort(radii, kind="stable")
    radii, values = radii[order], values[order]
    try:
        _check_table(radii, values)
    except ConfigError as error:
        raise ConfigError(error.message, path=path, key=error.key, fix=error.fix) from None
    return tuple(radii.tolist()), tuple(values.tolist()), unit


def _check_table(radii: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    if radii.shape != values.shape or not 3 <= len(radii) <= _MOST_ROWS:
        raise ConfigError(
            f"a profile of {len(radii)} radii and {len(values)} values; 3 to {_MOST_ROWS} of both are needed",
            key="wings.radii",
        )
    bad = ~(np.isfinite(radii) & np.isfinite(values) & (radii > 0) & (values > 0))
    if bad.any():
        k = int(np.argmax(bad))
        raise ConfigError(
            f"the profile has the surface brightness {values[k]:g} at radius {radii[k]:g}; both must be positive and "
            "finite",
            key="wings.values",
            fix="Leave such rows out",
        )
    if not (np.diff(radii) > 0).all():
        raise ConfigError("the radii of the profile do not increase", key="wings.radii", fix="Leave repeated ones out")


def length_pixels(name: str, value: Any, pixel_scale: float) -> float:
    """Convert a length to pixels.

    Parameters
    ----------
    name : str
        What it is, for errors.
    value : str
        ``"12 pix"`` or ``"3 arcsec"``.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    float

    Raises
    ------
    ConfigError
        If it is no length with a unit.
    """
    found = _length(name, value)
    if found is None:
        raise ConfigError(f"{name} is missing", key=f"wings.{name}")
    return found[0] if found[1] == "pix" else found[0] / pixel_scale


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ConfigError(
            f"{value!r} is not one of {', '.join(allowed)}",
            key=f"wings.{name}",
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ConfigError(f"{name} is {value!r}; a number is needed", key=f"wings.{name}")
    return float(value)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ConfigError(f"{name} is {values!r}; a list of numbers is needed", key=f"wings.{name}")
    return tuple(_number(name, value) for value in values)


def _length(name: str, value: Any) -> tuple[float, str] | None:
    """Read a length as number and unit, ``pix`` or ``arcsec``."""
    if value is None:
        return None
    try:
        found = parse_radius(value)
    except ConfigError as error:
        raise ConfigError(
            f"{name} is {value!r}, which is no length with a unit",
            key=f"wings.{name}",
            fix="Give it with its unit: 12 pix, or 3 arcsec",
        ) from error
    if found.radius_pixels is not None:
        return found.radius_pixels, "pix"
    if found.radius_arcsec is None:
        raise ConfigError(
            f"{name} is {value!r}, which is no length",
            key=f"wings.{name}",
            fix="Give a length with its unit: 12 pix, or 3 arcsec",
        )
    return found.radius_arcsec, "arcsec"
