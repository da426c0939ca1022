"""Which calibration references a campaign's images used: how many images each, and whether they are all the same."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from skygraft.photometry.reference import recorded_unit
from skygraft.photometry.resolve import RADIUS_TOLERANCE

__all__ = ["CalibrationUse", "calibration_use", "describe", "fold", "mixed_calibrations", "split_origin", "tidy"]

_DIGITS = 6
_FILES = 3
"""Files named as examples."""
_MOST_RADII = 200
_TOLD = 20
_FILE = re.compile(r" in ([^\s,;:()]+\.[A-Za-z]\w*(?:\.(?:fz|gz|bz2|xz))?)(?:\[\w+\])?(?![\w.-])")
"""A file that is named, by its ending."""
_APART_BEFORE = re.compile(r"(?<![\w.-])")
_HDU = re.compile(r"(?:\[\w+\])?(?![\w.-])")
"""What stands before and after the name of a file."""
_NUMBER = re.compile(r" = [-+.\d\[('\"][^,]*|: radius [-+.\de]+ (?:pix|arcsec)")
"""The value of a header's key, as origins repeat it."""


@dataclass(frozen=True)
class CalibrationUse:
    """One calibration reference, as some images used it.

    Parameters
    ----------
    kind : str
        ``aperture``, ``psf_model`` or ``total``; empty where the image did not say and the flux mode did not ask.
    unit : str
        Of `radius`, which is a radius and not a diameter: ``pix`` or ``arcsec``, whichever the images have in common;
        empty without an aperture.
    radius : float or None
        The aperture's radius.
    origin : str
        Where it was found, without the name of the file, which may be another one for each image.
    n_images : int
        How many images used it.
    pixels, arcsec : (float, float) or None
        Smallest and largest radius, in pixels of the images and on the sky.
    bands, instruments : tuple of str
        Of those images, sorted; unknown ones are left out.
    files : tuple of str
        Names of files that it was found in: the first few, sorted.
    """

    kind: str
    unit: str
    radius: float | None
    origin: str
    n_images: int
    pixels: tuple[float, float] | None
    arcsec: tuple[float, float] | None
    bands: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The use as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CalibrationUse:
        """What `to_dict` gave."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
        return cls(**fields)

    @property
    def key(self) -> tuple[str, str, float, str]:
        """What equal references have in common; sorts."""
        return self.kind, self.unit, self.radius or 0.0, self.origin

    def agrees(self, other: CalibrationUse) -> bool:
        """Whether the two are the flux of the same thing: of one kind, and within half a per cent of one radius.

        On the sky where that is known of both: 12 pixels of two cameras are two apertures.
        """
        if self.kind != other.kind:
            return False
        for mine, theirs in ((self.arcsec, other.arcsec), (self.pixels, other.pixels)):
            if mine is not None and theirs is not None:
                grow = 1 + RADIUS_TOLERANCE
                return mine[0] <= theirs[1] * grow and theirs[0] <= mine[1] * grow
        return True

    @property
    def mixed(self) -> bool:
        """Whether these images alone do not agree: on the sky, 12 pixels of two cameras are two apertures.

        The pixel scale of one camera differs a little from image to image; that is no other aperture.
        """
        span = self.arcsec or self.pixels
        if span is None or (self.unit and len(self.instruments) <= 1):
            return False
        return span[1] > span[0] * (1 + RADIUS_TOLERANCE)

    @property
    def place(self) -> str:
        """Where it was found, with an example of the files."""
        origin = self.origin or "origin unknown"
        if not self.files:
            return origin
        return f"{origin} in {self.files[0]}" if self.n_images == 1 else f"{origin}, in files such as {self.files[0]}"

    def __str__(self) -> str:
        if self.kind != "aperture":
            return {"psf_model": "PSF model", "total": "total flux", "": "unknown"}.get(self.kind, self.kind)
        pixels, arcsec = _span(self.pixels), _span(self.arcsec)
        both = {"pix": pixels and f"{pixels} pix", "arcsec": arcsec and f"{arcsec} arcsec"}
        first = both.pop(self.unit, "")
        return "aperture of radius " + " = ".join(text for text in (first, *both.values()) if text)


def _span(values: tuple[float, float] | None) -> str:
    if values is None:
        return ""
    low, high = (f"{value:.4g}" for value in values)
    return low if low == high else f"{low} to {high}"


def calibration_use(
    calibration: Mapping[str, Any], band: str | None, instrument: str | None, files: Iterable[str] = ()
) -> CalibrationUse:
    """The calibration that an image's record tells of, as the use of one image.

    Parameters
    ----------
    calibration : mapping
        ``kind``, ``radius_pixels``, ``radius_arcsec``, ``origin``.
    band, instrument : str or None
        The image's.
    files : iterable of str
        Paths of the files that were read for the image, one of which the origin may name.
    """
    origin, file = split_origin(str(calibration.get("origin") or ""), files)
    pixels, arcsec = calibration.get("radius_pixels"), calibration.get("radius_arcsec")
    unit, radius = _nominal(pixels, arcsec)
    return CalibrationUse(
        kind=calibration.get("kind") or "",
        unit=unit,
        radius=radius,
        origin=origin,
        n_images=1,
        pixels=None if pixels is None else (float(pixels), float(pixels)),
        arcsec=None if arcsec is None else (float(arcsec), float(arcsec)),
        bands=(band,) if band else (),
        instruments=(instrument,) if instrument else (),
        files=(file,) if file else (),
    )


def _nominal(pixels: float | None, arcsec: float | None) -> tuple[str, float | None]:
    """The unit in which the radius was given and the radius in it; where the unit is not known, a rounded radius."""
    unit = recorded_unit(pixels, arcsec)
    given = arcsec if unit == "arcsec" else pixels
    if unit is not None and given is not None:
        return unit, _rounded(given, _DIGITS)
    if pixels is not None:
        return "pix", _rounded(pixels, 3)
    return ("", None) if arcsec is None else ("arcsec", _rounded(arcsec, 3))


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def split_origin(origin: str, files: Iterable[str] = ()) -> tuple[str, str]:
    """Part an origin into the field that was found and the name of the file that it was found in.

    Parameters
    ----------
    origin : str
        ``"CALAPRAD = 12.0 in 3fa9c1.fits[1]"``.
    files : iterable of str
        Paths of files that it may name.

    Returns
    -------
    field, file : str
        ``"CALAPRAD"`` and ``"3fa9c1.fits"``: neither the number, which the radius tells, nor the HDU is of the field.
        The file is empty where none is named.
    """
    field, file = origin, ""
    names = {path.rpartition("/")[2] or PurePath(path).name for path in files}
    for name in sorted(names - {""}, key=lambda name: (-len(name), name)):
        if (rest := _without(origin, name)) is not None:
            field, file = rest, name
            break
    else:
        found = _FILE.search(origin)
        if found is not None:
            field, file = origin[: found.start()] + origin[found.end() :], found[1]
    return _NUMBER.sub("", field), file


def _without(origin: str, name: str) -> str | None:
    """An origin without the name of a file; None where it does not name it."""
    at = origin.find(name)
    if at < 0:
        return None
    if origin.find(name, at + 1) >= 0:
        known = re.compile(rf"(?P<in> in )?{_APART_BEFORE.pattern}{re.escape(name)}{_HDU.pattern}")
        rest, n = known.subn(lambda found: "" if found["in"] else "the file", origin)
        return rest if n else None
    # The same without an expression for each image's file, which takes a quarter of a millisecond to compile.
    end = _HDU.match(origin, at + len(name))
    if end is None or not _APART_BEFORE.match(origin, at):
        return None
    before = origin[:at]
    kept = before.removesuffix(" in ") if before.endswith(" in ") else f"{before}the file"
    return kept + origin[end.end() :]


def fold(uses: Iterable[CalibrationUse]) -> tuple[CalibrationUse, ...]:
    """Uses with equal references put together; sorted, whatever the order they came in and however often folded.

    Of a kind and origin with more than some hundred radii, as where each image has a radius of its own, one use is
    left, with the smallest and the largest of them.
    """
    found: dict[tuple[str, str, float, str], CalibrationUse] = {}
    for use in uses:
        before = found.get(use.key)
        found[use.key] = use if before is None else _together(before, use)
    radii = Counter((use.kind, use.origin) for use in found.values())
    whole = {(use.kind, use.origin) for use in found.values() if use.kind == "aperture" and not use.unit}
    for group in sorted(whole | {group for group, n in radii.items() if n > _MOST_RADII}):
        members = [found.pop(key) for key in sorted(found) if (key[0], key[3]) == group]
        one = functools.reduce(_together, (replace(use, unit="", radius=None) for use in members))
        found[one.key] = one
    return tuple(found[key] for key in sorted(found))


def tidy(uses: Iterable[CalibrationUse]) -> tuple[CalibrationUse, ...]:
    """All uses of a campaign, folded; images whose radius in arcsec happens to be round in pixels too are not apart.

    Only of all of them together: of some it could come out otherwise.
    """
    found = {use.key: use for use in fold(uses)}
    for key in sorted(found):
        kind, unit, _, origin = key
        use = found[key]
        if unit != "pix" or use.arcsec is None or use.arcsec[1] - use.arcsec[0] > 1e-6 * use.arcsec[1]:
            continue
        other = (kind, "arcsec", _rounded(use.arcsec[0], _DIGITS), origin)
        if other in found:
            found[other] = _together(found[other], found.pop(key))
    return tuple(found[key] for key in sorted(found))


def _together(one: CalibrationUse, two: CalibrationUse) -> CalibrationUse:
    return CalibrationUse(
        one.kind,
        one.unit,
        one.radius,
        one.origin,
        one.n_images + two.n_images,
        _hull(one.pixels, two.pixels),
        _hull(one.arcsec, two.arcsec),
        tuple(sorted({*one.bands, *two.bands})),
        tuple(sorted({*one.instruments, *two.instruments})),
        tuple(sorted({*one.files, *two.files})[:_FILES]),
    )


def _hull(one: tuple[float, float] | None, two: tuple[float, float] | None) -> tuple[float, float] | None:
    if one is None or two is None:
        return one or two
    return min(one[0], two[0]), max(one[1], two[1])


def mixed_calibrations(uses: Sequence[CalibrationUse]) -> bool:
    """Whether the images' calibrated fluxes are not all the flux of the same thing."""
    return any(use.mixed for use in uses) or any(not one.agrees(two) for one, two in itertools.combinations(uses, 2))


def describe(uses: Sequence[CalibrationUse]) -> str:
    """One sentence that tells what the images are calibrated to; where that differs it says so first."""
    if not uses:
        return "No image is done, so no calibration was used."
    largest = sorted(uses, key=lambda use: -use.n_images)[:_TOLD]
    parts = "; ".join(f"{use} in {use.n_images} images ({use.place})" for use in largest)
    parts += f"; and {len(uses) - _TOLD} more" if len(uses) > _TOLD else ""
    if mixed_calibrations(uses):
        return (
            f"The images do NOT all use the same calibration reference: {parts}. Magnitudes of one source are the "
            "flux of different things on them; each image's own reference is in its record."
        )
    return f"All images use the same calibration reference: {parts}."
