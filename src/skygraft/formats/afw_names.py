"""Parse file names of the LSST pipelines: visit, detector, and the name of the source catalogue."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from skygraft.places import is_file

__all__ = ["GivenCatalog", "find_source_catalog", "parse_name", "source_catalog_of"]

type GivenCatalog = str | os.PathLike[str] | Literal[False] | None
"""A source catalogue; False for none, None for the one in the image's directory."""

# "calexp-849375-12", "CORR-0908120-056": kind of image, visit, detector.
_NAME = re.compile(r"^(?:(?P<kind>[A-Za-z_]+)[-_])?(?P<rest>(?P<visit>\d{4,})[-_](?P<ccd>\d{1,3}))(?![0-9])")
_CATALOG_NAMES = ("SRC", "src", "icSrc", "sourceTable", "source")
_CATALOG_ENDINGS = (".fits", ".fits.gz", ".parq", ".parquet")
_SUFFIXES = re.compile(r"(\.fits?|\.fz|\.gz|\.bz2|\.xz|\.zst)+$", re.IGNORECASE)


def parse_name(path: str | os.PathLike[str]) -> tuple[str, int | None, int | None]:
    """Return name without suffixes, visit and detector of an image file; None if the name does not contain them.

    Examples
    --------
    >>> parse_name("data/calexp-849375-12.fits.fz")
    ('calexp-849375-12', 849375, 12)
    >>> parse_name("coadd.fits")
    ('coadd', None, None)
    """
    stem = _SUFFIXES.sub("", Path(path).name)
    match = _NAME.match(stem)
    return (stem, None, None) if match is None else (stem, int(match["visit"]), int(match["ccd"]))


def find_source_catalog(path: str | os.PathLike[str]) -> Path | None:
    """Find the source catalogue of a calexp in its directory, or return None.

    Its name has the same visit and detector (``SRC-849375-12.fits`` for ``calexp-849375-12.fits.fz``), or is
    ``src.fits`` or similar.
    """
    path = Path(path)
    stem = _SUFFIXES.sub("", path.name)
    rests = [stem.split(separator, 1)[1] for separator in "-_" if separator in stem]
    if match := _NAME.match(stem):
        rests.append(match["rest"])
    names = [f"{name}{sep}{rest}" for rest in dict.fromkeys(rests) for name in _CATALOG_NAMES for sep in "-_"]
    for name in [*names, *_CATALOG_NAMES]:
        for ending in _CATALOG_ENDINGS:
            found = path.with_name(name + ending)
            if found != path and is_file(found):
                return found
    return None


def source_catalog_of(path: str | os.PathLike[str], given: GivenCatalog) -> Path | None:
    """Return the source catalogue of an image: the given one, or by default the one in its directory, if any."""
    if given is False:
        return None
    return find_source_catalog(path) if given is None else Path(given)
