"""Fluxes of fakes, end to end: noise-free sources of known magnitude, and the pulls of noisy ones."""

from __future__ import annotations

import numpy as np
import pytest
from photutils.aperture import CircularAperture, aperture_photometry

from kits.recovery_pairs import catalogue, make_pair, measure, numbers, places
from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationAperture, CalibrationReference
from skygraft.psf import MoffatPSF
from skygraft.recovery.measuring import measure_pair
from skygraft.testing import make_exposure

# Of an image without noise, the background must not follow the sources.
FLAT = {"background_size": 4000}


@pytest.mark.parametrize("reference", [CalibrationAperture(12.0), CalibrationAperture(6.0), PSF_MODEL, TOTAL])
def test_stars_without_noise_have_their_magnitudes(reference: CalibrationReference) -> None:
    before = make_exposure((400, 400), reference=reference, variance=1.0, xy0=(1000, 3000))
    x, y = places(6, 64.0)
    mag = np.linspace(15.0, 19.0, x.size)
    table = measure(before, catalogue(before, x + 1000, y + 3000, mag), FLAT)
    assert all(table["found"].to_pylist())
    for kind in ("cal", "psf"):
        np.testing.assert_allclose(numbers(table, f"mag_{kind}"), mag, rtol=0, atol=1e-3)
    for name, true in (("x_out", "x"), ("y_out", "y")):
        np.testing.assert_allclose(numbers(table, name), numbers(table, true), rtol=0, atol=0.01)
    assert numbers(table, "distance").max() < 0.01 * 0.2


def test_apertures_are_those_of_photutils() -> None:
    psf = MoffatPSF(fwhm=5.0, beta=3.0, shape=(61, 61))
    before = make_exposure((300, 300), psf=psf, variance=4.0, noise=True)
    x, y = places(4, 64.0)
    pair = make_pair(before, catalogue(before, x, y, 19.0), noise=True)
    table = measure_pair(pair, FLAT | {"apertures": [5.5, 20]})
    at = np.column_stack([numbers(table, "x_out"), numbers(table, "y_out")])
    # The one mesh has one value everywhere.
    image = pair.after.image.astype(float)
    sky = np.median(image[:20])
    for radius, kind, close in ((12.0, "cal", 3e-4), (5.5, "ap_5_5", 2e-3), (20.0, "ap_20", 3e-4)):
        theirs = aperture_photometry(image - sky, CircularAperture(at, radius), error=np.sqrt(pair.after.variance))
        area = np.pi * radius**2
        tolerance = close * np.asarray(theirs["aperture_sum"]) + 0.3 * area
        assert (np.abs(numbers(table, f"flux_{kind}") - np.asarray(theirs["aperture_sum"])) < tolerance).all()
        np.testing.assert_allclose(numbers(table, f"flux_{kind}_error"), theirs["aperture_sum_err"], rtol=0.01)


def test_errors_are_those_of_the_noise() -> None:
    """Pulls over 400 stars, each with its own noise: the scatter of 1 has a standard error of 3.5 %."""
    psf = MoffatPSF(fwhm=4.0, beta=3.0, shape=(41, 41))
    pulls: dict[str, list[float]] = {"cal": [], "psf": [], "ap_6": []}
    for seed in range(4):
        before = make_exposure((480, 480), psf=psf, variance=100.0, noise=True, seed=seed, gain=2.0)
        x, y = places(10, 44.0, seed=seed)
        table = measure(before, catalogue(before, x, y, 18.0), {"background_size": 480}, noise=True, seed=seed)
        assert all(table["found"].to_pylist())
        for kind in pulls:
            pulls[kind] += ((numbers(table, f"mag_{kind}") - 18.0) / numbers(table, f"mag_{kind}_error")).tolist()
    for kind in ("cal", "psf"):
        assert np.std(pulls[kind]) == pytest.approx(1.0, abs=0.12), kind
    # Wings of stars raise the background, of which more is inside a large aperture than a PSF weighs.
    assert abs(np.mean(pulls["psf"])) < 0.2
    # The light outside of 6 pixels is the same for all.
    assert np.std(pulls["ap_6"]) == pytest.approx(1.0, abs=0.12)


def test_kron_holds_nearly_all_of_a_galaxy() -> None:
    """Of a Sersic profile of index 1, Kron's ellipse of 2.5 radii holds some 94 to 99 %."""
    before = make_exposure((400, 400), reference=TOTAL, variance=1.0)
    x, y = places(3, 120.0, first=80.0)
    shape = {"n": 1.0, "half_light_radius": 1.2, "q": 0.6, "pa": 30.0}
    table = measure(before, catalogue(before, x, y, 17.0, source_type="Sersic", **shape), FLAT)
    ratio = numbers(table, "flux_kron") / numbers(table, "inst_flux")
    assert (ratio > 0.92).all() and (ratio < 1.0).all()
    # The circle with half of that light: the half-light radius, widened by the PSF and less what Kron leaves out.
    size = numbers(table, "half_light_radius_out")
    assert (size > 1.1).all() and (size < 1.4).all()


def test_bad_pixels_in_the_aperture_are_replaced_by_those_opposite() -> None:
    before = make_exposure((200, 200), variance=1.0)
    # On a pixel's centre, where opposite pixels are equal.
    catalog = catalogue(before, [100.0], [100.0], 17.0)
    pair = make_pair(before, catalog)
    good = numbers(measure_pair(pair, FLAT), "flux_cal")
    pair.after.image[104, 103] = 1e9
    pair.after.mask[104, 103] |= pair.after.mask_planes["BAD"]
    pair.after.image[97, 95] = np.nan
    table = measure_pair(pair, FLAT)
    assert all(table["found"].to_pylist())
    np.testing.assert_allclose(numbers(table, "flux_cal"), good, rtol=2e-3)
    np.testing.assert_allclose(numbers(table, "flux_psf"), good, rtol=2e-3)


def test_a_circle_that_leaves_the_image_has_no_flux() -> None:
    before = make_exposure((200, 200), reference=CalibrationAperture(12.0), variance=1.0)
    table = measure(before, catalogue(before, [8.0, 100.0], [100.0, 100.0], 17.0), FLAT)
    assert table["found"].to_pylist() == [True, True]
    for name in ("flux_cal", "flux_cal_error", "mag_cal", "snr"):
        assert np.isnan(numbers(table, name)).tolist() == [True, False]
    assert numbers(table, "detection_flags")[0].astype(int) & 0x10
    # What reaches less far, has one.
    np.testing.assert_allclose(numbers(table, "mag_psf"), 17.0, atol=2e-3)
    assert np.isfinite(numbers(table, "flux_ap_6")).all()
