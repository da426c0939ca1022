"""A base class for formats of one's own, whose images are one file each: how it is loaded and saved is all they say."""

from __future__ import annotations

import abc
import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skygraft.disk import atomic_path
from skygraft.errors import CorruptFileError
from skygraft.exposure import Exposure
from skygraft.formats.base import FILES, Format, ImageFootprint, ReadOptions
from skygraft.formats.input_files import StrPath, identify_files, refuse_overwrite

__all__ = ["FileFormat"]

_DAMAGE = (OSError, ValueError, LookupError, EOFError, zlib.error, zipfile.BadZipFile, struct.error)
"""What libraries raise of files that are damaged, or of another kind."""


class FileFormat(Format):
    """Base class of formats whose images are one file each.

    A subclass has `name`, `looked_for`, `matches`, `load` and `save`. Everything that all formats have to do is done
    here: options are checked, files identified before they are read, errors of damaged files named, outputs complete
    before they have their name and inputs never overwritten.

    Where images are large or many, override `footprint` too, and `calibration`: these here read the whole file.
    """

    @abc.abstractmethod
    def load(self, path: Path, options: ReadOptions) -> Exposure:
        """Return what is in a file.

        Parameters
        ----------
        path : Path
            The file, which exists and is not empty.
        options : ReadOptions
            An instance of `Options`.

        Returns
        -------
        Exposure
            As of `Format.read`, without ``path``, ``format`` and ``extra[FILES]``, which are added.

        Raises
        ------
        OSError, ValueError, KeyError, IndexError, EOFError
            Of a file that is damaged, whose name and reason the user is then told; and any of skygraft's errors.
        """

    @abc.abstractmethod
    def save(self, exposure: Exposure, path: Path, like: Path) -> None:
        """Write an image.

        Parameters
        ----------
        exposure : Exposure
            From `load` of `like`, with changed planes.
        path : Path
            The file to write, under a temporary name; it gets its own when it is complete.
        like : Path
            The file that everything else is copied from.
        """

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image; see `Format.footprint`."""
        found = self.read(path, **options)
        about: dict[str, Any] = {"data_id": found.data_id, "visit_info": found.visit_info}
        return ImageFootprint.of(Path(path), self.name, found.wcs, found.shape, found.xy0, files=[path], **about)

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure; see `Format.read`."""
        given = self.Options.parse(options, self.name, path)
        files = identify_files([path])  # before it is read, so that a later change is noticed
        with self._named(path):
            found = self.load(Path(path), given)
        return found.replace(path=Path(path), format=self.name, extra={**found.extra, FILES: files})

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write an exposure; see `Format.write`."""
        refuse_overwrite(path, [like], overwrite=overwrite)
        identify_files([like])
        with atomic_path(Path(path), make_folder=False) as temporary:
            self.save(exposure, temporary, Path(like))
        return (Path(path),)

    @contextlib.contextmanager
    def _named(self, path: StrPath) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CorruptFileError(
                f"the file cannot be read as {self.name} ({reason})", path=path, fix="Copy or fetch the file again"
            ) from error
