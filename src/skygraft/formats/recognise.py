"""Recognise the format of a file, or say what it is if it is no image."""

from __future__ import annotations

from pathlib import Path

from skygraft.errors import CorruptFileError, MissingWcsError, SkygraftError, UnknownFormatError
from skygraft.fitsfile.open import is_fits
from skygraft.fitsfile.packed import foreign_packing, packing_of, unpacked_head
from skygraft.formats.available import ordinary_formats, specific_formats
from skygraft.formats.base import Format, StrPath, identify_files
from skygraft.formats.fits_kinds import describe_file, describe_foreign
from skygraft.formats.fits_layout import is_flat, list_hdus, split_name
from skygraft.formats.survey_products import refuse_product
from skygraft.psf.base import LARGEST_KERNEL
from skygraft.wcs import has_wcs

__all__ = ["recognise_format"]

_HEAD = 256
"""Bytes from which a file that is not FITS is described."""


def recognise_format(path: StrPath) -> Format:
    """Return the one format that recognises a file.

    A file is ordinary FITS if no more specific format recognises it.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Format

    Raises
    ------
    CorruptFileError
        If the file is missing, empty or damaged.
    UnknownFormatError
        If no format recognises it, or several do.
    FormatError
        If its name is that of a known survey's product without a science image.
    MissingWcsError
        If it is a FITS image that only lacks a celestial WCS.
    """
    identify_files([path])
    refused: list[CorruptFileError] = []
    found = [fmt for fmt in specific_formats() if _matches(fmt, path, refused)]
    found = found or [fmt for fmt in ordinary_formats() if _matches(fmt, path, refused)]
    if not found and refused:
        raise refused[0]
    if len(found) > 1:
        names = [fmt.name for fmt in found]
        raise UnknownFormatError(
            f"the file could be of {len(found)} formats: {', '.join(names)}",
            path=path,
            fix=f"Choose with format={names[0]!r}",
        )
    if not found:
        raise _unknown(Path(path))
    return found[0]


def _unknown(path: Path) -> SkygraftError:
    """The error for a file that no format recognises: what it is, if that is known, and what to do."""
    refuse_product(path)
    hdus = list_hdus(path) if is_fits(path) else ()
    what = describe_file(path, hdus) if hdus else describe_foreign(unpacked_head(path, _HEAD))
    flat = [hdu for hdu in hdus if is_flat(hdu)]
    if flat and not any(has_wcs(hdu.header) for hdu in (hdus[0], *flat)):
        letters = sorted({k[-1] for h in flat for k in h.header if k.startswith("CTYPE") and k[-1].isalpha()})
        alternate = f", but the alternate description {', '.join(letters)} of one" if letters else ""
        small = len(flat) == 1 and max(flat[0].shape or (0,)) <= LARGEST_KERNEL
        return MissingWcsError(
            f"no image of the file has a celestial WCS{alternate} (it holds {'; '.join(map(str, hdus))})"
            + (f": this is {what}" if what else ""),
            path=path,
            fix="Solve the image's astrometry and write CTYPE, CRVAL, CRPIX and CD cards, or leave it out"
            + ("; the image of a PSF is given as psf=" if small else ""),
        )
    holds = f"; the file holds {'; '.join(map(str, hdus))}" if hdus else ""
    if what:
        return UnknownFormatError(
            f"this is {what}: no format recognises the file as an image{holds}",
            path=path,
            fix="Give the image that it belongs to"
            if hdus
            else "Check that this is the image, or name its format with format=",
        )
    cubes = [hdu for hdu in hdus if hdu.shape is not None and len(hdu.shape) > 2 and has_wcs(hdu.header)]
    if cubes and not flat:
        sizes = " x ".join(map(str, cubes[0].shape or ()))
        return UnknownFormatError(
            f"this is a cube of {sizes} pixels (planes, rows, columns), and no image{holds}",
            path=path,
            hdu=cubes[0].index,
            fix="Write each plane that is a calibrated image of one band to a file of its own, with the WCS of its two "
            "axes",
        )
    formats = (*specific_formats(), *ordinary_formats())
    looked = "; ".join(f"{fmt.name} is recognised by {fmt.looked_for}" for fmt in formats)
    return UnknownFormatError(
        f"no format recognises the file ({looked}){holds}",
        path=path,
        fix="Check that this is the image, or name its format with format=",
    )


def _matches(fmt: Format, path: StrPath, refused: list[CorruptFileError]) -> bool:
    """Whether a format recognises a file; an error that counts if no other format does is added to `refused`."""
    try:
        return fmt.matches(path)
    except CorruptFileError as error:
        with Path(path).open("rb") as stream:
            head = stream.read(8)
        if foreign_packing(head) is not None or (packing_of(head) is not None and split_name(path)[1]):
            refused.append(error)
            return False
        # A file that is not FITS is of another kind, not damaged.
        if is_fits(path):
            raise
        return False
