"""Small changes of a catalogue, up and down, for campaigns that are compared with each other.

The whole grammar::

    magnification=±0.02              flux times 1.02 or 0.98, sizes times the square root of that
    magnification=±0.02@150.1,2.2    distances from this position (degrees) times the square root of it, too
    COLUMN=±0.1                      a number added to a column, or taken from it, in the column's unit
    COLUMN=*1.01                     a column times a factor, or divided by it

``+-`` stands for ``±`` too, and ``×`` for ``*``. ``mag`` means the magnitudes of all bands.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from astropy import units as u
from astropy.table import QTable

from skygraft.catalog.checks import validate
from skygraft.catalog.schema import COLUMNS, is_mag_column, unit_of, values
from skygraft.errors import CatalogError, ConfigError

__all__ = ["Perturbation"]

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)((?:[eE][+-]?\d+)?)"
_TEXT = re.compile(rf"([A-Za-z]\w*)=(±|\+-|\*|×){_NUMBER}(?:@([^@]*))?")
_SIZES = ("half_light_radius", "bulge_half_light_radius", "disk_half_light_radius", "trunc", "trail_length",
          "trail_length_pix")  # fmt: skip
_GRAMMAR = "magnification=±0.02, a column's ±0.1, or a column's *1.01"


@dataclass(frozen=True)
class Perturbation:
    """A small change of a catalogue.

    Parameters
    ----------
    name : str
        A column, ``mag`` for those of all bands, or ``magnification``.
    kind : {"add", "multiply", "magnify"}
        What is done.
    size : float
        What is added, in the column's unit; the factor; or the magnification less 1.
    centre : (float, float), optional
        Of a magnification that moves sources: ICRS degrees.
    """

    name: str
    kind: Literal["add", "multiply", "magnify"]
    size: float
    centre: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a perturbation from its text.

        Raises
        ------
        ConfigError
            If it is none.
        """

        def refuse(why: str, fix: str = f"Give it like {_GRAMMAR}") -> ConfigError:
            return ConfigError(f"{text!r} is no perturbation of a catalogue: {why}", key="pair", fix=fix)

        match = _TEXT.fullmatch("".join(text.split()))
        if match is None:
            name, equals, rest = text.partition("=")
            if not equals:
                raise refuse("there is no = in it")
            if not re.fullmatch(r"\s*[A-Za-z]\w*\s*", name):
                raise refuse(f"{name.strip()!r} is no name of a column")
            raise refuse(f"{rest.strip()!r} is neither ± and a number, nor * and a number")
        name, sign, digits, exponent, place = match.groups()
        size = float(digits + exponent)
        if not 0 < size < math.inf:
            raise refuse("the number must be above 0, and finite")
        magnifies = name == "magnification"
        if place is not None and not magnifies:
            raise refuse("only a magnification has a centre")
        if sign in ("*", "×"):
            if magnifies:
                raise refuse("a magnification is 1 more or less a number", "Give it like magnification=±0.02")
            if size <= 1:
                raise refuse(f"the factor is {size:g}; the other campaign has the inverse", "Give one above 1")
            return cls(name, "multiply", size)
        if not magnifies:
            return cls(name, "add", size)
        if size >= 1:
            raise refuse("a magnification of 1 - 1 or less leaves no light", "Give a small number, such as ±0.02")
        return cls(name, "magnify", size, _centre(place, refuse) if place is not None else None)

    def __str__(self) -> str:
        sign = "*" if self.kind == "multiply" else "±"
        place = "" if self.centre is None else f"@{self.centre[0]!r},{self.centre[1]!r}"
        return f"{self.name}={sign}{self.size!r}{place}"

    @property
    def parameter(self) -> str:
        """What the response is the derivative by: ``magnification``, a column, or the logarithm of one."""
        return f"ln {self.name}" if self.kind == "multiply" else self.name

    @property
    def unit(self) -> str:
        """Unit of `parameter`, as astropy writes it; empty for none."""
        return (unit_of(self.name) or "") if self.kind == "add" else ""

    @property
    def step(self) -> float:
        """Difference of `parameter` between the two catalogues."""
        return 2.0 * (math.log(self.size) if self.kind == "multiply" else self.size)

    def apply(self, table: QTable, sign: int, *, origin: str = "") -> QTable:
        """Return a catalogue with the change.

        Parameters
        ----------
        table : QTable
            Canonical catalogue.
        sign : {1, -1}
            Up or down.
        origin : str
            Name of the catalogue, for errors.

        Returns
        -------
        QTable

        Raises
        ------
        ConfigError
            If there is no such column, or it is not one of numbers that may change.
        CatalogError
            If a source could no longer be drawn.
        """
        out = table.copy()
        if self.kind == "magnify":
            self._magnify(out, sign)
        else:
            for name in self._columns(table, origin):
                before = values(table, name)
                factor = self.size**sign
                _set(out, name, before * factor if self.kind == "multiply" else before + sign * self.size)
        _refuse_lost(table, out, str(self), origin)
        return out

    def _magnify(self, table: QTable, sign: int) -> None:
        mu = 1.0 + sign * self.size
        for name in table.colnames:
            if is_mag_column(name):
                _set(table, name, values(table, name) - 2.5 * math.log10(mu))
            elif name in _SIZES:
                _set(table, name, values(table, name) * math.sqrt(mu))
        if self.centre is not None:
            from astropy.coordinates import SkyCoord

            centre = SkyCoord(*self.centre, unit="deg")
            sky = SkyCoord(values(table, "ra"), values(table, "dec"), unit="deg")
            moved = centre.directional_offset_by(centre.position_angle(sky), centre.separation(sky) * math.sqrt(mu))
            _set(table, "ra", moved.ra.deg)
            _set(table, "dec", moved.dec.deg)

    def _columns(self, table: QTable, origin: str) -> list[str]:
        if self.name == "mag":
            return [name for name in table.colnames if is_mag_column(name)]
        if self.name not in table.colnames:
            near = difflib.get_close_matches(self.name, ["magnification", "mag", *table.colnames], 1)
            raise ConfigError(
                f"the catalogue has no column {self.name!r}; it has {', '.join(table.colnames)}",
                path=origin or None,
                key="pair",
                fix=f"Did you mean {near[0]!r}?" if near else "Name one of these",
            )
        spec = COLUMNS.get(self.name)
        kind = np.asarray(table[self.name]).dtype.kind if spec is None else {"float": "f"}.get(spec.kind, spec.kind)
        if kind != "f":
            raise ConfigError(
                f"column {self.name!r} holds no real numbers, which alone can change a little",
                path=origin or None,
                key="pair",
                fix="Name a column of real numbers, such as mag or half_light_radius",
            )
        return [self.name]


def _centre(text: str, refuse: Any) -> tuple[float, float]:
    match = re.fullmatch(rf"({_NUMBER}),([+-]?{_NUMBER})", text)
    if match is None:
        raise refuse(f"{text!r} is no position", "Give it in degrees, like @150.1,2.2")
    ra, dec = (float(part) for part in text.split(","))
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise refuse(f"{text!r} is not on the sky", "Give right ascension and declination in degrees")
    return ra, dec


def _set(table: QTable, name: str, plain: Any) -> None:
    unit = unit_of(name)
    old = table[name]
    table[name] = plain * u.Unit(unit) if isinstance(old, u.Quantity) and unit is not None else plain


def _refuse_lost(before: QTable, after: QTable, what: str, origin: str) -> None:
    """Raise if the change takes a source out of what can be drawn: it would be missing from one campaign only."""
    old, new = (validate(table.copy(), on_bad="flag", origin=origin) for table in (before, after))
    lost = np.flatnonzero(values(new, "flags") & ~values(old, "flags"))
    if len(lost):
        number = values(before, "injection_id")[lost[0]]
        raise CatalogError(
            f"{what} takes {len(lost)} sources out of what can be drawn, the first with injection_id {number}",
            path=origin or None,
            row=int(lost[0]),
            fix="Take a smaller perturbation, or leave these sources out",
        )
