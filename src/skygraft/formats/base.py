"""The interface of image formats: read one kind of image into an `Exposure`, and write it back.

A format is one class. It collects everything that an image records of its calibration, without choosing (the
calibration aperture is resolved in `skygraft.photometry`), and writes an output that the survey's own software opens:
what injection did not change is copied unchanged.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.errors import CalibrationError, ConfigError, PsfError
from skygraft.exposure import NO_GAIN, NO_PHOTO_CALIB, NO_PSF, DataId, Exposure, VisitInfo
from skygraft.formats.input_files import StrPath, check_unchanged, identify_files, refuse_overwrite
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.place_names import is_copy
from skygraft.places import bring
from skygraft.psf import PSF, Box
from skygraft.wcs import footprint, pixel_scale

__all__ = [
    "CANDIDATES",
    "CAUTION",
    "FILES",
    "NO_PHOTO_CALIB",
    "Chunks",
    "Format",
    "ImageCalibration",
    "ImageFootprint",
    "ReadOptions",
    "StrPath",
    "check_unchanged",
    "identify_files",
    "refuse_overwrite",
]

type Chunks = int | Mapping[Any, Any] | Literal["auto"] | None
"""Sizes of the arrays of Dask that planes are opened as; None for none."""

FILES = "files"
"""Key of `Exposure.extra`: each file the exposure was read from, path to `skygraft.disk.FileIdentity`, image first."""

CANDIDATES = "candidates"
"""Key of `Exposure.extra`: every ``ReferenceCandidate`` that was found, if ``photo_calib`` is None."""

CAUTION = "caution"
"""Key of `Exposure.extra`: a warning text about parts of the image that may be wrong as it was read."""


@dataclass(frozen=True)
class ReadOptions:
    """Base class of a format's reading options: a frozen dataclass whose fields are the allowed options.

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
        """Build the options from keyword arguments.

        Parameters
        ----------
        options : mapping
            Option names and values.
        format_name : str
            Name of the format, for errors.
        path : path-like, optional
            The image, for errors.

        Raises
        ------
        ConfigError
            If a key is not an option of this format; the message suggests the nearest.
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
    """Identity and sky position of an image, as far as they are known without reading pixels.

    Parameters
    ----------
    path : Path
        The image file.
    format : str
        Name of the format.
    data_id : DataId
        Identity of the image.
    visit_info : VisitInfo
        Time and exposure time.
    shape : (int, int)
        Rows and columns.
    xy0 : (int, int)
        Parent coordinates (x, y) of the first pixel.
    corners : ndarray, shape (M, 2)
        Vertices (right ascension, declination) of a polygon around the image, ICRS degrees; M >= 4, since edges may
        be curved.
    center : (float, float)
        Right ascension and declination of the image's centre, ICRS degrees.
    pixel_scale : float
        Arcseconds per pixel at the centre.
    n_bytes : int
        Total size of the files in `files`.
    hdu : int or str or None
        The HDU of the image, if the format has such an option.
    files : tuple of str
        All files that reading the image opens, the image first.
    pinned : mapping
        Options (JSON types) with which a copy of the image elsewhere is read with the same calibration files.
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
    """The calibration of an image: everything in an exposure except its pixels.

    Parameters
    ----------
    unit : str
        Unit of the pixels.
    wcs : BaseLowLevelWCS
        As in `Exposure`.
    shape, xy0 : (int, int)
        Rows and columns; parent coordinates (x, y) of the first pixel.
    photo_calib : PhotoCalib or None
        As in `Exposure`.
    no_photo_calib : CalibrationError or None
        Why `photo_calib` is None.
    candidates : tuple of ReferenceCandidate
        Everything that was found about the reference of the calibrated flux (aperture, PSF model or total).
    psf : PSF or None
        As in `Exposure`.
    no_psf : PsfError or None
        Why `psf` is None.
    gain : float, ndarray or None
        Electrons per image unit; None if not recorded.
    gain_origin : str
        Where the gain was found.
    no_gain : str
        Why a gain in the files cannot be used; "" otherwise.
    has_variance : bool
        Whether there is a variance plane, from which a gain can be estimated.
    n_files : int
        Largest number of files that are written for the image.
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
        """Return the calibration of an exposure."""
        calib = exposure.photo_calib
        return cls(
            unit=str(exposure.plain.attrs("image").get("units", "adu")),
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
            has_variance="variance" in exposure.plain,  # which need not be read for that
            n_files=max(1, len(exposure.extra.get(FILES, ()))),
        )

    def extra(self) -> dict[str, Any]:
        """Return its entries of `Exposure.extra`: why there is no photometric calibration, no PSF or no gain."""
        content: dict[str, Any] = {}
        if self.no_photo_calib is not None:
            content |= {CANDIDATES: self.candidates, NO_PHOTO_CALIB: self.no_photo_calib}
        if self.no_psf is not None:
            content[NO_PSF] = self.no_psf
        if self.no_gain:
            content[NO_GAIN] = self.no_gain
        return content


class Format(abc.ABC):
    """Base class of image formats.

    Instances have no state: an image is given by its path and keyword options, which are the fields of `Options`, a
    `ReadOptions` subclass. A format with several images per file has an option `hdu`. A format of your own should pass
    `skygraft.formats.conformance.check_format`; `skygraft.formats.available` says how a package adds it.
    """

    name: ClassVar[str]
    """Name of the format, as given in ``format=``."""
    looked_for: ClassVar[str]
    """What files of the format are recognised by: the end of the sentence "<name> is recognised by ..."."""
    Options: ClassVar[type[ReadOptions]] = ReadOptions
    """The keyword options of `footprint` and `read`."""

    @abc.abstractmethod
    def matches(self, path: StrPath) -> bool:
        """Return whether a file is of this format; reads headers at most.

        Parameters
        ----------
        path : path-like
            The file.

        Returns
        -------
        bool

        Raises
        ------
        CorruptFileError
            If the file is missing, empty or too damaged to read its headers.
        """

    @abc.abstractmethod
    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image, without reading pixels; takes the options of `read`.

        Parameters
        ----------
        path : path-like
            The image.
        **options
            Fields of `Options`.

        Returns
        -------
        ImageFootprint

        Raises
        ------
        CorruptFileError, MissingWcsError, FormatError, ConfigError
        """

    @abc.abstractmethod
    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an exposure with all calibrations that its files record.

        Its ``photo_calib`` has all candidates for the calibration reference in ``candidates`` and none of them chosen
        (``reference`` is None). For an image without calibration the candidates are in ``extra[CANDIDATES]``, and
        ``extra[NO_PHOTO_CALIB]`` is the `CalibrationError` that says why: an `UncalibratedImageError` if no zeropoint
        was found (such an image can be read); any other error (such as two zeropoints that disagree) is raised by
        `read_exposure`, unless the caller gives a calibration. ``extra[FILES]`` contains the identities of the files.

        Parameters
        ----------
        path : path-like
            The image.
        **options
            Fields of `Options`.

        Returns
        -------
        Exposure

        Raises
        ------
        CorruptFileError, MissingWcsError, CalibrationError, FormatError, ConfigError
        """

    def open(self, path: StrPath, *, chunks: Chunks = None, **options: Any) -> Exposure:
        """Open an exposure whose planes are read when they are asked for, with the same values as those of `read`.

        The default reads the whole image. A format should override it if it can read parts of its planes
        (`skygraft.formats.parts`).

        Parameters
        ----------
        path : path-like
            The image; of one in a store, where its headers and tables are (`skygraft.places.for_headers`).
        chunks : optional
            As of `xarray.open_dataset`.
        **options
            Fields of `Options`.

        Returns
        -------
        Exposure
        """
        exposure = self.read(bring(path) if is_copy(path) else path, **options)
        return exposure if chunks is None else exposure.replace(planes=exposure.planes.chunk(chunks))

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """Return the calibration of the image, the same as `read` does, with the same errors.

        The default reads the whole image. A format should override it to read headers and tables only, with the code
        that its `read` uses, so that the two cannot disagree.

        Parameters
        ----------
        path : path-like
            The image.
        **options
            Fields of `Options`.

        Returns
        -------
        ImageCalibration
        """
        return ImageCalibration.of(self.read(path, **options))

    @abc.abstractmethod
    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write an exposure of this format.

        Parameters
        ----------
        exposure : Exposure
            An exposure from `read` of `like`, with changed planes.
        path : path-like
            The image file to write; companion files are named as those of `like`.
        like : path-like
            The file whose layout is followed and whose unchanged parts are copied.
        overwrite : bool
            Replace an output that exists. The input is never overwritten.

        Returns
        -------
        tuple of Path
            All files written, the image first. Each appears under its name only when it is complete.

        Raises
        ------
        OutputExistsError, OutputError, FormatError
        """
