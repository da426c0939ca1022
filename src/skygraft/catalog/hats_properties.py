"""The properties of HATS catalogues: what a folder says it is, and whether that is understood here.

HATS (Hierarchical Adaptive Tiling Scheme) is described by an IVOA note, https://www.ivoa.net/documents/Notes/HATS/.
A *catalogue* is a folder with ``hats.properties`` and, for each HEALPix pixel that it is cut by, a Parquet file
``dataset/Norder=<k>/Dir=<d>/Npix=<n>.parquet``, or a folder of such files. A *collection* is a folder with
``collection.properties``, which names its main catalogue, and others that repeat rows of it (margins) or refer to them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from skygraft.errors import CatalogError, CorruptFileError, SkygraftWarning

__all__ = ["VERSION", "catalogue_kind", "find_properties", "main_catalogue", "parse_properties", "read_properties"]

VERSION = (1, 0)
"""The version of the note that is written, and of which everything is understood."""

COLLECTION = "collection.properties"
NAMES = ("hats.properties", "properties")
"""File names of a catalogue's properties; the second was in use until 2025."""

_LARGEST = 1 << 20
_READABLE = ("object", "source")
_OTHERS = {
    "margin": "the rows near the borders of another catalogue's partitions, a second time",
    "index": "an index of another catalogue",
    "association": "pairs of rows of other catalogues",
    "map": "a map, not sources",
    "extension": "columns that belong to another catalogue",
    "nested": "rows that belong to another catalogue",
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


def parse_properties(text: str) -> dict[str, str]:
    """Return keys and values of Java properties, the format of HATS's and HiPS's metadata.

    Parameters
    ----------
    text : str
        Lines ``key = value`` (or ``:``, or blanks between them); ``#`` and ``!`` begin comments, a backslash at the end
        continues a line.
    """
    out: dict[str, str] = {}
    lines = iter(text.splitlines())
    for first in lines:
        text = first.lstrip()
        if not text or text[0] in "#!":
            continue
        while len(text) - len(text.rstrip("\\")) & 1:
            text = text[:-1] + next(lines, "").lstrip()
        match = re.match(r"((?:\\.|[^\\\s=:])*)\s*[=:]?\s*(.*)", text)
        if match:
            out[_plain(match[1])] = _plain(match[2]).strip()
    return out


def _plain(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPES.get(code, code)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", one, text)


def find_properties(folder: Path) -> Path | None:
    """Return the file of properties of a HATS catalogue, or None if the folder has none."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_properties(path: Path) -> dict[str, str]:
    """Read a file of properties.

    Raises
    ------
    CorruptFileError
        If it cannot be read, or there is nothing in it.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes, too many for properties")
        found = parse_properties(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError includes invalid UTF-8
        raise CorruptFileError(
            f"the properties cannot be read ({error})", path=path, fix="Fetch the catalogue again"
        ) from error
    if not found:
        raise CorruptFileError("there are no properties in the file", path=path, fix="Fetch the catalogue again")
    return found


def main_catalogue(folder: Path) -> Path:
    """Return the folder of the main catalogue of a collection; any other folder itself.

    Raises
    ------
    CatalogError
        If the collection does not have it: margins and indexes alone are no catalogue.
    """
    path = folder / COLLECTION
    if not path.is_file():
        return folder
    properties = read_properties(path)
    _check_version(path, properties)
    name = properties.get("hats_primary_table_url", "")
    beside = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if not name:
        raise CatalogError(
            "the collection does not name its main catalogue; beside it are "
            f"{', '.join(beside) or 'no folders'}, and margins and indexes alone are no catalogue",
            path=path,
            key="hats_primary_table_url",
            fix="Fetch the collection again, or give the folder of its main catalogue",
        )
    if re.match(r"[a-zA-Z][\w+.-]*://", name):
        raise CatalogError(
            f"the collection's main catalogue is elsewhere: {name}",
            path=path,
            key="hats_primary_table_url",
            fix="Fetch it to this machine, and give its folder",
        )
    main = folder / name
    if find_properties(main) is None and main.is_dir():
        raise CatalogError(
            f"the collection's main catalogue {name!r} has no properties, without which nothing says what it is",
            path=path,
            key="hats_primary_table_url",
            fix="Fetch the hats.properties of the main catalogue too",
        )
    if find_properties(main) is None:
        raise CatalogError(
            f"the collection's main catalogue {name!r} is not there (there are {', '.join(beside) or 'no folders'}), "
            "and margins and indexes alone are no catalogue",
            path=path,
            key="hats_primary_table_url",
            fix="Fetch the main catalogue too",
        )
    return main


def catalogue_kind(path: Path, properties: Mapping[str, str]) -> str:
    """Return ``object`` or ``source``, the kinds of catalogues that hold sources, after checking the version.

    Parameters
    ----------
    path : Path
        The file of properties.
    properties : mapping of str to str
        Its content.

    Raises
    ------
    CatalogError
        If the catalogue is of another kind, or of a version that is not understood.
    """
    _check_version(path, properties)
    kind = properties.get("dataproduct_type", properties.get("catalog_type", "object")).lower()
    if kind in _READABLE:
        return kind
    what = _OTHERS.get(kind)
    raise CatalogError(
        f"this HATS catalogue is of the kind {kind!r}"
        + (f": {what}" if what else f"; {' and '.join(_READABLE)} can be read"),
        path=path,
        key="dataproduct_type",
        fix="Give the main catalogue, or the collection that both belong to",
    )


def _check_version(path: Path, properties: Mapping[str, str]) -> None:
    """Refuse a newer version: its rows may mean something else. One that is not given is taken for the present one."""
    given = properties.get("hats_version")
    if given is None:
        return
    match = re.fullmatch(r"v?(\d{1,6})(?:\.(\d{1,6}))?(?:[.\-+].*)?", given.strip(), re.IGNORECASE)
    known = ".".join(map(str, VERSION))
    if match is None:
        raise CatalogError(
            f"hats_version is {given!r}, which is not a version number", path=path, key="hats_version", fix="Correct it"
        )
    major, minor = int(match[1]), int(match[2] or 0)
    if major > VERSION[0]:
        raise CatalogError(
            f"this catalogue is HATS {given}; this version of skygraft reads HATS up to {known}, and later ones with "
            f"the same first number",
            path=path,
            key="hats_version",
            fix="Use a newer skygraft, or export the catalogue with the hats package as one of version 1",
        )
    if (major, minor) > VERSION:
        warnings.warn(
            f"{path}: this catalogue is HATS {given}, and skygraft knows {known}; it is read as that. Compare the "
            "number of rows",
            SkygraftWarning,
            stacklevel=2,
        )
