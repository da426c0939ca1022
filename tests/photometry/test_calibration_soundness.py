"""Calibrations without a flux, and apertures that no image holds, are refused with the number and where it is from."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft import inject
from skygraft.errors import CalibrationError, ConfigError, UncalibratedImageError
from skygraft.photometry import (
    CalibrationAperture,
    ChebyshevField,
    GridField,
    PhotoCalib,
    check_calibration_soundness,
    check_radius,
    sinc_coefficients,
)
from skygraft.testing import make_exposure

EDGES = (-0.5, 63.5, -0.5, 63.5)
CATALOG = {"injection_id": [1], "ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [20.0]}


@pytest.mark.parametrize("zeropoint", [-5.0, 8.9, 27.0, 31.4, 56.0])
def test_zeropoints_of_real_images_pass(zeropoint: float) -> None:
    check_calibration_soundness(PhotoCalib.from_zeropoint(zeropoint), EDGES)


@pytest.mark.parametrize("zeropoint", [-200.0, 300.0])
def test_zeropoints_of_none(zeropoint: float) -> None:
    with pytest.raises(UncalibratedImageError, match=rf"a zeropoint of {zeropoint:g} AB mag .* -20 to 70 are allowed"):
        check_calibration_soundness(PhotoCalib.from_zeropoint(zeropoint), EDGES)


@pytest.mark.parametrize(
    "field",
    [
        ChebyshevField([[-1.0, 0.1]], (0, 63, 0, 63)),
        ChebyshevField([[0.0]], (0, 63, 0, 63)),
        GridField(np.full((64, 64), np.nan)),
    ],
)
def test_a_field_that_is_nowhere_positive(field: ChebyshevField | GridField) -> None:
    calib = PhotoCalib.from_zeropoint(27.0, field=field)
    with pytest.raises(UncalibratedImageError, match="not positive and finite anywhere on the image"):
        check_calibration_soundness(calib, EDGES)
    with pytest.raises(UncalibratedImageError, match="not positive and finite anywhere"):
        inject(make_exposure((64, 64), photo_calib=calib), CATALOG, band="r", flux_mode="psf_sum")


def test_one_that_is_positive_somewhere_passes() -> None:
    field = ChebyshevField([[0.1, 1.0]], (0, 63, 0, 63))
    check_calibration_soundness(PhotoCalib.from_zeropoint(27.0, field=field), EDGES)


@pytest.mark.parametrize("radius", [2147483647, 1500.0, 101.0, 0.01])
def test_an_aperture_that_the_image_does_not_hold(radius: float) -> None:
    with pytest.raises(CalibrationError, match=r"CALAPRAD = .*0.1 to 100 are allowed on an image of 64 x 32 pixels"):
        check_radius(radius, (32, 64), f"CALAPRAD = {radius}")
    reference = CalibrationAperture(float(radius), origin="made for a test")
    with pytest.raises(CalibrationError, match="made for a test"):
        inject(make_exposure((64, 64), reference=reference), CATALOG, band="r")
    with pytest.raises(CalibrationError, match="aperture="):
        inject(make_exposure((64, 64)), CATALOG, band="r", flux_mode="aperture", aperture=f"{radius} pix")


def test_apertures_on_large_and_small_images() -> None:
    check_radius(12.0, (12, 12), "the default")
    check_radius(900.0, (4000, 2000), "given")
    with pytest.raises(CalibrationError, match=r"0\.1 to 1000 are allowed"):
        check_radius(1001.0, (4000, 2000), "given")
    with pytest.raises(ConfigError, match="at most 1000"):
        sinc_coefficients(2147483647)
