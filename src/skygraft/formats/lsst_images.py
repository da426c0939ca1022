"""Rubin's image files (``lsst.images``): visit and difference images, masked images and cell coadds, FITS or JSON.

They are read and written with the library that defines them, which is BSD-licensed and on PyPI (``skygraft[rubin]``).
Its objects are converted here: pixels, sky projection (as an AST dump), PSF and calibration.
"""

from __future__ import annotations

import importlib
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray

from skygraft.dataset import LINEAGE, Lineage
from skygraft.errors import (
    FormatError,
    MissingWcsError,
    OutputError,
    SkygraftError,
    UncalibratedImageError,
)
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import map_fits
from skygraft.fitsfile.rewrite import atomic_output
from skygraft.formats.afw_names import GivenCatalog, source_catalog_of
from skygraft.formats.base import (
    FILES,
    Format,
    ImageCalibration,
    ImageFootprint,
    ReadOptions,
    StrPath,
    identify_files,
    refuse_overwrite,
)
from skygraft.formats.given import GivenPsf
from skygraft.formats.lsst_images_fits import write_planes
from skygraft.formats.lsst_images_open import library_errors, load, open_parts, schema_of
from skygraft.formats.lsst_images_parts import coadd_noise, difference_image
from skygraft.formats.lsst_images_psfs import build_psf
from skygraft.photometry import PhotoCalib, ReferenceCandidate
from skygraft.photometry.origins import aperture_correction_hints, default_candidate, schema_candidates
from skygraft.planes import Planes
from skygraft.wcs import AstWcs, pixel_scale

__all__ = ["LsstImagesFormat"]

_PLANES = {
    "INJECTED": "Pixel was changed by an injected source by more than a fraction of its noise.",
    "INJECTED_CORE": "Pixel is near the centre of an injected source.",
}


@dataclass(frozen=True)
class LsstImagesOptions(ReadOptions):
    """Reading options for information that a file may lack.

    Parameters
    ----------
    template_psf : PSF, path or mapping, optional
        PSF of a difference image's template, in pixels of the science image; see `skygraft.formats.given.make_psf`. By
        default it is the PSF of the science image, stretched to the recorded second moments of the template's PSF.
    instrument : str, optional
        Name of the instrument; a cell coadd records it only in its inputs.
    band : str, optional
        Band; a plain masked image records none.
    source_catalog : path or False, optional
        The source table (FITS or Parquet) whose schema names the calibration flux; by default it is searched for in
        the image's directory (`find_source_catalog`); False for none.
    """

    template_psf: GivenPsf | None = None
    instrument: str | None = None
    band: str | None = None
    source_catalog: GivenCatalog = None


def _files(path: StrPath, options: LsstImagesOptions) -> list[str]:
    """Paths of the image and its source table, if it has one."""
    catalog = source_catalog_of(path, options.source_catalog)
    return [os.fspath(path), *([] if catalog is None else [os.fspath(catalog)])]


def _xy0(image: Any) -> tuple[int, int]:
    return int(image.bbox.x.start), int(image.bbox.y.start)


def _shape(image: Any) -> tuple[int, int]:
    return int(image.bbox.y.size), int(image.bbox.x.size)


def _middle(image: Any) -> tuple[float, float]:
    (ny, nx), (x0, y0) = _shape(image), _xy0(image)
    return x0 + (nx - 1) / 2, y0 + (ny - 1) / 2


def _wcs(image: Any, path: StrPath) -> AstWcs:
    if image.sky_projection is None:
        raise MissingWcsError("the image has no sky projection", path=path, fix="Solve its astrometry first")
    with library_errors(path):
        dump = image.sky_projection.show()
    return AstWcs.from_mapping(dump, path=os.fspath(path))


def _instrument(image: Any, options: LsstImagesOptions) -> str | None:
    if options.instrument is not None:
        return options.instrument
    if (info := getattr(image, "obs_info", None)) is not None:
        return str(info.instrument) if info.instrument else None
    inputs = getattr(getattr(image, "provenance", None), "inputs", None)
    if inputs is not None and "instrument" in inputs.colnames:
        names = {str(name) for name in inputs["instrument"]}
        return names.pop() if len(names) == 1 else None
    return None


def _data_id(image: Any, path: StrPath, options: LsstImagesOptions) -> DataId:
    info, detector = getattr(image, "obs_info", None), getattr(image, "detector", None)
    patch = getattr(image, "patch", None)
    name = Path(path).name
    for ending in (".fits", ".json", ".fits.gz", ".json.gz"):
        name = name.removesuffix(ending)
    return DataId(
        instrument=_instrument(image, options),
        visit=int(info.visit_id) if info is not None and info.visit_id is not None else None,
        detector=int(detector.id) if detector is not None else None,
        tract=int(image.tract) if getattr(image, "tract", None) is not None else None,
        patch=int(patch.id) if patch is not None else None,
        band=options.band or getattr(image, "band", None),
        name=name,
    )


def _visit_info(image: Any) -> VisitInfo:
    info = getattr(image, "obs_info", None)
    if info is None:
        return VisitInfo()
    seconds = None if info.exposure_time is None else float(info.exposure_time.to_value("s"))
    mjd = None
    if info.datetime_begin is not None and info.datetime_end is not None:
        begin, end = (Time(t).tai for t in (info.datetime_begin, info.datetime_end))
        mjd = float((begin + (end - begin) / 2).mjd)
    return VisitInfo(mjd, seconds)


def _photo_calib(
    image: Any, path: StrPath, candidates: tuple[ReferenceCandidate, ...]
) -> tuple[PhotoCalib | None, UncalibratedImageError | None]:
    """Calibration of an image in nJy (``photometric_scaling`` was already applied), or the error for another unit."""
    unit = str(image.unit)
    if unit == "nJy":
        return PhotoCalib.nanojansky(candidates=candidates), None
    return None, UncalibratedImageError(
        f"the image is in {unit}, not in nJy",
        path=path,
        fix="Give its zeropoint (photo_calib=PhotoCalib.from_zeropoint(...))",
    )


def _candidates(
    image: Any, path: StrPath, instrument: str | None, catalog: Path | None
) -> tuple[ReferenceCandidate, ...]:
    found = [] if catalog is None else schema_candidates(catalog, keep_unclear=True)
    names = [str(name) for name in getattr(image, "aperture_corrections", None) or ()]
    found += aperture_correction_hints(names, f"the aperture corrections of {Path(path).name}")
    default = default_candidate(instrument)
    return tuple([*found, default] if default is not None else found)


def _mask_bits(mask: Any) -> NDArray[np.int32]:
    """Pack the mask into one integer per pixel: plane i of the schema is bit i.

    Raises
    ------
    FormatError
        If there are more planes than bits.
    """
    array = mask.array
    if array.shape[2] * array.dtype.itemsize > 4:
        raise FormatError(f"the mask has {len(mask.schema)} planes; 32 fit", fix="Drop planes that are not needed")
    bits = np.zeros(array.shape[:2], dtype=np.uint32)
    for k in range(array.shape[2]):
        bits |= array[:, :, k].astype(np.uint32) << np.uint32(8 * array.dtype.itemsize * k)
    return bits.view(np.int32)


def _mask_planes(mask: Any, path: StrPath) -> dict[str, int]:
    """Mask planes and their bit numbers."""
    planes = {str(plane.name): bit for bit, plane in enumerate(mask.schema) if plane is not None}
    for name, bit in planes.items():
        if name.split() != [name]:
            raise FormatError(
                f"the mask plane of bit {bit} is named {name!r}; a word is needed",
                path=path,
                key="mask",
                fix="Make or fetch the file again",
            )
    return planes


def _calibration(image: Any, path: StrPath, options: LsstImagesOptions) -> ImageCalibration:
    catalog = source_catalog_of(path, options.source_catalog)
    candidates = _candidates(image, path, _instrument(image, options), catalog)
    photo_calib, uncalibrated = _photo_calib(image, path, candidates)
    psf, no_psf = build_psf(image, path)
    return ImageCalibration(
        unit=str(image.unit),
        wcs=_wcs(image, path),
        shape=_shape(image),
        xy0=_xy0(image),
        photo_calib=photo_calib,
        no_photo_calib=uncalibrated,
        candidates=candidates,
        psf=psf,
        no_psf=no_psf,
        has_variance=True,
    )


class LsstImagesFormat(Format):
    """Images of Rubin's ``lsst.images`` library: visit, difference and masked images, and cell coadds."""

    name: ClassVar[str] = "lsst_images"
    looked_for: ClassVar[str] = "a schema of images.lsst.io in the primary header (DATAMODL) or at the end of the JSON"
    Options: ClassVar[type[ReadOptions]] = LsstImagesOptions

    def matches(self, path: StrPath) -> bool:
        """Return whether the file names a schema of lsst.images.

        Raises
        ------
        CorruptFileError
            If the file cannot be read.
        """
        return schema_of(path) is not None

    def footprint(self, path: StrPath, **options: Any) -> ImageFootprint:
        """Return identity and sky position of the image; see `Format.footprint`."""
        parsed = LsstImagesOptions.parse(options, self.name, path)
        with open_parts(path) as image:
            found = ImageFootprint.of(
                Path(path),
                self.name,
                _wcs(image, path),
                _shape(image),
                _xy0(image),
                data_id=_data_id(image, path, parsed),
                visit_info=_visit_info(image),
                files=_files(path, parsed),
            )
        # Indexes have always held the size of the image alone.
        return replace(found, n_bytes=Path(path).stat().st_size)

    def read(self, path: StrPath, **options: Any) -> Exposure:
        """Read an image; see `Format.read`. ``extra["schema"]`` is the kind of image and its schema's version."""
        parsed = LsstImagesOptions.parse(options, self.name, path)
        stamps = identify_files(_files(path, parsed))
        image = load(path)
        found = _calibration(image, path, parsed)
        planes = Planes.from_arrays(
            image.image.array,
            image.variance.array,
            _mask_bits(image.mask),
            mask_planes=_mask_planes(image.mask, path),
            xy0=found.xy0,
            units=found.unit,
        )
        schema = schema_of(path)
        scale = float(pixel_scale(found.wcs, *_middle(image))[0])
        kind = "" if schema is None else schema[0]
        given = parsed.template_psf
        difference = difference_image(
            image, kind, science_psf=found.psf, template_psf=given, pixel_scale=scale, path=path
        )
        return Exposure(
            planes=planes,
            wcs=found.wcs,
            psf=found.psf,
            photo_calib=found.photo_calib,
            data_id=_data_id(image, path, parsed),
            visit_info=_visit_info(image),
            path=Path(path),
            format=self.name,
            header={str(key): value for key, value in image.metadata.items()},
            extra={FILES: stamps, "schema": schema, **coadd_noise(image), **difference, **found.extra()},
        )

    def calibration(self, path: StrPath, **options: Any) -> ImageCalibration:
        """Return the calibration of the image; see `Format.calibration`."""
        parsed = LsstImagesOptions.parse(options, self.name, path)
        with open_parts(path) as image:
            return _calibration(image, path, parsed)

    def write(self, exposure: Exposure, path: StrPath, *, like: StrPath, overwrite: bool = False) -> tuple[Path, ...]:
        """Write an image with everything else that `like` contains; see `Format.write`.

        A FITS file is copied with its planes, JSON tree and index changed and all other HDUs byte for byte; a JSON file
        is written by the library. Mask planes that `like` does not have are added to its schema. The metadata record
        that sources were injected, and the calibration aperture (``skygraft_...``). With a `Lineage` in ``extra`` the
        file also names its Butler dataset and the datasets that it was derived from.
        """
        refuse_overwrite(path, [like], overwrite=overwrite)
        if Path(path).suffix != Path(like).suffix:
            raise OutputError(
                f"the output ends in {Path(path).suffix!r} and the image in {Path(like).suffix!r}",
                path=path,
                fix="Give both the same ending: lsst.images chooses the format of the file by it",
            )
        image = load(like)
        if exposure.shape != _shape(image):
            raise FormatError(f"the exposure has shape {exposure.shape}, that file {_shape(image)}", path=like)
        added = _new_planes(image.mask, exposure, like)
        if Path(like).suffix == ".json":
            return (_write_json(image, exposure, path, added, [like], overwrite=overwrite),)

        def edit(tree: dict[str, Any]) -> None:
            tree["mask"]["planes"] += [
                None if p is None else {"name": p, "description": _PLANES.get(p, "")} for p in added
            ]
            if found := _provenance(exposure):
                tree["metadata"] = {**(tree.get("metadata") or {}), **found}
            if lineage is not None:
                tree["butler_info"] = lineage.butler_info()

        lineage: Lineage | None = exposure.extra.get(LINEAGE)
        primary = _lineage_cards(lineage, like)
        planes: dict[str, NDArray[Any]] = {"IMAGE": exposure.image, "MASK": exposure.mask}
        if exposure.variance is not None:
            planes["VARIANCE"] = exposure.variance
        cards: dict[str, tuple[Any, str] | None] = {}
        for bit, name in enumerate(added, start=len(image.mask.schema)):
            if name is not None:
                cards |= {
                    f"MSKN{bit:04d}": (name, f"Name for mask plane {bit}."),
                    f"MSKM{bit:04d}": (1 << bit, f"Bitmask for plane n={bit}; always 1<<n."),
                    f"MSKD{bit:04d}": (_PLANES.get(name, "")[:68], ""),
                }
        return (write_planes(like, path, planes, cards, edit, primary_cards=primary, overwrite=overwrite),)


def _lineage_cards(lineage: Lineage | None, like: StrPath) -> dict[str, tuple[Any, str] | None]:
    if lineage is None:
        return {}
    with map_fits(like) as raw:
        return lineage.cards(header_of(raw.header_cards(0)))


def _new_planes(mask: Any, exposure: Exposure, like: StrPath) -> list[str | None]:
    """Mask planes that the file does not have, in order of their bits after its own; None for unused bits."""
    known = _mask_planes(mask, like)
    wanted = {name: (value & 0xFFFFFFFF).bit_length() - 1 for name, value in exposure.mask_planes.items()}
    added: list[str | None] = []
    for bit, name in sorted((bit, name) for name, bit in wanted.items()):
        if name in known:
            if known[name] != bit:
                raise FormatError(
                    f"mask plane {name} is bit {bit} here and bit {known[name]} in that file",
                    path=like,
                    fix="Give the file that the exposure was read from as like=",
                )
            continue
        free = bit - len(mask.schema) - len(added)
        if free < 0:
            raise FormatError(f"mask plane {name} is bit {bit} here, which that file keeps free", path=like)
        added += [*[None] * free, name]
    return added


def _write_json(
    image: Any, exposure: Exposure, path: StrPath, added: list[str | None], inputs: list[StrPath], *, overwrite: bool
) -> Path:
    """Write the library's object with the exposure's planes as JSON, through the library."""
    image.image.array[...] = exposure.image
    if exposure.variance is not None:
        image.variance.array[...] = exposure.variance
    if added:
        plane = importlib.import_module("lsst.images").MaskPlane
        image.mask = image.mask.add_planes([None if p is None else plane(p, _PLANES.get(p, "")) for p in added])
    bits, array = exposure.mask.view(np.uint32), image.mask.array
    for k in range(array.shape[2]):
        array[:, :, k] = (bits >> np.uint32(8 * array.dtype.itemsize * k)).astype(array.dtype)
    image.metadata.update(_provenance(exposure))
    target = Path(path)
    written = target.with_name(f".{target.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp.json")
    try:
        serialization = importlib.import_module("lsst.images.serialization")
        lineage: Lineage | None = exposure.extra.get(LINEAGE)
        info = None if lineage is None else serialization.ButlerInfo.model_validate(lineage.butler_info())
        serialization.write_archive(image, os.fspath(written), butler_info=info)
        with atomic_output(path, inputs=inputs, overwrite=overwrite) as stream:
            stream.write(written.read_bytes())
    except OSError as error:
        if isinstance(error, SkygraftError):
            raise
        raise OutputError(
            f"the image cannot be written ({error.strerror or error})", path=path, fix="Check permissions and space"
        ) from error
    finally:
        written.unlink(missing_ok=True)
    return target


def _provenance(exposure: Exposure) -> dict[str, Any]:
    """Metadata of an image with injected sources."""
    if "INJECTED" not in exposure.mask_planes:
        return {}
    found: dict[str, Any] = {"skygraft_injected": True}
    calib = exposure.photo_calib
    if calib is not None and calib.reference is not None:
        found["skygraft_calibration_reference"] = str(calib.reference)
        found["skygraft_calibration_origin"] = calib.reference_origin
        if calib.aperture is not None:
            found["skygraft_calibration_radius_pixels"] = float(calib.aperture.radius_pixels)
    return found
