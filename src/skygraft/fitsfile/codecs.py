"""cfitsio's coders of single tiles, by way of astropy.

astropy keeps them in private modules. They are imported when a tile needs one, so that a release of astropy that moves
them makes only the images of those coders unreadable.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from typing import Any

import astropy

from skygraft.errors import FormatError

__all__ = ["codec_errors", "load_codec"]

_MODULE = "astropy.io.fits.hdu.compressed"


def load_codec(name: str, settings: Mapping[str, int], *, path: str | os.PathLike[str], hdu: int) -> Any:
    """Return the coder of that name, which has the methods ``encode`` and ``decode``.

    Parameters
    ----------
    name : str
        Class in astropy's module of coders: ``"Rice1"``, ``"PLIO1"`` or ``"HCompress1"``.
    settings : mapping of str to int
        Arguments of the class.
    path, hdu
        For errors.

    Raises
    ------
    FormatError
        If the installed astropy does not have it.
    """
    try:
        codec = getattr(importlib.import_module(f"{_MODULE}._codecs"), name)(**settings)
        return _OneAtATime(codec) if name == "HCompress1" else codec
    except (ImportError, AttributeError, TypeError) as error:
        raise FormatError(
            f"the image needs astropy's coder {name}, which astropy {astropy.__version__} does not have ({error})",
            path=path,
            hdu=hdu,
            fix="Install another version of astropy, or compress the image with GZIP_2 or RICE_1",
        ) from error


class _OneAtATime:
    """A coder that keeps its state in global variables of C: threads take turns, or they spoil each other's pixels."""

    _lock = threading.Lock()

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def encode(self, numbers: Any) -> Any:
        """Compress a tile."""
        with self._lock:
            return self._codec.encode(numbers)

    def decode(self, data: Any) -> Any:
        """Decompress a tile."""
        with self._lock:
            return self._codec.decode(data)


def codec_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that the coders raise for damaged tiles."""
    errors: tuple[type[Exception], ...] = (ValueError, RuntimeError, OverflowError)
    try:
        return (*errors, importlib.import_module(f"{_MODULE}._compression").CfitsioException)
    except (ImportError, AttributeError):
        return errors
