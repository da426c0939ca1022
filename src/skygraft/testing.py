"""Public helpers for tests: exposures from nothing, comparisons that say what differs, and conformance suites.

The suites are what skygraft's own formats and PSFs are tested with. They are plain functions that raise
`AssertionError` naming what is wrong, for any test runner; use them on a format or a PSF class of your own.

Examples
--------
In a test of a PSF class::

    def test_my_psf():
        skygraft.testing.check_psf(MyPsf(fwhm=3.5), x=[10.0, 500.5], y=[20.0, 30.25])

In a test of a format, with one of its files (``tmp_path`` is pytest's empty directory)::

    def test_my_format(tmp_path):
        skygraft.testing.check_format(MyFormat(), "image.fits", tmp_path)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.lazy import lazy_names
from skygraft.photometry import CalibrationAperture, CalibrationReference, PhotoCalib
from skygraft.planes import Planes
from skygraft.psf import PSF, MoffatPSF, check_psf
from skygraft.wcs import FitsWcs

if TYPE_CHECKING:
    from skygraft.formats.conformance import (
        check_bad_files,
        check_calibration,
        check_footprint,
        check_format,
        check_options,
        check_pickle,
        check_read,
        check_round_trip,
        check_writes_changes,
    )

__all__ = [
    "assert_exposures_equal",
    "check_bad_files",
    "check_calibration",
    "check_footprint",
    "check_format",
    "check_options",
    "check_pickle",
    "check_psf",
    "check_read",
    "check_round_trip",
    "check_writes_changes",
    "make_exposure",
]

_OF_FORMATS = (
    "check_bad_files",
    "check_calibration",
    "check_footprint",
    "check_format",
    "check_options",
    "check_pickle",
    "check_read",
    "check_round_trip",
    "check_writes_changes",
)

if not TYPE_CHECKING:  # formats are imported when one is checked
    __getattr__ = lazy_names(__name__, {"skygraft.formats.conformance": _OF_FORMATS})

MASK_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5}


def make_exposure(
    shape: tuple[int, int] = (256, 256),
    *,
    psf: PSF | None = None,
    photo_calib: PhotoCalib | None = None,
    reference: CalibrationReference | None = None,
    wcs: BaseLowLevelWCS | None = None,
    center: tuple[float, float] = (150.0, 2.0),
    pixel_scale: float = 0.2,
    rotation: float = 0.0,
    mirrored: bool = False,
    xy0: tuple[int, int] = (0, 0),
    sky: float = 0.0,
    variance: float = 100.0,
    noise: bool = False,
    gain: float | None = 2.0,
    data_id: DataId | None = None,
    visit_info: VisitInfo | None = None,
    seed: int = 0,
) -> Exposure:
    """Make an exposure without any file: blank sky, or noise, with calibrations of your choice.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    psf : PSF, optional
        By default a Moffat of beta 3 and FWHM 4 pixels.
    photo_calib : PhotoCalib, optional
        By default a zeropoint of 27 in adu, calibrated to `reference`.
    reference : CalibrationReference, optional
        What the default calibration is the flux of: by default an aperture of 12 pixels.
    wcs : BaseLowLevelWCS, optional
        By default gnomonic, by the next four parameters.
    center : (float, float)
        Right ascension and declination of the middle pixel, ICRS degrees.
    pixel_scale : float
        Arcseconds per pixel.
    rotation : float
        Degrees by which North is turned.
    mirrored : bool
        Let columns run East instead of West.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    sky : float
        Level added to every pixel, image units.
    variance : float
        Of every pixel, image units squared.
    noise : bool
        Draw Gaussian noise of that variance onto the image.
    gain : float, optional
        Electrons per image unit; None leaves it unknown.
    data_id, visit_info : optional
        By default visit 1, detector 2, band r, at MJD 60000 for 30 s.
    seed : int
        Of the noise.

    Returns
    -------
    Exposure

    Examples
    --------
    >>> from skygraft.testing import make_exposure
    >>> make_exposure((64, 128), xy0=(1000, 2000)).box
    Box(x_min=999.5, x_max=1127.5, y_min=1999.5, y_max=2063.5)
    """
    ny, nx = shape
    if wcs is None:
        turn = np.deg2rad(rotation)
        rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        cd = pixel_scale / 3600 * rotate @ np.diag([1.0 if mirrored else -1.0, 1.0])
        wcs = FitsWcs.tan(*center, crpix=((nx - 1) / 2, (ny - 1) / 2), cd=cd, xy0=xy0)
    if photo_calib is None:
        reference = reference or CalibrationAperture(12.0, 12.0 * pixel_scale, "made for a test")
        photo_calib = PhotoCalib.from_zeropoint(27.0, reference=reference, reference_origin="made for a test")
    image = np.full(shape, sky, dtype=np.float64)
    if noise:
        image += np.sqrt(variance) * np.random.default_rng(seed).standard_normal(shape)
    planes = Planes.from_arrays(
        image,
        np.full(shape, variance, dtype=np.float32),
        mask_planes=MASK_PLANES,
        xy0=xy0,
        units=photo_calib.unit,
    )
    return Exposure(
        planes=planes,
        wcs=wcs,
        psf=MoffatPSF(fwhm=4.0, beta=3.0) if psf is None else psf,
        photo_calib=photo_calib,
        data_id=data_id or DataId(instrument="TestCam", visit=1, detector=2, band="r"),
        visit_info=visit_info or VisitInfo(mjd=60000.0, exposure_time=30.0),
        gain=gain,
        gain_origin="" if gain is None else "made for a test",
    )


def assert_exposures_equal(
    actual: Exposure, expected: Exposure, *, rtol: float = 0.0, atol: float = 0.0, calibrations: bool = True
) -> None:
    """Check that two exposures have the same planes, and calibrations that give them the same meaning.

    Parameters
    ----------
    actual, expected : Exposure
        To compare.
    rtol, atol : float
        Tolerances on image and variance; zero asks for bit-identical planes (NaN equals NaN). The mask, plane by
        plane and by name, must be equal whatever they are.
    calibrations : bool
        Compare also what WCS, PSF and photometric calibration give, at five positions, and the data id.

    Raises
    ------
    AssertionError
        Naming what differs, by how much and where.
    """
    assert actual.shape == expected.shape, f"shapes differ: {actual.shape} and {expected.shape}"
    assert actual.xy0 == expected.xy0, f"origins differ: {actual.xy0} and {expected.xy0}"
    for name in ("image", "variance"):
        have = name in actual.plain, name in expected.plain
        assert have[0] == have[1], f"only the {'first' if have[0] else 'second'} exposure has a {name} plane"
        if have[0]:
            _assert_plane(name, actual, expected, rtol, atol)
    planes = actual.mask_planes, expected.mask_planes
    assert set(planes[0]) == set(planes[1]), f"mask planes differ: {sorted(set(planes[0]) ^ set(planes[1]))}"
    for name in planes[0]:
        differ = ((actual.mask & planes[0][name]) != 0) != ((expected.mask & planes[1][name]) != 0)
        assert not differ.any(), f"mask plane {name} differs in {differ.sum()} pixels{_first(differ, actual)}"
    if calibrations:
        _assert_calibrations(actual, expected)


def _assert_plane(name: str, actual: Exposure, expected: Exposure, rtol: float, atol: float) -> None:
    a, b = actual.plain, expected.plain
    units = a.attrs(name).get("units"), b.attrs(name).get("units")
    assert units[0] == units[1], f"units of {name} differ: {units[0]!r} and {units[1]!r}"
    x, y = a[name].astype(np.float64), b[name].astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        differ = ~(same | (np.abs(x - y) <= atol + rtol * np.abs(y)))
    if differ.any():
        worst = float(np.nanmax(np.abs(x - y)[differ])) if np.isfinite((x - y)[differ]).any() else float("nan")
        raise AssertionError(
            f"{name} differs in {differ.sum()} of {differ.size} pixels, by up to {worst:g}{_first(differ, actual)}"
        )


def _first(differ: NDArray[np.bool_], exposure: Exposure) -> str:
    row, column = np.argwhere(differ)[0]
    return f"; first at x={column + exposure.xy0[0]}, y={row + exposure.xy0[1]}"


def _assert_calibrations(actual: Exposure, expected: Exposure) -> None:
    ids: tuple[dict[str, Any], ...] = tuple(dataclasses.asdict(one.data_id) for one in (actual, expected))
    # The text forms of two different ids may be equal.
    differ = [f"{name} is {ids[0][name]!r} and {ids[1][name]!r}" for name in ids[0] if ids[0][name] != ids[1][name]]
    assert not differ, f"data ids differ: {', '.join(differ)}"
    box = expected.box
    part = np.array([0.1, 0.9, 0.5, 0.1, 0.9])
    x = box.x_min + part * (box.x_max - box.x_min)
    y = box.y_min + np.array([0.1, 0.1, 0.5, 0.9, 0.9]) * (box.y_max - box.y_min)
    here, there = (np.asarray(e.wcs.pixel_to_world_values(x, y), dtype=np.float64) for e in (actual, expected))
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-10, err_msg="the WCSs differ (degrees)")
    for name in ("psf", "photo_calib"):
        have: tuple[Any, Any] = (getattr(actual, name), getattr(expected, name))
        assert (have[0] is None) == (have[1] is None), f"only one of the exposures has a {name}"
    if actual.psf is not None and expected.psf is not None:
        has = expected.psf.defined(x, y)
        np.testing.assert_array_equal(actual.psf.defined(x, y), has, err_msg="the PSFs are defined in other places")
        np.testing.assert_array_equal(
            actual.psf.kernels(x[has], y[has]), expected.psf.kernels(x[has], y[has]), err_msg="the PSFs differ"
        )
    if actual.photo_calib is not None and expected.photo_calib is not None:
        one, two = actual.photo_calib, expected.photo_calib
        np.testing.assert_allclose(
            one.zeropoint(x, y), two.zeropoint(x, y), rtol=0, atol=1e-12, err_msg="the zeropoints differ"
        )
        assert one.reference == two.reference, f"calibrated to {one.reference!r} and {two.reference!r}"
