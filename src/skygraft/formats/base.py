"""What a format is: how one kind of image on disk becomes an `Exposure`, and is written back.

A format is one class. It reads everything that an image says of its own calibration, judges nothing (which
calibration aperture holds is decided in `skygraft.photometry`), and writes an output that the survey's own
software opens: what injection did not touch is carried over unchanged.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.disk import FileIdentity
from skygraft.errors import (
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    OutputExistsError,
    PsfError,
)
from skygraft.exposure import NO_GAIN, NO_PHOTO_CALIB, NO_PSF, DataId, Exposure, VisitInfo
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.psf import PSF, Box
from skygraft.wcs import footprint, pixel_scale

__all__ = [
    "CANDIDATES",
    "CAUTION",
    "FILES",
    "NO_PHOTO_CALIB",
    "Format",
    "ImageCalibration",
    "ImageFootprint",
    "ReadOptions",
    "check_unchanged",
    "identify_files",
    "refuse_overwrite",
]

type StrPath = str | os.PathLike[str]

FILES = "files"
"""Key of `Exposure.extra`: each file the exposure was read from, path to `skygraft.disk.FileIdentity`, image first."""

CANDIDATES = "candidates"
"""Key of `Exposure.extra`: each ``ReferenceCandidate`` that was found, where ``photo_calib`` is None."""

CAUTION = "caution"
"""Key of `Exposure.extra`: text that says what is not to be trusted in an image that was read as another format."""


def identify_files(paths: Iterable[StrPath]) -> dict[str, FileIdentity]:
    """Identities of files, by path; taken *before* a file is read, so that a later change is noticed.

    Raises
    ------
    CorruptFileError
        If a file cannot be looked at, or is empty.
    """
    identities: dict[str, FileIdentity] = {}
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError as error:
            raise CorruptFileError(
                f"the file cannot be opened ({error.strerror or error})",
                path=path,
                fix="Check the path and permissions",
            ) from error
        if stat.S_ISDIR(status.st_mode):
            raise CorruptFileError("this is a directory", path=path, fix="Give a file in it")
        if status.st_size == 0:
            raise CorruptFileError("the file is empty (0 bytes)", path=path, fix="Fetch or make the file again")
        identities[os.fspath(path)] = FileIdentity.of_status(status)
    return identities


def check_unchanged(identities: Mapping[str, FileIdentity]) -> None:
    """Make sure that files are still what they were when they were read.

    Raises
    ------
    FormatError
        If one was deleted or changed since.
    """
    for path, before in identities.items():
        try:
            now = FileIdentity.of(path)
        except OSError as error:
            raise FormatError(
                "the file that this exposure was read from is gone, and the output copies parts of it",
                path=path,
                fix="Put it back, or give another file with like=",
            ) from error
        if not now.same_content(before):
            raise FormatError(
                f"the file that this exposure was read from has changed since ({before.n_bytes} bytes then, "
                f"{now.n_bytes} now)",
                path=path,
                fix="Read it again, and inject again",
            )


def refuse_overwrite(path: StrPath, inputs: Iterable[StrPath], *, overwrite: bool) -> None:
    """Refuse an output that is one of the inputs, always, or that exists, unless `overwrite`.

    Raises
    ------
    OutputExistsError
    """
    target = Path(path)
    if not (target.exists() or target.is_symlink()):
        return
    if target.exists() and not target.is_file():
        # Renaming onto a device such as /dev/null would replace it, given the rights.
        what = "a directory" if target.is_dir() else "no ordinary file"
        raise OutputExistsError(f"the output is {what}", path=path, fix="Give the name of a file")
    for source in inputs:
        # Same file under another name (links, ./, a case-blind disk) is the input too.
        if Path(source).exists() and target.exists() and target.samefile(source):
            raise OutputExistsError(
                "the output is the input itself, which is never overwritten",
                path=path,
                fix="Give another output path",
            )
    if not overwrite:
        raise OutputExistsError(
            "the output exists already", path=path, fix="Give another path, or overwrite=True to replace it"
        )


@dataclass(frozen=True)
class ReadOptions:
    """Base of a format's own reading options: a frozen dataclass whose fields are the options allowed.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class MyOptions(ReadOptions):
    ...     mask: str | None = None
    >>> MyOptions.parse({"mask": "m.fits"}, "my format")
    MyOptions(mask='m.fits')
    """

    @classmethod
    def parse(cls, options: Mapping[str, Any], format_name: str, path: StrPath | None = None) -> Self:
        """Make the options from keyword arguments.

        Raises
        ------
        ConfigError
            If a key is not an option of this format; the nearest one is named.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in options:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise ConfigError(
                    f"{key!r} is not an option of format {format_name!r}; those are: {', '.join(known)}",
                    path=path,
                    key=key,
                    fix=f"Did you mean {near[0]!r}?" if near else "Remove it",
                )
        return cls(**options)


@dataclass(frozen=True, eq=False)
class ImageFootprint:
    """Which image a file holds and where it lies on the sky: what can be known without reading a pixel.

    Parameters
    ----------
    path : Path
        The image file.
    format : str
        Name of the format.
    data_id : DataId
        Which image it is.
    visit_info : VisitInfo
        When it was taken.
    shape : (int, int)
        Rows and columns.
    xy0 : (int, int)
        Parent coordinates (x, y) of the first pixel.
    corners : ndarray, shape (M, 2)
        Polygon of right ascension and declination around the image, ICRS degrees (M >= 4: edges may curve).
    center : (float, float)
        Right ascension and declination of the image's centre, ICRS degrees.
    pixel_scale : float
        Arcseconds per pixel at the centre.
    n_bytes : int
        Size on disk of everything that reading it opens.
    hdu : int or str or None
        The HDU that holds the image, where the format has such a choice.
    files : tuple of str
        Every file that reading it opens, the image first.
    pinned : mapping
        Options (JSON types) with which a copy of the image in another place is read with the same calibrations.
    """

    path: Path
    format: str
    data_id: DataId
    visit_info: VisitInfo
    shape: tuple[int, int]
    xy0: tuple[int, int]
    corners: NDArray[np.float64]
    center: tuple[float, float]
    pixel_scale: float
    n_bytes: int
    hdu: int | str | None = None
    files: tuple[str, ...] = field(default=())
    pinned: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path,
        format: str,
        wcs: BaseLowLevelWCS,
        shape: tuple[int, int],
        xy0: tuple[int, int] = (0, 0),
        *,
        data_id: DataId,
        visit_info: VisitInfo,
        files: Iterable[StrPath],
        hdu: int | str | None = None,
        pinned: Mapping[str, Any] | None = None,
    ) -> Self:
        """Work out the footprint of an image from its WCS and size.

        Parameters
        ----------
        path : Path
            The image file.
        format : str
            Name of the format.
        wcs : BaseLowLevelWCS
            Parent pixels (x, y) to ICRS degrees (ra, dec).
        shape, xy0 : (int, int)
            Rows and columns; parent coordinates (x, y) of the first pixel.
        data_id, visit_info, hdu, pinned
            As those of `ImageFootprint`.
        files : iterable of path-like
            Every file that reading the image opens, the image first.

        Returns
        -------
        ImageFootprint

        Raises
        ------
        WcsError
            If part of the image's outline is not on the sky.
        """
        (ny, nx), (x0, y0) = shape, xy0
        x, y = x0 + (nx - 1) / 2, y0 + (ny - 1) / 2
        ra, dec = wcs.pixel_to_world_values(x, y)
        paths = tuple(os.fspath(file) for file in files)
        return cls(
            path=path,
            format=format,
            data_id=data_id,
            visit_info=visit_info,
            shape=shape,
            xy0=xy0,
            corners=footprint(wcs, Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)),
            center=(float(ra), float(dec)),
            pixel_scale=float(pixel_scale(wcs, x, y)[0]),
            n_bytes=sum(Path(file).stat().st_size for file in paths),
            hdu=hdu,
            files=paths,
            pinned=pinned or {},
        )


@dataclass(frozen=True, eq=False)
class ImageCalibration:
    """What an image's files say of its calibration: all of an exposure but its pixels.

    Parameters
    ----------
    unit : str
        Unit of the pixels.
    wcs : BaseLowLevelWCS
        As that of `Exposure`.
    shape, xy0 : (int, int)
        Rows and columns; parent coordinates (x, y) of the first pixel.
    photo_calib : PhotoCalib or None
        As that of `Exposure`.
    no_photo_calib : CalibrationError or None
        Why `photo_calib` is None.
    candidates : tuple of ReferenceCandidate
        Everything that was found about what calibrated flux is the flux of.
    psf : PSF or None
        As that of `Exposure`.
    no_psf : PsfError or None
        Why `psf` is None.
    gain : float, ndarray or None
        Electrons per image unit; None where it is not recorded.
    gain_origin : str
        Where the gain was found.
    no_gain : str
        Why `gain` is None, where the files hold something about it.
    has_variance : bool
        Whether there is a variance plane, from which a gain can be estimated.
    n_files : int
        How many files are written for it, at most.
    """

    unit: str
    wcs: BaseLowLevelWCS
    shape: tuple[int, int]
    xy0: tuple[int, int] = (0, 0)
    photo_calib: PhotoCalib | None = None
    no_photo_calib: CalibrationError | None = None
    candidates: tuple[ReferenceCandidate, ...] = ()
    psf: PSF | None = None
    no_psf: PsfError | None = None
    gain: float | NDArray[np.float32] | None = None
    gain_origin: str = ""
    no_gain: str = ""
    has_variance: bool = False
    n_files: int = 1

    @classmethod
    def of(cls, exposure: Exposure) -> Self:
        """That of an exposure."""
        calib = exposure.photo_calib
        return cls(
            unit=str(exposure.planes["image"].attrs.get("units", "adu")),
            wcs=exposure.wcs,
            shape=exposure.shape,
            xy0=exposure.xy0,
            photo_calib=calib,
            no_photo_calib=exposure.extra.get(NO_PHOTO_CALIB),
            candidates=tuple(exposure.extra.get(CANDIDATES, ())) if calib is None else calib.candidates,
            psf=exposure.psf,
            no_psf=exposure.extra.get(NO_PSF),
            gain=exposure.gain,
            gain_origin=exposure.gain_origin,
            no_gain=str(exposure.extra.get(NO_GAIN, "")),
            has_variance=exposure.variance is not None,
            n_files=max(1, len(exposure.extra.get(FILES, ()))),
        )

    def extra(self) -> dict[str, Any]:
        """What `Exposure.extra` holds of it: why there is no calibration, no PSF and no gain."""
        content: dict[str, Any] = {}
        if self.no_photo_calib is not None:
            content |= {CANDIDATES: self.candidates, NO_PHOTO_CALIB: self.no_photo_calib}
        if self.no_psf is not None:
            content[NO_PSF] = self.no_psf
        if self.no_gain:
            content[NO_GAIN] = self.no_gain
        return content


class Format(abc.ABC):
    """One kind of image on disk.

    Instances hold nothing: everything about an image is in its path and the keyword options, which are those
    of `Options`, a `ReadOptions` subclass. `hdu` is an option where a format has such a choice.
    """

    name: ClassVar[str]
    """What a user writes as ``format=``."""
    looked_for: ClassVar[str]
    """What makes a file one of this format: the end of the sentence "'<name>' is recognised by ..."."""
    Options: ClassVar[type[ReadOptions]] = ReadOptions
    """The keyword options of `footprint` and `read`."""

    @abc.abstractmethod
    def matches(self, path: StrPath) -> bool:
        """Whether the file is of this format; reads headers at most.

        Raises
        ------
        CorruptFileError
            If the file is missing, empty or so damaged that its headers cannot be read.
        """

    @abc.abstractmethod
    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Where the image lies on the sky, without reading pixels. Takes the options that `read` takes.

        Raises
        ------
        CorruptFileError, MissingWcsError, FormatError, ConfigError
        """

    @abc.abstractmethod
    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure with everything that its files say of its calibration.

        Its ``photo_calib`` carries every candidate for the calibration reference in ``candidates`` and has
        none of them chosen (``reference`` None). An image without a calibration keeps them in
        ``extra[CANDIDATES]`` and the `CalibrationError` that says why in ``extra[NO_PHOTO_CALIB]``: an
        `UncalibratedImageError` where nothing was found (such an image may be read), anything else (two
        zeropoints that disagree) is raised by `read_exposure`, unless the caller gives a calibration.
        ``extra[FILES]`` holds the identities of the files read.

        Raises
        ------
        CorruptFileError, MissingWcsError, CalibrationError, FormatError, ConfigError
        """

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """What `read` would say of the image's calibration; raises what `read` would raise for it.

        A format that overrides this reads headers and tables only, with the code that its `read` uses, so that the
        two cannot disagree; otherwise the whole image is read.
        """
        return ImageCalibration.of(self.read(path, **options))

    @abc.abstractmethod
    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write an exposure of this format.

        Parameters
        ----------
        exposure : Exposure
            What `read` of `like` returned, with changed planes.
        path : path-like
            The image file to write; files beside it are named as those beside `like`.
        like : path-like
            The file whose layout is followed and whose untouched parts are copied.
        overwrite : bool
            Replace an output that exists. The input is never overwritten.

        Returns
        -------
        tuple of Path
            Every file written, the image first. None is visible under its name before it is whole.

        Raises
        ------
        OutputExistsError, OutputError, FormatError
        """
