"""Read the values of a header's WCS cards, and record the cards to change before astropy reads them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from skygraft.errors import WcsError
from skygraft.wcs.card_text import split, value_of

__all__ = ["CardReader", "is_number"]

# Cards of the primary description; those of alternate descriptions end in a letter.
_WCS_CARD = re.compile(
    r"NAXIS|WCSAXES|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CRDER|CSYER|CNAME)\d+|(CD|PC|PV|PS)\d+_\d+|(CD|PC)\d{6}|PROJP\d+"
    r"|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH|MJD-OBS|DATE-OBS|[AB]P?_(ORDER|DMAX|\d+_\d+)|WAT\d_\d{3}"
    r"|AMD[XY]\d+|PPO\d|CNPIX[12]|[XY]PIXELSZ|PLT(RA[HMS]|DECSN|DEC[DMS]|SCALE)|CPDIS\d|CQDIS\d|D2IMDIS\d|AXISCORR"
)
_NUMBER = re.compile(
    r"(CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_\d+|(CD|PC)00[12]\d{3}|PV[12]_\d+|PROJP\d+|LONPOLE|LATPOLE"
    r"|[AB]_(ORDER|\d+_\d+)|AMD[XY]\d+"
)
# A blank value is equivalent to no card.
_MAY_BE_BLANK = re.compile(r"LONPOLE|LATPOLE|EQUINOX|EPOCH|CUNIT\d+|RADE(C)?SYS")
# Repeated cards with different values are ambiguous.
_STRUCTURAL = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_\d+|(CD|PC)00[12]\d{3}|PV[12]_\d+|PROJP\d+|LONPOLE|LATPOLE"
    r"|RADESYS|RADECSYS|EQUINOX|EPOCH|[AB]_(ORDER|\d+_\d+)|WAT[12]_\d{3}|AMD[XY]\d+|PPO[36]|CNPIX[12]|[XY]PIXELSZ"
    r"|PLT(RA[HMS]|DECSN|DEC[DMS])"
)
_ALTERNATE = re.compile(r"CTYPE\d+([A-Z])")


@dataclass
class CardReader:
    """The values of a header's WCS cards, and the changes to make before astropy reads them.

    Parameters
    ----------
    place : dict
        ``path`` and ``hdu``, for errors.
    values : dict
        Values by keyword, of the primary description.
    alternates : set of str
        Letters of the alternate descriptions.
    changes : dict
        New values by keyword; None removes a card.
    """

    place: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    alternates: set[str] = field(default_factory=set)
    changes: dict[str, Any] = field(default_factory=dict)

    def refuse(self, message: str, *, key: str | None = None, fix: str) -> WcsError:
        """Return the error to raise for a card."""
        return WcsError(message, **self.place, key=key, fix=fix)

    def take(self, text: str) -> None:
        """Read the values of the WCS cards.

        Raises
        ------
        WcsError
            If a card that must be a number is not, or two cards with the same keyword differ.
        """
        for key, card in split(text):
            if (alternate := _ALTERNATE.fullmatch(key)) is not None:
                self.alternates.add(alternate[1])
            if not _WCS_CARD.fullmatch(key):
                continue
            value = value_of(card)
            if isinstance(value, str) and not key.startswith("WAT"):
                value = value.rstrip()
            if key in self.values and _STRUCTURAL.fullmatch(key) and self.values[key] != value:
                raise self.refuse(
                    f"{key} is there twice, with different values: {self.values[key]!r} and {value!r}",
                    key=key,
                    fix="Remove the wrong one",
                )
            self.values[key] = value
            if isinstance(value, float) and "D" in card[10:].split("/", maxsplit=1)[0].upper():
                # wcslib reads -5D-05 as -5.
                self.changes[key] = value
        for key, value in list(self.values.items()):
            if value is None or (isinstance(value, str) and not value.strip() and _MAY_BE_BLANK.fullmatch(key)):
                if _NUMBER.fullmatch(key) and not _MAY_BE_BLANK.fullmatch(key):
                    raise self.refuse(f"{key} has no value", key=key, fix="Write its value, or leave this image out")
                del self.values[key]
                self.changes[key] = None
            elif _NUMBER.fullmatch(key) and not is_number(value):
                raise self.refuse(
                    f"{key} is {value!r}; a finite number is needed",
                    key=key,
                    fix="Write its value as a number, or leave this image out",
                )

    def number(self, key: str, default: float) -> float:
        """Return the value of a card, or the default if it is absent or not a number."""
        value = self.values.get(key)
        return float(value) if is_number(value) else default

    def drop(self, pattern: re.Pattern[str]) -> None:
        """Remove the cards that match from what astropy reads."""
        self.changes |= {key: None for key in self.values if pattern.fullmatch(key)}

    def has(self, pattern: str) -> bool:
        """Return whether there is a card whose keyword matches."""
        return any(re.fullmatch(pattern, key) for key in self.values)

    def ctype(self, axis: int) -> str:
        """Return CTYPE of an axis, upper case; "" if it has none."""
        return str(self.values.get(f"CTYPE{axis}", "")).strip().upper()

    @property
    def latitude(self) -> int:
        """Return the number of the latitude axis, 1 or 2."""
        name = self.ctype(1).split("-", maxsplit=1)[0]
        return 1 if name == "DEC" or name.endswith(("LAT", "LT")) else 2


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a card's value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
