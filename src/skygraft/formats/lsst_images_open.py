"""Open files of ``lsst.images``: the schema, the library's object, or only some of its components."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from skygraft.errors import CorruptFileError, FormatError, SkygraftError
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import is_fits, map_fits
from skygraft.formats.base import StrPath, identify_files
from skygraft.formats.lsst_images_index import check_index
from skygraft.json_text import parse_json
from skygraft.wcs import dump_problem

__all__ = ["library_errors", "load", "open_parts", "schema_of"]

_SCHEMA = re.compile(rb"images\.lsst\.io/schemas/(?P<kind>[a-z_]+)-(?P<version>\d+\.\d+\.\d+)")
_KINDS = ("visit_image", "difference_image", "masked_image", "cell_coadd")
_HEAD, _END = 8 * 2880, 4096
"""Bytes at the beginning of a FITS file, or at the end of a JSON file, that are searched for the schema."""
_INSTALL = "Install the library that reads it: pip install 'skygraft[rubin]'"
_ABSENT = object()
_DUMP = re.compile(rb'"ast"\s*:\s*("(?:[^"\\]|\\.)*")')


def schema_of(path: StrPath) -> tuple[str, str] | None:
    """Return kind and version of the schema of a file, or None if it is of another format.

    Raises
    ------
    CorruptFileError
        If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(_HEAD)
            is_json = text[:1] == b"{"
            if is_json:
                stream.seek(max(0, Path(path).stat().st_size - _END))
                text = stream.read()
    except OSError as error:
        raise CorruptFileError(
            f"the file cannot be read ({error.strerror or error})", path=path, fix="Check its name and permissions"
        ) from error
    if not is_json and text[:9] != b"SIMPLE  =":
        return None
    # Parts of a JSON tree have schemas of their own; that of the whole tree is at its end.
    found = re.search(_SCHEMA.pattern + rb'"\s*\}\s*$', text) if is_json else _SCHEMA.search(text)
    return None if found is None else (found["kind"].decode(), found["version"].decode())


@contextmanager
def library_errors(path: StrPath) -> Iterator[None]:
    """Context in which any exception of the library becomes an error that names the file."""
    try:
        yield
    except SkygraftError:
        raise
    except ImportError as error:
        raise FormatError(f"the file needs {error.name or 'a library'} to be read", path=path, fix=_INSTALL) from error
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise CorruptFileError(
            f"lsst.images cannot read the file: {reason[0] if reason else type(error).__name__}",
            path=path,
            fix="Copy it again; if it was written by a newer lsst.images, update that library",
        ) from error


def _check(path: StrPath) -> None:
    """Raise unless a file is of this format and contains an image."""
    identify_files([path])  # refuses a directory and an empty file
    found = schema_of(path)
    if found is None:
        raise CorruptFileError(
            "the file names no schema of lsst.images: it is not whole, or of another format",
            path=path,
            fix="Copy it again, or name its format with format=",
        )
    kind, version = found
    if kind not in _KINDS:
        raise FormatError(
            f"this lsst.images file holds a {kind} (schema {version}); images are {', '.join(_KINDS)}",
            path=path,
            fix="Give the file of an image",
        )
    _check_structure(path)


def _check_structure(path: StrPath) -> None:
    """Raise if a file's index points to other HDUs, or an AST dump in its tree, which may crash AST, is damaged."""
    with map_fits(path) if is_fits(path) else nullcontext() as raw:
        if raw is None:
            text = Path(path).read_bytes()
        else:
            check_index(raw)
            trees = [s for s in raw.spans if header_of(raw.header_cards(s.index)).get("EXTNAME") == "JSON"]
            text = b"".join(bytes(raw.buffer[s.data_start : s.data_start + s.data_size]) for s in trees)
    for found in _DUMP.finditer(text):
        try:
            problem = dump_problem(parse_json(found[1]))
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            raise CorruptFileError(
                f"an AST dump of its transforms is damaged: {problem}", path=path, fix="Copy the file again"
            )


def load(path: StrPath) -> Any:
    """Read a file with the library, including all its pixels.

    Returns
    -------
    lsst.images object

    Raises
    ------
    CorruptFileError
        If the file is damaged or of another format.
    FormatError
        If it contains no image, or the library is not installed.
    """
    _check(path)
    with library_errors(path):
        return importlib.import_module("lsst.images.serialization").read_archive(os.fspath(path))


class _Parts:
    """Components of a file as attributes, with the names of the library's object, each read at first access."""

    def __init__(self, reader: Any, absent: type[Exception], path: StrPath) -> None:
        self._reader, self._absent, self._path = reader, absent, path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        with library_errors(self._path):
            try:
                value = self._reader.get_component(name)
            except self._absent:
                value = _ABSENT
        if value is _ABSENT:
            raise AttributeError(name)
        setattr(self, name, value)
        return value

    @property
    def tract(self) -> int | None:
        """Tract of a coadd; None for the image of a detector."""
        return getattr(getattr(self.sky_projection, "pixel_frame", None), "tract", None)


@contextmanager
def open_parts(path: StrPath) -> Iterator[Any]:
    """Open a file to read components other than pixels.

    Yields
    ------
    object
        With the attributes of the library's object, each read at first access.

    Raises
    ------
    CorruptFileError
        If the file is damaged or of another format.
    FormatError
        If it contains no image, or the library is not installed.
    """
    _check(path)
    with ExitStack() as stack:
        with library_errors(path):
            library = importlib.import_module("lsst.images.serialization")
            reader = stack.enter_context(library.open_archive(os.fspath(path)))
        yield _Parts(reader, library.InvalidComponentError, path)
