"""Checks that every image format must pass; run them on a format of your own. They raise `AssertionError`.

Examples
--------
In a test of a format, with one of its files::

    def test_my_format(tmp_path):
        check_format(MyFormat(), "image.fits", tmp_path)
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.disk import FileIdentity
from skygraft.errors import ConfigError, CorruptFileError, OutputExistsError, SkygraftError
from skygraft.exposure import NO_PHOTO_CALIB, NO_PSF, Exposure, add_mask_plane
from skygraft.formats.base import CANDIDATES, FILES, Format, ImageCalibration, StrPath
from skygraft.psf import PSF, Box, defined_position
from skygraft.wcs import pixel_scale

__all__ = [
    "check_bad_files",
    "check_calibration",
    "check_footprint",
    "check_format",
    "check_options",
    "check_pickle",
    "check_read",
    "check_round_trip",
    "check_writes_changes",
]

_ARCSEC = 1 / 3600


def check_format(fmt: Format, path: StrPath, out_dir: StrPath, *, options: Mapping[str, Any] | None = None) -> None:
    """Check a format with one of its images: run all other checks of this module.

    Parameters
    ----------
    fmt : Format
        The format.
    path : path-like
        An image of it; it is not changed.
    out_dir : path-like
        An empty directory to write in.
    options : mapping, optional
        Reading options that the image needs.

    Raises
    ------
    AssertionError
        If a check fails.
    """
    options, out = dict(options or {}), Path(out_dir)
    before = _contents(path, fmt, options)
    assert fmt.matches(path), f"{fmt.name} does not recognise {os.fspath(path)}"
    exposure = check_read(fmt, path, options=options)
    check_footprint(fmt, path, exposure, options=options)
    check_calibration(fmt, path, exposure, options=options)
    check_pickle(fmt, exposure)
    check_options(fmt, path)
    for name in ("same", "changed", "bad"):
        (out / name).mkdir()
    check_round_trip(fmt, path, out / "same", options=options)
    check_writes_changes(fmt, path, out / "changed", options=options)
    check_bad_files(fmt, path, out / "bad")
    assert _contents(path, fmt, options) == before, "an input file was changed"


def _contents(path: StrPath, fmt: Format, options: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in fmt.footprint(path, **options).files}


def check_read(fmt: Format, path: StrPath, *, options: Mapping[str, Any] | None = None) -> Exposure:
    """Check that an exposure has planes, WCS, identity and calibration, or the reason why not.

    Parameters
    ----------
    fmt : Format
    path : path-like
        An image of the format.
    options : mapping, optional
        Reading options that the image needs.

    Returns
    -------
    Exposure
        The image as `fmt` reads it.
    """
    exposure = fmt.read(path, **(options or {}))
    planes = exposure.planes
    assert exposure.format == fmt.name, f"format is {exposure.format!r}, not {fmt.name!r}"
    assert exposure.path is not None and Path(exposure.path) == Path(path), f"path is {exposure.path!r}"
    for name, kind in (("image", np.float32), ("variance", np.float32), ("mask", np.int32)):
        if name == "variance" and name not in planes:
            continue
        array = planes[name].values
        assert planes[name].dims == ("y", "x"), f"{name} has dims {planes[name].dims}"
        assert array.dtype == kind and array.dtype.isnative, f"{name} is {array.dtype}, not native {np.dtype(kind)}"
        assert array.flags.writeable, f"{name} cannot be written to"
    bits = list(exposure.mask_planes.values())
    assert len(set(bits)) == len(bits), "two mask planes have one bit"
    used = int(np.bitwise_or.reduce(exposure.mask, axis=None)) & 0xFFFFFFFF
    named = 0
    for value in bits:
        named |= value & 0xFFFFFFFF
    assert used & ~named == 0, f"mask bits {used & ~named:#x} are set and have no name"
    assert str(exposure.data_id) not in ("", "image"), "the image has no id"
    if exposure.photo_calib is None:
        assert isinstance(exposure.extra.get(NO_PHOTO_CALIB), SkygraftError), "nothing says why photo_calib is None"
        assert CANDIDATES in exposure.extra, "candidates of an uncalibrated image are lost"
    else:
        assert exposure.photo_calib.reference is None, "a format does not choose the calibration reference"
    if exposure.psf is None:
        assert isinstance(exposure.extra.get(NO_PSF), SkygraftError), "nothing says why psf is None"
    assert exposure.gain is None or exposure.gain_origin, "nothing says where the gain is from"
    identities = exposure.extra.get(FILES, {})
    assert os.fspath(path) in identities, f"extra[{FILES!r}] does not list the image"
    assert all(isinstance(one, FileIdentity) for one in identities.values())
    x, y = exposure.xy0
    sky = exposure.wcs.pixel_to_world_values(x + exposure.shape[1] / 2, y + exposure.shape[0] / 2)
    assert np.isfinite(sky).all(), "the WCS gives no position in the middle of the image"
    return exposure


def check_footprint(
    fmt: Format, path: StrPath, exposure: Exposure, *, options: Mapping[str, Any] | None = None
) -> None:
    """Check that the footprint, which is read without pixels, agrees with the exposure.

    Parameters
    ----------
    fmt, path
        As in `check_read`.
    exposure : Exposure
        Result of `check_read`.
    options
        As in `check_read`.
    """
    footprint = fmt.footprint(path, **(options or {}))
    assert footprint.format == fmt.name
    assert footprint.data_id == exposure.data_id, f"{footprint.data_id!r} is not {exposure.data_id!r}"
    assert footprint.visit_info == exposure.visit_info, f"{footprint.visit_info} is not {exposure.visit_info}"
    assert footprint.shape == exposure.shape and footprint.xy0 == exposure.xy0
    box = exposure.box
    x, y = box.center
    np.testing.assert_allclose(footprint.center, exposure.wcs.pixel_to_world_values(x, y), rtol=0, atol=1e-3 * _ARCSEC)
    scale = float(np.ravel(pixel_scale(exposure.wcs, x, y))[0])
    np.testing.assert_allclose(footprint.pixel_scale, scale, rtol=1e-6)
    assert footprint.corners.ndim == 2 and footprint.corners.shape[1] == 2 and len(footprint.corners) >= 4
    found = np.array(exposure.wcs.world_to_pixel_values(*footprint.corners.T)).T
    assert found[:, 0].min() < box.x_min + 1 and found[:, 0].max() > box.x_max - 1, "the outline misses an edge"
    assert found[:, 1].min() < box.y_min + 1 and found[:, 1].max() > box.y_max - 1, "the outline misses an edge"
    assert footprint.files and Path(footprint.files[0]) == Path(path), "the image is not the first of the files"
    assert set(exposure.extra[FILES]) >= {os.fspath(path)}
    assert footprint.n_bytes > 0


def check_calibration(
    fmt: Format, path: StrPath, exposure: Exposure, *, options: Mapping[str, Any] | None = None
) -> None:
    """Check that the calibration read without pixels is that of the exposure.

    Parameters
    ----------
    fmt, path
        As in `check_read`.
    exposure : Exposure
        Result of `check_read`.
    options
        As in `check_read`.
    """
    found, expected = fmt.calibration(path, **(options or {})), ImageCalibration.of(exposure)
    for name in ("unit", "shape", "xy0", "photo_calib", "candidates", "gain_origin", "no_gain", "has_variance"):
        assert getattr(found, name) == getattr(expected, name), (
            f"{name} is {getattr(found, name)!r} without pixels, {getattr(expected, name)!r} with them"
        )
    for name in ("no_photo_calib", "no_psf"):
        assert _described(getattr(found, name)) == _described(getattr(expected, name)), f"another reason for {name}"
    np.testing.assert_array_equal(found.gain, expected.gain)
    x, y = exposure.box.center
    np.testing.assert_array_equal(found.wcs.pixel_to_world_values(x, y), expected.wcs.pixel_to_world_values(x, y))
    assert (found.psf is None) == (expected.psf is None), "one of them has a PSF"
    if found.psf is not None and expected.psf is not None:
        _same_psf(found.psf, expected.psf, exposure.box)


def _same_psf(one: PSF, other: PSF, box: Box) -> None:
    at = defined_position(other, box)
    assert at is not None, "the PSF has no kernel anywhere on the image"
    x, y = at
    np.testing.assert_array_equal(one.kernels([x], [y]), other.kernels([x], [y]))


def _described(error: Exception | None) -> tuple[type, str] | None:
    return None if error is None else (type(error), str(error))


def check_pickle(fmt: Format, exposure: Exposure) -> None:
    """Check that format and exposure can be pickled.

    Parameters
    ----------
    fmt : Format
    exposure : Exposure
        Result of `check_read`.
    """
    again: Format = pickle.loads(pickle.dumps(fmt))
    assert again.name == fmt.name
    copy: Exposure = pickle.loads(pickle.dumps(exposure))
    _same_pixels(copy, exposure)
    assert copy.data_id == exposure.data_id and copy.photo_calib == exposure.photo_calib
    x, y = exposure.xy0
    np.testing.assert_array_equal(copy.wcs.pixel_to_world_values(x, y), exposure.wcs.pixel_to_world_values(x, y))
    if exposure.psf is not None and copy.psf is not None:
        _same_psf(copy.psf, exposure.psf, exposure.box)
    assert copy == exposure, "a pickled exposure is not equal to the original"


def check_options(fmt: Format, path: StrPath) -> None:
    """Check that `read`, `footprint` and `calibration` refuse an unknown option.

    Parameters
    ----------
    fmt : Format
    path : path-like
        An image of the format.
    """
    for read in (fmt.read, fmt.footprint, fmt.calibration):
        try:
            read(path, no_such_option=1)
        except ConfigError as error:
            assert error.key == "no_such_option", f"the error does not name the option: {error}"
        else:
            raise AssertionError(f"{read.__name__} accepts an option that does not exist")


def check_round_trip(fmt: Format, path: StrPath, out_dir: Path, *, options: Mapping[str, Any] | None = None) -> None:
    """Check that an exposure written unchanged is read back with the same pixels, and never replaces its input.

    Parameters
    ----------
    fmt, path
        As in `check_read`.
    out_dir : Path
        An empty directory.
    options
        As in `check_read`.
    """
    options = dict(options or {})
    exposure = fmt.read(path, **options)
    target = out_dir / Path(path).name
    written = fmt.write(exposure, target, like=path)
    assert written and written[0] == target and all(p.is_file() for p in written), f"written: {written}"
    assert sorted(p.name for p in out_dir.iterdir()) == sorted({p.name for p in written}), "files that nobody named"
    again = fmt.read(target, **options)
    _same_pixels(again, exposure)
    assert again.data_id == exposure.data_id and again.mask_planes == exposure.mask_planes
    for taken, overwrite in ((target, False), (Path(path), True)):
        try:
            fmt.write(exposure, taken, like=path, overwrite=overwrite)
        except OutputExistsError:
            continue
        raise AssertionError(f"{taken} was overwritten (overwrite={overwrite})")
    fmt.write(exposure, target, like=path, overwrite=True)
    _same_pixels(fmt.read(target, **options), exposure)


def check_writes_changes(
    fmt: Format, path: StrPath, out_dir: Path, *, options: Mapping[str, Any] | None = None
) -> None:
    """Check that changed pixels are written (within the input's quantisation) and all others are read back exactly.

    Parameters
    ----------
    fmt, path
        As in `check_read`.
    out_dir : Path
        An empty directory.
    options
        As in `check_read`.
    """
    options = dict(options or {})
    exposure = fmt.read(path, **options)
    ny, nx = exposure.shape
    planes = exposure.planes.copy(deep=True)
    where = (slice(ny // 2, ny // 2 + 3), slice(nx // 2, nx // 2 + 3))
    image = planes["image"].values
    finite = image[np.isfinite(image)]
    step = float(100 * max(np.std(finite), 1.0)) if finite.size else 100.0
    image[where] = np.nan_to_num(image[where], posinf=0, neginf=0) + step
    if "variance" in planes:
        variance = planes["variance"].values
        known = variance[np.isfinite(variance) & (variance > 0)]
        variance[where] = 1.5 * np.median(known) if known.size else 1.0
    bit = add_mask_plane(planes, "INJECTED")
    planes["mask"].values[where] |= np.int32(1 << bit)
    changed = exposure.replace(planes=planes)
    target = out_dir / Path(path).name
    fmt.write(changed, target, like=path)
    again = fmt.read(target, **options)
    mark = again.mask_planes.get("INJECTED")
    assert mark is not None, f"the new mask plane is lost; there are {list(again.mask_planes)}"
    expected = np.zeros((ny, nx), dtype=bool)
    expected[where] = True
    np.testing.assert_array_equal((again.mask & mark) != 0, expected)
    for name, value in exposure.mask_planes.items():
        np.testing.assert_array_equal(
            (again.mask & again.mask_planes[name]) != 0, (exposure.mask & value) != 0, err_msg=f"mask plane {name}"
        )
    for name in ("image", "variance"):
        if name not in exposure.planes:
            continue
        new, old, want = again.planes[name].values, exposure.planes[name].values, planes[name].values
        np.testing.assert_array_equal(new[~expected], old[~expected], err_msg=f"untouched pixels of {name}")
        np.testing.assert_allclose(new[where], want[where], rtol=1e-2, err_msg=f"changed pixels of {name}")
    assert again.data_id == exposure.data_id
    if exposure.photo_calib is not None:
        assert again.photo_calib == exposure.photo_calib, "the calibration did not come back"
    if exposure.psf is not None:
        assert again.psf is not None
        _same_psf(again.psf, exposure.psf, exposure.box)


def check_bad_files(fmt: Format, path: StrPath, out_dir: Path) -> None:
    """Check that missing, empty, truncated and foreign files raise an error that names the file.

    Parameters
    ----------
    fmt : Format
    path : path-like
        An image of the format.
    out_dir : Path
        An empty directory.
    """
    name = Path(path).name
    good = Path(path).read_bytes()
    bad = {"missing": None, "empty": b"", "truncated": good[: len(good) // 2], "no_fits": b"not a FITS file " * 300}
    for kind, content in bad.items():
        folder = out_dir / kind
        folder.mkdir()
        if content is not None:
            (folder / name).write_bytes(content)
        for read in (fmt.read, fmt.footprint, fmt.calibration):
            try:
                read(folder / name)
            except CorruptFileError as error:
                assert error.path is not None and name in error.path, f"{kind}: the error does not name the file"
            else:
                raise AssertionError(f"a file that is {kind} was read")


def _same_pixels(a: Exposure, b: Exposure) -> None:
    assert set(a.planes) == set(b.planes), f"planes {set(a.planes)} are not {set(b.planes)}"
    for name in b.planes:
        np.testing.assert_array_equal(a.planes[name].values, b.planes[name].values, err_msg=str(name))
        np.testing.assert_array_equal(a.planes["x"].values, b.planes["x"].values)
        np.testing.assert_array_equal(a.planes["y"].values, b.planes["y"].values)
