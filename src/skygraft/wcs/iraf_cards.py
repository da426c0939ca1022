"""Read the corrections of IRAF's TNX and ZPX projections from WAT cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from skygraft.wcs.card_reader import CardReader
from skygraft.wcs.distortion import IrafSurface

__all__ = ["IrafCorrections", "read_iraf"]

_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*("[^"]*(?:"|$)|\S+)""")
_WAT_WIDTH = 68
_FORTRAN = re.compile(r"(?<=[\d.])[Dd](?=[+-]?\d)")
_HARMLESS_ATTRIBUTES = {"wtype", "axtype", "units", "label", "format", "lngcor", "latcor"}


@dataclass(frozen=True)
class IrafCorrections:
    """The corrections of a TNX or ZPX projection.

    Parameters
    ----------
    lngcor, latcor : tuple of float or None
        Numbers of the surfaces, for `IrafSurface`.
    """

    lngcor: tuple[float, ...] | None
    latcor: tuple[float, ...] | None


def read_iraf(reader: CardReader) -> IrafCorrections | None:
    """Read the corrections of TNX and ZPX, and replace the projections by TAN and ZPN for astropy.

    wcslib could apply the corrections, but crashes the process on some cards, so it does not get them.
    """
    codes, lat = [reader.ctype(axis)[5:8] for axis in (1, 2)], reader.latitude
    attributes = [_wat(reader, axis) for axis in (1, 2)]
    wtypes = [str(a.get("wtype", "")).lower() for a in attributes]
    corrected = any({"lngcor", "latcor"} & a.keys() for a in attributes)
    reader.drop(re.compile(r"WAT\d_\d{3}"))
    if not set(codes) & {"TNX", "ZPX"}:
        other = reader.has(rf"[AB]_ORDER|PV{lat}_\d+") and set(codes) == {"TAN"}
        if corrected and {"tnx", "zpx"} & set(wtypes) and set(codes) <= {"TAN", "ZPN"} and not other:
            raise reader.refuse(
                f"CTYPE says {codes[0]}, and the WAT cards give the distortion of {wtypes[0] or wtypes[1]}",
                key="WAT1_001",
                fix="Write TNX or ZPX into CTYPE if the distortion is meant; otherwise remove the WAT cards",
            )
        return None
    if codes[0] != codes[1] or not all(attributes):
        lacking = next((i + 1 for i, a in enumerate(attributes) if not a), None)
        raise reader.refuse(
            f"CTYPE1 and CTYPE2 are {reader.ctype(1)} and {reader.ctype(2)}"
            + ("" if lacking is None else f", whose distortion is in WAT cards, and there is no WAT{lacking}_001"),
            key="CTYPE1" if lacking is None else f"WAT{lacking}_001",
            fix="Restore the cards, or write TAN or ZPN if no distortion is meant",
        )
    code = codes[0]
    for axis, found in enumerate(attributes, 1):
        unknown = next((k for k in found if k not in _HARMLESS_ATTRIBUTES and not re.fullmatch(r"projp\d+", k)), None)
        if unknown is not None or found.get("wtype", code.lower()).lower() != code.lower():
            raise reader.refuse(
                f"the WAT{axis} cards of a {code} projection say {unknown or 'wtype'} = {found[unknown or 'wtype']}, "
                "which is not supported",
                key=f"WAT{axis}_001",
                fix="Write the astrometry as SIP or TPV",
            )
    for axis in (1, 2):
        ctype = reader.ctype(axis)
        reader.changes[f"CTYPE{axis}"] = ctype[:5] + {"TNX": "TAN", "ZPX": "ZPN"}[code]
    if "LONPOLE" not in reader.values:
        # IRAF's default, also at the pole.
        reader.changes["LONPOLE"] = 180.0
    if code == "ZPX":
        _radial(reader, attributes, lat)
    lng, lng_axis = attributes[2 - lat], 3 - lat
    return IrafCorrections(
        _surface(reader, lng.get("lngcor"), f"WAT{lng_axis}_001"),
        _surface(reader, attributes[lat - 1].get("latcor"), f"WAT{lat}_001"),
    )


def _wat(reader: CardReader, axis: int) -> dict[str, str]:
    """Attributes of an axis in its WAT cards, lower case; lost trailing blanks of cards are restored."""
    pieces = [str(reader.values[key]) for key in sorted(k for k in reader.values if k.startswith(f"WAT{axis}_"))]
    as_is, padded = (
        {m[1].lower(): m[2].strip('"') for m in _ATTRIBUTE.finditer(text)}
        for text in ("".join(pieces), "".join(piece.ljust(_WAT_WIDTH) for piece in pieces))
    )
    return padded if not _is_sound(as_is) and _is_sound(padded) else as_is


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(_FORTRAN.sub("E", word)) for word in text.split())


def _is_sound(attributes: Mapping[str, str]) -> bool:
    try:
        for name, text in attributes.items():
            if name in ("lngcor", "latcor"):
                IrafSurface(_numbers(text))
            elif name.startswith("projp"):
                float(text)
    except ValueError:
        return False
    return True


def _surface(reader: CardReader, text: str | None, key: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = _numbers(text)
        IrafSurface(numbers)
    except ValueError as error:
        raise reader.refuse(
            f"the distortion in the WAT cards is invalid: {error}",
            key=key,
            fix="Restore the cards; trailing blanks are significant",
        ) from error
    return numbers


def _radial(reader: CardReader, attributes: list[dict[str, str]], lat: int) -> None:
    """Convert the radial polynomial of ZPX to that of ZPN: PV cards of the latitude axis."""
    for found in (attributes[2 - lat], attributes[lat - 1]):
        for name, text in found.items():
            if not name.startswith("projp"):
                continue
            key = f"PV{lat}_{int(name[5:])}"
            try:
                (value,) = _numbers(text)
            except ValueError as error:
                raise reader.refuse(
                    f"{name} in the WAT cards is {text!r}; a number is needed", key=key, fix="Restore the cards"
                ) from error
            known = reader.values.get(key, reader.changes.get(key, value))
            if known != value:
                raise reader.refuse(
                    f"{name} is {value} in the WAT cards, and {known} elsewhere in the header",
                    key=key,
                    fix="Remove the one that is wrong",
                )
            reader.changes[key] = value
