"""Find the planes of an ordinary FITS image, in HDUs of one file or in companion files.

An HDU is a plane if its EXTNAME is one of `HDU_NAMES`. A file in the directory of an image ``<stem>.fits`` (or
``.fits.fz``, ``.fits.gz``) is a plane if its name is ``<stem>.<word>.fits`` or ``<stem>_<word>.fits`` (or ``.fits.fz``,
``.fits.gz``) with one of `FILE_WORDS`; the PSF model is ``<stem>.psf``, ``<stem>.psf.fits`` or ``<stem>_psf.fits``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from astropy.io import fits

from skygraft.errors import ConfigError, FormatError
from skygraft.fitsfile.open import open_fits
from skygraft.fitsfile.packed import PACKED_SUFFIXES
from skygraft.formats.base import ReadOptions, identify_files
from skygraft.formats.fits_headers import Headers
from skygraft.places import is_file
from skygraft.wcs import TABLE_NAMES, has_wcs

__all__ = [
    "FILE_WORDS",
    "HDU_NAMES",
    "FitsLayout",
    "HduInfo",
    "Plane",
    "PlaneOptions",
    "Role",
    "find_layout",
    "is_flat",
    "list_hdus",
    "planes_of_cubes",
    "split_name",
]

type Role = Literal["image", "variance", "weight", "rms", "mask"]

NOISE_ROLES: tuple[Role, ...] = ("variance", "weight", "rms")

HDU_NAMES: dict[Role, tuple[str, ...]] = {
    "image": ("IMAGE", "SCI", "SCIENCE", "PRIMARY"),
    "variance": ("VARIANCE", "VAR"),
    "weight": ("WEIGHT", "WHT", "WGT", "IVAR", "INVVAR"),
    "rms": ("RMS", "ERR", "ERROR", "SIGMA", "UNCERT", "STDDEV"),
    "mask": ("MASK", "MSK", "DQ", "FLAG", "FLAGS", "BPM"),
}
"""EXTNAMEs by which HDUs are recognised. Weights are assumed to be inverse variances."""

FILE_WORDS: dict[Role, tuple[str, ...]] = {
    "variance": ("var", "variance"),
    "weight": ("weight", "wht", "ivar"),
    "rms": ("rms", "sigma"),
    "mask": ("mask", "flag", "dq"),
}
"""Words in file names by which companion files of an image are recognised."""

_SUFFIX = re.compile(r"(\.(?:fits|fit|fts)(?:\.(?:fz|gz|bz2|xz|zst))?|\.fz)$", re.IGNORECASE)
_SUFFIXES = (".fits", ".fits.fz", ".fits.gz")
_PSF_ENDINGS = (".psf", ".psf.fits", "_psf.fits")
_BRACKET = re.compile(r"^(?P<path>.+)\[(?P<hdu>[^\[\]]+)\]$")


@dataclass(frozen=True)
class HduInfo:
    """Description of an HDU, without its pixels.

    Parameters
    ----------
    index : int
        Number of the HDU, 0-based.
    name : str
        EXTNAME, upper case; "" if it has none.
    version : int
        EXTVER; 1 where that is no number (grizli writes 'SCI').
    shape : tuple of int or None
        Shape of its image, without axes of length one before the last two; None if it contains no image.
    header : Header
        Its header; for a compressed image, the header of the image.
    tile_shape : tuple of int or None
        Shape of its tiles; None if it is not compressed.
    slab : int or None
        Which plane of its cube this describes; None for the whole HDU. See `planes_of_cubes`.
    """

    index: int
    name: str
    version: int
    shape: tuple[int, ...] | None
    header: fits.Header
    tile_shape: tuple[int, ...] | None
    slab: int | None = None

    def plane(self, role: Role, path: Path) -> Plane:
        """Return the HDU as a plane of some role in the file `path`."""
        return Plane(role, path, self.index, self.tile_shape, self.slab)

    def __str__(self) -> str:
        what = "no image" if self.shape is None else "x".join(str(n) for n in reversed(self.shape)) + " image"
        return f"{self.index} {self.name or '(no name)'}: {what}"


@dataclass(frozen=True)
class Plane:
    """One plane of an image.

    Parameters
    ----------
    role : str
        What it contains: "image", "variance", "weight", "rms" or "mask".
    path : Path
        Its file.
    hdu : int
        Its HDU in that file.
    tile_shape : tuple of int or None
        Shape of its tiles; None if it is not compressed.
    slab : int or None
        Which plane of a cube it is; None for an HDU that holds one plane.
    """

    role: Role
    path: Path
    hdu: int
    tile_shape: tuple[int, ...] | None
    slab: int | None = None


@dataclass(frozen=True)
class FitsLayout:
    """The planes of an image and their files; missing ones are None.

    Parameters
    ----------
    image : Plane
        The image.
    noise : Plane or None
        Variance, inverse variance ("weight") or standard deviation ("rms").
    mask : Plane or None
        Bit mask.
    psf : Path or None
        PSF model file beside the image.
    marks : Path or None
        File that marks injected pixels, of formats whose own mask is copied unchanged.
    others : tuple of Path
        Further files of the image, which are copied.
    """

    image: Plane
    noise: Plane | None = None
    mask: Plane | None = None
    psf: Path | None = None
    marks: Path | None = None
    others: tuple[Path, ...] = ()

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The existing planes, the image first."""
        return tuple(plane for plane in (self.image, self.noise, self.mask) if plane is not None)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, without repetition, the image's first."""
        paths = [plane.path for plane in self.planes]
        paths += [path for path in (self.psf, self.marks, *self.others) if path is not None]
        return tuple(dict.fromkeys(paths))


@dataclass(frozen=True)
class PlaneOptions(ReadOptions):
    """Options for planes that are not found by name.

    Parameters
    ----------
    hdu : int or str, optional
        HDU of the image, by number, by name, or by name and EXTVER ("SCI,2").
    variance, weight, rms, mask : int, str or False, optional
        An HDU of the image's file, by number or name; or a file, relative to the image's directory, with an optional
        HDU (``"m.fits[1]"``) and ``{stem}`` for the image's name without ``.fits``; or False for none.
    """

    hdu: int | str | None = None
    variance: int | str | Literal[False] | None = None
    weight: int | str | Literal[False] | None = None
    rms: int | str | Literal[False] | None = None
    mask: int | str | Literal[False] | None = None


def split_name(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Split the name of an image file into stem and suffix: ``("a.b", ".fits.fz")``."""
    name = Path(path).name
    match = _SUFFIX.search(name)
    return (name, "") if match is None else (name[: match.start()], match.group(0))


def list_hdus(path: str | os.PathLike[str]) -> tuple[HduInfo, ...]:
    """Return the HDUs of a file, reading headers only; the headers are cached and must not be changed.

    Raises
    ------
    CorruptFileError
        If the file is missing, empty, not FITS, or truncated.
    """
    stamp = identify_files([path])[os.fspath(path)]
    return _list_hdus(os.fspath(path), stamp.n_bytes, stamp.mtime_ns)


# A mosaic is opened for image, weight and mask of each of its CCDs.
@lru_cache(maxsize=8)
def _list_hdus(path: str, n_bytes: int, mtime_ns: int) -> tuple[HduInfo, ...]:
    with open_fits(path) as hdus:
        found = []
        for index, hdu in enumerate(hdus):
            shape = tuple(hdu.shape) if hdu.is_image and all(hdu.shape) else ()
            tiles = None
            if isinstance(hdu, fits.CompImageHDU):
                # The header may give a tile larger than the image.
                tiles = tuple(min(t, n) for t, n in zip(hdu.tile_shape, hdu.shape, strict=True))
            # A cube of a single plane is treated as an image.
            further = len(shape) - 2
            if further > 0 and set(shape[:further]) == {1}:
                shape, tiles = shape[further:], tiles and tiles[further:]
            name, header = str(hdu.name).upper(), hdu.header.copy()
            found.append(HduInfo(index, name, _version(hdu.ver), shape or None, header, tiles))
        return tuple(found)


def _version(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 1


def planes_of_cubes(hdus: Sequence[HduInfo], slab: int) -> tuple[HduInfo, ...]:
    """Return the HDUs of a file with one plane of each cube in place of the cube."""
    return tuple(
        hdu
        if hdu.shape is None or len(hdu.shape) != 3
        else dataclasses.replace(hdu, shape=hdu.shape[1:], tile_shape=None, slab=slab)
        for hdu in hdus
    )


def inherited_headers(hdus: Sequence[HduInfo], index: int) -> Headers:
    """Return the header of one HDU followed by the primary header, from which extensions inherit."""
    return Headers((i, hdus[i].header) for i in dict.fromkeys((index, 0)))


def find_layout(path: str | os.PathLike[str], options: PlaneOptions, hdus: Sequence[HduInfo]) -> FitsLayout:
    """Find the planes of an image.

    Parameters
    ----------
    path : path-like
        The image's file.
    options : PlaneOptions
        Options of the caller.
    hdus : sequence of HduInfo
        The HDUs of that file.

    Returns
    -------
    FitsLayout

    Raises
    ------
    FormatError
        If there is no image, several could be meant, or a requested plane does not exist.
    """
    path = Path(path)
    image = _choose_image(path, options.hdu, hdus)
    noise = _find_noise(path, options, hdus, image)
    mask = _find_plane("mask", options.mask, path, hdus, image)
    psf = next((p for p in (path.with_name(split_name(path)[0] + end) for end in _PSF_ENDINGS) if is_file(p)), None)
    return FitsLayout(image.plane("image", path), noise, mask, psf)


def is_flat(hdu: HduInfo) -> bool:
    """Return whether an HDU contains a two-dimensional image."""
    return hdu.shape is not None and len(hdu.shape) == 2


def _dimensions(hdu: HduInfo) -> str:
    return "" if hdu.shape is None else f", but one of {len(hdu.shape)} dimensions (shape {hdu.shape})"


def _listed(hdus: Iterable[HduInfo]) -> str:
    return "; ".join(str(hdu) for hdu in hdus)


def _choose_image(path: Path, wanted: int | str | None, hdus: Sequence[HduInfo]) -> HduInfo:
    if wanted is not None:
        return _named(path, wanted, hdus, "hdu")
    others = {*TABLE_NAMES, *(name for role, names in HDU_NAMES.items() if role != "image" for name in names)}
    images = [hdu for hdu in hdus if is_flat(hdu) and hdu.name not in others]
    for better in (
        [hdu for hdu in images if hdu.name in HDU_NAMES["image"]],
        [hdu for hdu in images if has_wcs(hdu.header)],
    ):
        images = better if len(images) > 1 and len(better) == 1 else images
    if not images and (planes := [hdu for hdu in hdus if is_flat(hdu)]) and len(planes) == 1:
        # `skygraft.formats.fits_kinds.refuse_companion` raises an error that says what this is.
        return planes[0]
    if not images:
        flat = [hdu for hdu in hdus if is_flat(hdu)]
        raise FormatError(
            f"the file has no image but what its EXTNAME calls a weight, a mask or the like: {_listed(flat)}"
            if flat
            else f"the file has no two-dimensional image; its HDUs are {_listed(hdus)}",
            path=path,
            fix="Give the file of the image (or its hdu=)",
        )
    if len(images) > 1:
        raise FormatError(
            f"the file has {len(images)} images: {_listed(images)}", path=path, fix="Choose one with hdu="
        )
    return images[0]


def _called(text: str, hdus: Sequence[HduInfo]) -> list[HduInfo]:
    """Return the HDUs of a name, or of a name and an EXTVER: ``"SCI"``, ``"SCI,2"``."""
    found = [hdu for hdu in hdus if hdu.name == text.upper()]
    name, comma, version = text.upper().rpartition(",")
    if found or not comma or not version.strip().isdecimal():
        return found
    return [hdu for hdu in hdus if hdu.name == name.strip() and hdu.version == int(version)]


def _named(path: Path, wanted: int | str, hdus: Sequence[HduInfo], key: str) -> HduInfo:
    """Return the image HDU with that number, name, or name and EXTVER."""
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        found = [hdu for hdu in hdus if hdu.index == (wanted if wanted >= 0 else len(hdus) + wanted)]
    elif isinstance(wanted, str):
        text = wanted.strip()
        found = _called(text, hdus) or ([hdu for hdu in hdus if hdu.index == int(text)] if text.isdecimal() else [])
    else:
        raise ConfigError(f"{key} is {wanted!r}; the number or name of an HDU is needed", path=path, key=key)
    if not found:
        raise FormatError(
            f"there is no HDU {wanted!r}; the file has {_listed(hdus)}", path=path, key=key, fix="Give one of these"
        )
    if len(found) > 1:
        versions = {hdu.version for hdu in found}
        with_version = f", or name and EXTVER, such as {key}='{found[-1].name},{found[-1].version}'"
        raise FormatError(
            f"{len(found)} HDUs are called {wanted!r}: {_listed(found)}",
            path=path,
            key=key,
            fix="Give its number" + (with_version if len(versions) == len(found) else ""),
        )
    if not is_flat(found[0]):
        raise FormatError(
            f"HDU {wanted!r} holds no two-dimensional image{_dimensions(found[0])}; the file has {_listed(hdus)}",
            path=path,
            key=key,
            fix="Give one that does",
        )
    return found[0]


def _find_noise(path: Path, options: PlaneOptions, hdus: Sequence[HduInfo], image: HduInfo) -> Plane | None:
    given = {role: getattr(options, role) for role in NOISE_ROLES}
    asked = [role for role, value in given.items() if value is not None and value is not False]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} are given; one of them is needed", path=path, key=asked[1])
    if asked:
        return _find_plane(asked[0], given[asked[0]], path, hdus, image)
    found = [p for role in NOISE_ROLES if (p := _find_plane(role, given[role], path, hdus, image)) is not None]
    if len(found) > 1:
        raise FormatError(
            "two planes could be the noise: "
            + ", ".join(f"{p.role} in {p.path.name}[{p.hdu}]" for p in found)
            + "; skygraft does not choose between them",
            path=path,
            fix=f"Name the one that holds ({found[0].role}=...), or switch the other off ({found[1].role}=False)",
        )
    return found[0] if found else None


def _find_plane(role: Role, given: Any, path: Path, hdus: Sequence[HduInfo], image: HduInfo) -> Plane | None:
    if given is False:
        return None
    if given is not None:
        return _given_plane(role, given, path, hdus, image)
    names = HDU_NAMES[role]
    inside = [hdu for hdu in hdus if hdu.index != image.index and hdu.name in names and hdu.shape == image.shape]
    # With SCI,1 SCI,2 ... and WHT,1 WHT,2 ... take the one with the same EXTVER.
    if len(inside) > 1:
        inside = [hdu for hdu in inside if hdu.version == image.version]
    if len(inside) == 1:
        return inside[0].plane(role, path)
    stem, ending = split_name(path)
    # Companions are compressed like the image, or in the usual ways; every suffix tried costs a disk access.
    endings = dict.fromkeys((*_SUFFIXES, ending) if ending.endswith(PACKED_SUFFIXES) else _SUFFIXES)
    beside = [
        found
        for word in FILE_WORDS[role]
        for separator in "._"
        for suffix in endings
        if is_file(found := path.with_name(f"{stem}{separator}{word}{suffix}"))
    ]
    if len(beside) > 1:
        raise FormatError(
            f"two files could be the {role}: {beside[0].name}, {beside[1].name}",
            path=path,
            fix=f"Name the one that holds with {role}=",
        )
    return _plane_in(role, beside[0], None, image) if beside else None


def _given_plane(role: Role, given: int | str, path: Path, hdus: Sequence[HduInfo], image: HduInfo) -> Plane:
    if isinstance(given, int) and not isinstance(given, bool):
        return _checked(role, path, _named(path, given, hdus, role), image)
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(
            f"{role} is {given!r}; an HDU (number or name), a file, or False is needed", path=path, key=role
        )
    text = os.fspath(given)
    if _called(text, hdus):
        return _checked(role, path, _named(path, text, hdus, role), image)
    text = text.replace("{stem}", split_name(path)[0])
    match = _BRACKET.match(text)
    name, hdu = (match["path"], match["hdu"]) if match else (text, None)
    other = path.parent / Path(name).expanduser()
    if not is_file(other):
        raise FormatError(
            f"{given!r} is neither an HDU of the file ({_listed(hdus)}) nor a file ({other})",
            path=path,
            key=role,
            fix="Give one that is there",
        )
    return _plane_in(role, other, hdu, image)


def _plane_in(role: Role, other: Path, wanted: str | None, image: HduInfo) -> Plane:
    """Return the plane in another file: the requested HDU, the one with the image's EXTNAME, or the only image."""
    hdus = list_hdus(other)
    if wanted is not None:
        return _checked(role, other, _named(other, wanted, hdus, role), image)
    images = [hdu for hdu in hdus if is_flat(hdu)]
    for better in (
        [hdu for hdu in images if hdu.name and hdu.name == image.name],
        [hdu for hdu in images if hdu.name in HDU_NAMES[role]],
    ):
        images = better if len(images) > 1 and len(better) == 1 else images
    if len(images) != 1:
        raise FormatError(
            f"the {role} of the image is one of {len(images)} images: {_listed(images or hdus)}",
            path=other,
            fix=f"Give {role}='{other.name}[hdu]'",
        )
    return _checked(role, other, images[0], image)


def _checked(role: Role, path: Path, hdu: HduInfo, image: HduInfo) -> Plane:
    if hdu.shape != image.shape:
        raise FormatError(
            f"the {role} has shape {hdu.shape}, the image {image.shape}",
            path=path,
            hdu=hdu.index,
            fix=f"Give the {role} of this image, or switch it off ({role}=False)",
        )
    return hdu.plane(role, path)


def renamed(layout: FitsLayout, target: Path) -> dict[Path, Path]:
    """Return the output path of each input file when the image is written to `target`.

    All outputs are in one directory. A file named after the image (``<stem>_weight.fits``) keeps the rest of its name
    after the new stem; any other is named ``<stem>.<role>`` with its own suffix.

    Parameters
    ----------
    layout : FitsLayout
        Files of the input.
    target : Path
        Output path of the image.

    Returns
    -------
    dict of Path to Path
    """
    stem, new_stem = split_name(layout.image.path)[0], split_name(target)[0]
    roles: dict[Path, str] = {plane.path: plane.role for plane in layout.planes}
    if layout.psf is not None:
        roles[layout.psf] = "psf"
    outputs = {layout.image.path: target}
    for path, role in roles.items():
        if path == layout.image.path:
            continue
        rest = path.name.removeprefix(stem)
        if rest == path.name or not rest.startswith((".", "_")):
            ending = split_name(path)[1]
            rest = f".psf{ending}" if role == "psf" else f".{role}{ending or path.suffix}"
        outputs[path] = target.with_name(new_stem + rest)
    return outputs
