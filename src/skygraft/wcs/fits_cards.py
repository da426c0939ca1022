"""Check the WCS cards of a FITS header: cards that astropy would silently ignore are errors that name them.

astropy replaces a card whose value it cannot use (text or NaN for a number) by its default, which places an image at
right ascension 0 or gives it pixels of one degree; and it does not apply all distortions that a header can specify.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

from skygraft.errors import MissingWcsError
from skygraft.wcs.card_reader import CardReader, is_number
from skygraft.wcs.card_text import changed, split
from skygraft.wcs.iraf_cards import IrafCorrections, read_iraf
from skygraft.wcs.plate import has_plate, plate_text, read_plate

__all__ = ["WcsCards", "missing", "read_wcs_cards"]

_TABLES = re.compile(r"(CPDIS|CQDIS|D2IMDIS)\d|AXISCORR")
_FURTHER_AXIS = re.compile(
    r"(NAXIS|CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CRDER|CSYER|CNAME)(?![12]$)\d+|(PV|PS)(?![12]_)\d+_\d+"
    r"|(CD|PC)((?![12]_)\d+_\d+|\d+_(?![12]$)\d+|(?!00[12])\d{6}|\d{3}(?!00[12])\d{3})"
)
_CROSS_TERM = re.compile(r"(?:CD|PC)([12]_|00[12])(\d+)")
_SIP = re.compile(r"([AB])_(\d+)_(\d+)")
_PV = re.compile(r"PV[12]_\d+")
_SIP_CARDS = re.compile(r"[AB]P?_(ORDER|DMAX|\d+_\d+)")
_YEARS = (1800, 2200)
_EPOCH_TEXT = re.compile(r"[JB]?\s*(\d{4}(?:\.\d*)?)", re.IGNORECASE)
# Without CDELT, PC must contain the scale: a mere rotation would mean pixels of one degree.
_LARGEST_SCALE = 0.1
_AGREE = 1e-6
# A matrix whose determinant, in units of its largest element squared, is smaller than this is treated as singular.
_SINGULAR = 1e-8


@dataclass(frozen=True)
class WcsCards:
    """The checked WCS cards of a header.

    Parameters
    ----------
    text : str
        All cards, 80 characters each, changed where astropy needs it.
    values : mapping of str to object
        Values of the WCS cards in the header, without cards that have no value.
    iraf : IrafCorrections or None
        Corrections of TNX and ZPX, which are not in `text`.
    plate : bool
        Whether the header has the plate solution of the Digitized Sky Survey, which takes precedence over CTYPE.
    """

    text: str
    values: Mapping[str, Any]
    iraf: IrafCorrections | None = None
    plate: bool = False

    def header(self) -> fits.Header:
        """Return the WCS cards as a header."""
        kept = fits.Header()
        for key, value in self.values.items():
            kept[key] = value
        return kept


def read_wcs_cards(text: str, place: dict[str, Any], *, tables: bool = False) -> WcsCards:
    """Read and check the WCS cards of a header, and adapt the header for astropy.

    Parameters
    ----------
    text : str
        Cards of 80 characters; see `header_text`.
    place : dict
        ``path`` and ``hdu``, for errors.
    tables : bool
        Whether the file has lookup tables that the header may refer to.

    Returns
    -------
    WcsCards

    Raises
    ------
    MissingWcsError
        If the header has no celestial axes.
    WcsError
        If a card is missing, invalid, contradicts another, or is not supported.
    """
    reader = CardReader(place)
    reader.take(text)
    plate = has_plate(reader)
    if plate:
        read_plate(reader)
    else:
        # Remove remains of a plate solution without its polynomials, which wcslib would use.
        reader.drop(re.compile(r"PLT\w+|PPO\d|CNPIX[12]|[XY]PIXELSZ"))
        _celestial_axes(reader)
        _reference(reader)
        _matrix(reader)
    _old_names(reader)
    _further_axes(reader, text)
    _tables(reader, tables)
    _equinox(reader)
    iraf = None
    if not plate:
        iraf = read_iraf(reader)
        _scamp(reader)
    _sip(reader, plate or iraf is not None)
    values = {key: value for key, value in reader.values.items() if value is not None}
    if plate:
        text = plate_text({key: reader.changes.get(key, value) for key, value in values.items()})
    return WcsCards(text if plate else changed(text, reader.changes), values, iraf, plate)


def missing(reason: str, place: dict[str, Any]) -> MissingWcsError:
    """Return the error for a header without celestial coordinates."""
    return MissingWcsError(
        f"the header has no celestial WCS ({reason})",
        **place,
        fix="Choose the HDU that has one, or solve the image's astrometry and write CTYPE, CRVAL, CRPIX and CD cards"
        + ("; the image of a PSF, which GalSim writes with such axes, is given as psf=" if "LINEAR" in reason else ""),
    )


def _is_celestial(ctype: str) -> bool:
    name = ctype.split("-", maxsplit=1)[0].strip()
    return name in ("RA", "DEC") or name.endswith(("LON", "LAT")) or (len(name) == 4 and name[2:] in ("LN", "LT"))


def _celestial_axes(reader: CardReader) -> None:
    """Raise unless the first two axes of the header are celestial."""
    axes = sorted(int(key[5:]) for key in reader.values if re.fullmatch(r"CTYPE\d+", key))
    types = {axis: reader.ctype(axis) for axis in axes if reader.ctype(axis)}
    if not types:
        letters = ", ".join(sorted(reader.alternates))
        raise missing(
            f"CTYPE cards are only those of the alternate description {letters}; the primary one, without a letter, "
            "is needed"
            if letters
            else "no CTYPE cards",
            reader.place,
        )
    celestial = [axis for axis, ctype in types.items() if _is_celestial(ctype)]
    if celestial != [1, 2]:
        reason = f"the axes are {', '.join(repr(ctype) for ctype in types.values())}"
        if len(celestial) == 2:
            reason = f"its celestial axes are {celestial[0]} and {celestial[1]}, and those of an image are 1 and 2"
        raise missing(reason, reader.place)
    for axis in (1, 2):
        ctype = types[axis]
        if ctype[4:8] == "-TAB":
            raise reader.refuse(
                f"the coordinates are in a table (CTYPE{axis} = {ctype!r}), which is not supported",
                key=f"CTYPE{axis}",
                fix="Fit a projection with SIP or TPV polynomials and put that into the header",
            )
        if ctype != str(reader.values[f"CTYPE{axis}"]).rstrip():
            reader.changes[f"CTYPE{axis}"] = ctype


def _reference(reader: CardReader) -> None:
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        if key not in reader.values:
            raise reader.refuse(
                f"the WCS has no {key}",
                key=key,
                fix="Write it into the header; there is no meaningful default",
            )


def _matrix(reader: CardReader) -> None:
    """Raise if the linear part is missing or singular, is given twice with different values, or would be ignored."""
    values = reader.values

    def elements(name: str, default: tuple[float, float]) -> np.ndarray[Any, Any] | None:
        found = {
            (i, j): value
            for i in (1, 2)
            for j in (1, 2)
            for key in (f"{name}{i}_{j}", f"{name}{i:03d}{j:03d}")
            if (value := values.get(key)) is not None
        }
        if not reader.has(rf"{name}([12]_\d+|00[12]\d{{3}})"):
            return None
        return np.array([[found.get((i, j), default[i != j]) for j in (1, 2)] for i in (1, 2)], dtype=np.float64)

    cd, pc = elements("CD", (0.0, 0.0)), elements("PC", (1.0, 0.0))
    steps = [key for key in ("CDELT1", "CDELT2") if key in values]
    lacking = next((key for key in ("CDELT1", "CDELT2") if key not in values), None)
    scaled = None if pc is None else np.array([[reader.number(k, 1.0)] for k in ("CDELT1", "CDELT2")]) * pc
    if cd is None and lacking is not None:
        has_scale = pc is not None and not steps and np.abs(pc).max() < _LARGEST_SCALE
        if not has_scale:
            what = f"no {lacking}" if steps or pc is not None else "neither CDELT nor a CD matrix"
            raise reader.refuse(
                f"the WCS has {what}: its pixels would be of one degree",
                key=lacking,
                fix="Write the pixel scale: CD cards, or CDELT cards with PC or CROTA2",
            )
    if cd is not None and scaled is not None and not _agree(cd, scaled):
        raise reader.refuse(
            f"the CD cards and the PC cards disagree: {cd.tolist()} and {scaled.tolist()} degrees a pixel",
            key="CD1_1",
            fix="Remove those that are wrong; FITS allows one kind",
        )
    # wcslib treats a row of zeros as missing, with pixels of one degree.
    scales = np.diag([reader.number("CDELT1", 1.0), reader.number("CDELT2", 1.0)])
    matrix = cd if cd is not None else (scales if scaled is None else scaled)
    if abs(np.linalg.det(matrix)) <= _SINGULAR * np.abs(matrix).max() ** 2:
        raise reader.refuse(
            f"the {'CDELT' if cd is None and pc is None else 'CD' if pc is None else 'PC and CDELT'} matrix of the WCS "
            f"is singular: {matrix.tolist()} degrees a pixel",
            key="CD1_1" if cd is not None else "CDELT1",
            fix="Repair the header's WCS, or leave this image out",
        )
    lat = reader.latitude
    turn, other = (reader.number(f"CROTA{axis}", 0.0) for axis in (lat, 3 - lat))
    if cd is None and other and abs(other - turn) > _AGREE:
        raise reader.refuse(
            f"CROTA{3 - lat} is {other} and CROTA{lat}, which holds the rotation, "
            + (f"is {turn}" if f"CROTA{lat}" in values else "is not there"),
            key=f"CROTA{3 - lat}",
            fix=f"Write the rotation into CROTA{lat}, and remove CROTA{3 - lat}",
        )
    if cd is None and pc is not None and scaled is not None and turn:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        sign = 1 if lat == 2 else -1
        if not _agree(scaled, np.array([[cos, -sign * sin], [sign * sin, cos]]) @ scales):
            raise reader.refuse(
                f"CROTA{lat} = {turn} and the PC cards disagree",
                key=f"CROTA{lat}",
                fix="Remove those that are wrong; FITS allows one kind",
            )


def _further_axes(reader: CardReader, text: str) -> None:
    """Remove axes after the first two, of length one, if positions do not depend on them; otherwise raise."""
    for key, value in reader.values.items():
        term = _CROSS_TERM.fullmatch(key)
        axis = 0 if term is None else int(term[2])
        # Positions are evaluated at pixel 1 of this axis, wherever its reference pixel is.
        if axis > 2 and value * (1 - reader.number(f"CRPIX{axis}", 0.0)):
            raise reader.refuse(
                f"positions depend on axis {axis} ({key} = {value})",
                key=key,
                fix="Make a two-dimensional image of the plane, with a WCS of its own",
            )
    for key, _ in split(text):
        if _FURTHER_AXIS.fullmatch(key):
            reader.changes[key] = None
    for key in ("NAXIS", "WCSAXES"):
        if reader.number(key, 2) != 2:
            reader.changes[key] = 2


def _agree(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> bool:
    return bool(np.abs(one - two).max() <= _AGREE * max(np.abs(one).max(), np.abs(two).max()))


def _tables(reader: CardReader, given: bool) -> None:
    for key, value in reader.values.items():
        kind = str(value).strip()
        if not _TABLES.fullmatch(key) or not kind:
            continue
        if not (given and kind.lower() == "lookup" and not key.startswith("CQDIS")):
            raise reader.refuse(
                f"the WCS has a distortion that is not supported here ({key} = {kind!r})",
                key=key,
                fix="Fit the distortion with SIP or TPV polynomials and put those into the header",
            )


def _old_names(reader: CardReader) -> None:
    """Rename obsolete RADECSYS and PROJP cards to RADESYS and PV cards."""
    for key in [k for k in reader.values if k == "RADECSYS" or k.startswith("PROJP")]:
        name = "RADESYS" if key == "RADECSYS" else f"PV{reader.latitude}_{int(key[5:])}"
        value = reader.values.pop(key)
        if key != "RADECSYS" and value != 0 and reader.ctype(1)[5:8] in ("TAN", "TPV", "TNX"):
            raise reader.refuse(
                f"{key} = {value} has no meaning beside {reader.ctype(1)}",
                key=key,
                fix="Write ZPN into CTYPE where it is meant, or remove it",
            )
        known = reader.values.setdefault(name, value)
        if known != value and key != "RADECSYS":
            raise reader.refuse(
                f"{key} is {value} and {name}, which is the same, is {known}",
                key=key,
                fix="Remove the one that is wrong",
            )
        reader.changes |= {key: None, name: known}


def _equinox(reader: CardReader) -> None:
    """Convert an equinox given as text, such as J2000, to a number."""
    if str(reader.values.get("RADESYS", "")).strip().upper() == "ICRS" or reader.ctype(1).startswith(("GLON", "GLAT")):
        # Nothing depends on it.
        reader.drop(re.compile("EQUINOX|EPOCH"))
        return
    if "EQUINOX" in reader.values:
        reader.drop(re.compile("EPOCH"))
    key = "EQUINOX" if "EQUINOX" in reader.values else "EPOCH"
    value = reader.values.get(key)
    written = value if is_number(value) else _EPOCH_TEXT.fullmatch(str(value).strip())
    year = float(written[1]) if isinstance(written, re.Match) else written
    if value is not None and (year is None or not _YEARS[0] < year < _YEARS[1]):
        raise reader.refuse(
            f"{key} is {value!r}; a year such as 2000.0 is needed",
            key=key,
            fix=f"Write the year, or RADESYS = 'ICRS' and no {key}",
        )
    if value is not None and year != value:
        reader.changes[key] = year


def _scamp(reader: CardReader) -> None:
    """Decide the meaning of PV cards with a TAN projection.

    Before TPV had a name, SCAMP wrote its polynomials in this form. If SIP cards give the same distortion too, the
    suffix of CTYPE decides which are used. In the standard, the latitude axis has no parameters, and the longitude axis
    has up to four, of which the first ones move the reference point of the projection.
    """
    types = [reader.ctype(axis) for axis in (1, 2)]
    if all(ctype.endswith("-TPV") for ctype in types):
        reader.drop(_SIP_CARDS)
        return
    if not all(re.search("-TAN(-SIP)?$", ctype) for ctype in types):
        return
    cards = {key: int(key.split("_")[1]) for key in reader.values if _PV.fullmatch(key)}
    if max(cards.values(), default=0) >= 5:
        if any(ctype.endswith("-SIP") for ctype in types) and _sip_terms(reader):
            reader.drop(re.compile(r"PV\d+_\d+"))
        else:
            reader.drop(_SIP_CARDS)
            reader.changes |= {f"CTYPE{axis}": re.sub("-TAN(-SIP)?$", "-TPV", types[axis - 1]) for axis in (1, 2)}
        return
    poles = (f"PV{3 - reader.latitude}_3", f"PV{3 - reader.latitude}_4")
    for key in cards:
        if float(reader.values[key]) != 0 and key not in poles:
            raise reader.refuse(
                f"{key} = {reader.values[key]} beside a TAN projection has two meanings: a distortion as SCAMP writes "
                "it, or a reference point of the projection",
                key=key,
                fix="Write TPV into CTYPE where the distortion is meant, or remove the PV cards",
            )


def _sip_terms(reader: CardReader) -> dict[str, tuple[str, int]]:
    """Return the SIP coefficients that are used and not zero: polynomial (A or B) and order by keyword."""
    live = [key for key in reader.values if reader.changes.get(key, True) is not None]
    found = {key: match for key in live if (match := _SIP.fullmatch(key)) and reader.values[key] != 0}
    return {key: (match[1], int(match[2]) + int(match[3])) for key, match in found.items()}


def _sip(reader: CardReader, other: bool) -> None:
    """Raise for SIP cards that astropy would silently ignore."""
    terms, values = _sip_terms(reader), reader.values
    if other:
        # The PV cards of ZPX are not a second distortion: they define the radial polynomial of ZPN.
        with_pv = not reader.ctype(1).endswith("-ZPX")
        second = [k for k in values if k in terms or (with_pv and _PV.fullmatch(k) and values[k] != 0)]
        if second:
            raise reader.refuse(
                f"the header has {'SIP' if second[0] in terms else 'PV'} cards ({second[0]}) beside another distortion",
                key=second[0],
                fix="Remove the one that is not meant",
            )
    # The inverse is solved from the forward polynomials; the approximate AP and BP polynomials are not used.
    reader.drop(re.compile(r"[AB]P_(ORDER|DMAX|\d+_\d+)"))
    if not terms:
        reader.drop(_SIP_CARDS)
        return
    for name in "AB":
        order = values.get(f"{name}_ORDER")
        if order is None:
            raise reader.refuse(
                f"the header has SIP cards ({next(iter(terms))}) and no {name}_ORDER",
                key=f"{name}_ORDER",
                fix=f"Write {name}_ORDER, or remove the SIP cards",
            )
        beyond = next((k for k, (letter, power) in terms.items() if letter == name and power > order), None)
        if beyond is not None:
            raise reader.refuse(
                f"{beyond} is beyond {name}_ORDER = {order}",
                key=beyond,
                fix=f"Raise {name}_ORDER, or remove the card",
            )
        if order < 2:
            # astropy ignores polynomials of first order.
            reader.changes[f"{name}_ORDER"] = 2
    for axis in (1, 2):
        # SCAMP, SWarp and astrometry.net omit the -SIP suffix; astropy would print a long message about it.
        if len(ctype := reader.ctype(axis)) == 8:
            reader.changes[f"CTYPE{axis}"] = f"{ctype}-SIP"
