"""The promise on real images: what goes in is what the survey's own aperture measures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.table import Table
from photutils.aperture import CircularAperture, aperture_photometry

import skygraft
from kits.oracles import band_limited_aperture_flux
from skygraft.catalog import read_catalog
from skygraft.cli.describe import describe_exposure
from skygraft.formats import read_exposure
from skygraft.photometry import enclosed_flux

RADIUS = 12.0


@pytest.fixture(scope="module")
def cfht(data_dir):
    return read_exposure(data_dir / "cfht_849375" / "calexp-849375-12.fits.fz")


def stars(exposure, x, y, mag) -> Table:
    ra, dec = exposure.wcs.pixel_to_world_values(np.asarray(x, float), np.asarray(y, float))
    n = len(np.atleast_1d(ra))
    return Table(
        {
            "injection_id": np.arange(n),
            "ra": ra,
            "dec": dec,
            "source_type": ["Star"] * n,
            f"mag_{exposure.data_id.band}": np.broadcast_to(mag, n),
        }
    )


@pytest.mark.data
def test_cfht_stars_measure_what_the_catalogue_says(cfht):
    """All-zero pixels: the flux inside 12 px is the catalogue's to 1e-4 mag at any place and sub-pixel phase."""
    assert (cfht.image == 0).all()
    rng = np.random.default_rng(8)
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(90, 1950, 6), np.linspace(90, 4510, 12)))
    x, y = x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, y.size)
    mag = rng.uniform(16, 26, x.size)
    catalog = stars(cfht, x, y, mag)
    out = skygraft.inject(cfht, catalog, noise=False)
    assert out.summary["calibration"]["radius_pixels"] == RADIUS
    assert (
        "slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-849375-12.fits" in out.summary["calibration"]["origin"]
    )

    # AST's own inverse of this WCS is good to some 0.01 px only: measure where the sources went.
    flux = [
        band_limited_aperture_flux(out.exposure.image, float(a), float(b), RADIUS)
        for a, b in zip(out.truth["x"], out.truth["y"], strict=True)
    ]
    residual = cfht.photo_calib.magnitude(np.array(flux), out.truth["x"], out.truth["y"]) - mag
    assert np.abs(residual).max() < 1e-4

    # the same stars with the kernel's sum for norm come out fainter by what the kernel holds outside 12 px
    out = skygraft.inject(cfht, catalog, noise=False, flux_mode="psf_sum")
    flux = [
        band_limited_aperture_flux(out.exposure.image, float(a), float(b), RADIUS)
        for a, b in zip(out.truth["x"], out.truth["y"], strict=True)
    ]
    faint = cfht.photo_calib.magnitude(np.array(flux), out.truth["x"], out.truth["y"]) - mag
    assert faint.min() > 0.02
    assert faint.max() < 0.04
    assert np.median(faint) == pytest.approx(0.03, abs=0.003)


@pytest.mark.data
def test_cfht_calibration_agrees_with_the_survey_own_code(cfht, data_dir):
    """WCS to 1e-6 px, kernels to 1e-6 of peak, aperture fluxes to 1e-6 at 12 px: values written by LSST's code."""
    truth = json.loads((data_dir / "cfht_849375" / "truth_849375.json").read_text())
    scale = 0.186 / 3600
    for point in truth["wcs"]["points"]:
        ra, dec = cfht.wcs.pixel_to_world_values(*point["pixel"])
        assert abs(dec - point["sky_deg"][1]) < 1e-6 * scale
        assert abs(ra - point["sky_deg"][0]) * np.cos(np.radians(dec)) < 1e-6 * scale
        # LSST's own answer, AST's inexact inverse included
        np.testing.assert_allclose(cfht.wcs.world_to_pixel_values(*point["sky_deg"]), point["sky_to_pixel"], atol=1e-6)
        flux = cfht.photo_calib.inst_flux(20.0, *point["pixel"])
        assert float(flux) == pytest.approx(point["inst_flux_mag20"], rel=1e-12)
    for place in truth["psf"]["positions"]:
        x, y = place["pixel"]
        kernel = cfht.psf.kernels([x], [y])[0]
        expected = np.load(data_dir / "cfht_849375" / place["kernel_npy"])
        assert kernel.shape == expected.shape
        assert np.abs(kernel - expected).max() < 1e-6 * expected.max()
        assert enclosed_flux(kernel[None], RADIUS)[0] == pytest.approx(place["aperture_flux"]["12.0"], abs=1e-6)


@pytest.mark.data
def test_one_place_on_the_sky_is_one_place_in_all_four_exposures(data_dir):
    """VIRCAM: injected stars sit where each WCS says, to 0.01 px, with one flux in all exposures, to 1e-4."""
    paths = sorted((data_dir / "video_H").glob("image_?.fits"))
    exposures = [read_exposure(p, aperture="2 arcsec") for p in paths]
    ra, dec = exposures[0].wcs.pixel_to_world_values(*np.array([[900.3, 950.8, 1000.2], [890.1, 930.6, 1010.4]]))
    inside = [e.box.contains(*e.wcs.world_to_pixel_values(ra, dec)) for e in exposures]
    assert np.all(inside), "the test's positions are in the overlap of the four"
    band = exposures[0].data_id.band
    catalog = Table(
        {"injection_id": [1, 2, 3], "ra": ra, "dec": dec, "source_type": ["Star"] * 3, f"mag_{band}": [16.0] * 3}
    )
    measured = []
    for exposure in exposures:
        out = skygraft.inject(exposure, catalog, noise=False)
        added = out.exposure.image.astype(float) - exposure.image
        x, y = exposure.wcs.world_to_pixel_values(ra, dec)
        radius = exposure.photo_calib.aperture.radius_pixels
        assert exposure.photo_calib.aperture.radius_arcsec == 2.0
        flux = [band_limited_aperture_flux(added, a, b, radius) for a, b in zip(x, y, strict=True)]
        measured.append(exposure.photo_calib.magnitude(np.array(flux), x, y))
        for a, b in zip(x, y, strict=True):
            i, j = round(float(a)), round(float(b))
            cut = added[j - 3 : j + 4, i - 3 : i + 4]
            model = out.exposure.psf.kernels([a], [b])[0]
            np.testing.assert_allclose(centroid(cut, i, j, a, b, model), (a, b), atol=0.01)
    np.testing.assert_allclose(measured, 16.0, atol=1e-4)


def centroid(cut: np.ndarray, i: int, j: int, a: float, b: float, model: np.ndarray) -> tuple[float, float]:
    """Position of a source from a fit of the PSF moved by cubic splines (scipy's, not ours)."""
    from scipy.ndimage import shift
    from scipy.optimize import least_squares

    half = cut.shape[0] // 2
    cy, cx = model.shape[0] // 2, model.shape[1] // 2

    def residual(p):
        moved = shift(model, (p[1] - j, p[0] - i), order=5)[cy - half : cy + half + 1, cx - half : cx + half + 1]
        return (p[2] * moved - cut).ravel() / cut.max()

    fit = least_squares(residual, [i, j, cut.max() / model.max()], x_scale=[1, 1, cut.max() / model.max()])
    return fit.x[0], fit.x[1]


@pytest.mark.data
def test_the_survey_own_injector_draws_the_same(cfht, data_dir):
    """LSST's source_injection on the same image and catalogue: same places, same pixels to what its settings allow.

    It normalises at the PSF's average position, cuts stars at 32 pixels, interpolates the PSF by a quintic, and takes
    its Jacobians off an inexact inverse of the WCS (0.7 per cent here): a few thousandths of the peak.
    """
    folder = data_dir / "cfht_849375"
    catalog = read_catalog(folder / "truth_849375_si_catalog.ecsv", band=cfht.data_id.band)
    expected = json.loads((folder / "truth_849375_si.json").read_text())
    difference = np.load(folder / "truth_849375_si_difference.npz")["difference"]
    out = skygraft.inject(cfht, catalog, noise=False, position="image")
    assert 1 / out.truth["kernel_scale"][0] == pytest.approx(expected["aperture_correction"], abs=1e-9)
    rows = {int(i): row for i, row in zip(out.truth["injection_id"], out.truth, strict=True)}
    worst = {"Star": 0.0, "Sersic": 0.0, "Trail": 0.0}
    for source in expected["sources"]:
        row = rows[int(catalog["injection_id"][source["i"]])]
        np.testing.assert_allclose((row["x"], row["y"]), (source["x"], source["y"]), atol=1e-6)
        x, y = round(source["x"]), round(source["y"])
        if not cfht.box.contains(x - 15, y - 15) or not cfht.box.contains(x + 15, y + 15):
            continue  # nothing but wings
        window = np.s_[y - 15 : y + 16, x - 15 : x + 16]
        real, ours = difference[window], out.exposure.image[window]
        kind = source["type"]
        worst[kind] = max(worst[kind], np.abs(real - ours).max() / real.max())
        if kind == "Sersic" and source["draw_size"] < 100:
            assert ours.sum(dtype=float) == pytest.approx(real.sum(dtype=float), rel=6e-3)
    assert worst["Star"] < 1e-2
    assert worst["Sersic"] < 6e-3
    assert worst["Trail"] < 2e-3


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "aperture", "fraction"),
    [
        ("video_H/image_1.fits", "2 arcsec", None),
        ("video_H/image_3.fits", "2 arcsec", None),
        ("video_H/image_4.fits", "2 arcsec", 0.9444),
    ],
)
def test_the_aperture_fraction_is_what_is_measured(data_dir, name, aperture, fraction):
    """Of a noise-free star: exact overlap of circle and pixels over the sum of its stamp, by photutils.

    PSFEx models sum to 1.01 to 1.08; the number is the same with any sum, and `inspect` says the same of the image.
    """
    exposure = read_exposure(data_dir / name, aperture=aperture)
    blank = exposure.planes.copy(deep=True)
    blank["image"].values[:] = 0.0
    exposure = exposure.replace(planes=blank)
    x, y = (round(v) for v in exposure.box.center)
    out = skygraft.inject(exposure, stars(exposure, [x], [y], 17.0), noise=False)
    row = out.truth[0]
    circle = CircularAperture((float(row["x"]), float(row["y"])), exposure.photo_calib.aperture.radius_pixels)
    held = aperture_photometry(out.exposure.image.astype(float), circle, method="exact")["aperture_sum"][0]
    measured = held / out.exposure.image.sum(dtype=float)
    assert row["aperture_fraction"] == pytest.approx(measured, abs=1e-3)
    assert row["aperture_fraction"] < 1
    if fraction is not None:
        assert row["aperture_fraction"] == pytest.approx(fraction, abs=2e-3)
    psf = describe_exposure(exposure)["psf"]
    assert psf["fraction_in_aperture"] == pytest.approx(row["aperture_fraction"], abs=1e-4)
    # What a star measures that was injected with unit sum, against what it should.
    summed = skygraft.inject(exposure, stars(exposure, [x], [y], 17.0), noise=False, flux_mode="psf_sum")
    held = aperture_photometry(summed.exposure.image.astype(float), circle, method="exact")["aperture_sum"][0]
    faint = -2.5 * np.log10(held / row["inst_flux"])
    assert psf["psf_sum_offset_mag"] == pytest.approx(faint, abs=1e-3)


@pytest.mark.data
def test_the_aperture_fraction_of_an_aperture_asked_for(data_dir):
    folder = data_dir / "decam_grz/images/decam/NonDECaLS/CP20141215"
    exposure = read_exposure(folder / "c4d_141224_033245_ooi_r_a1-S10.fits")
    blank = exposure.planes.copy(deep=True)
    blank["image"].values[:] = 0.0
    exposure = exposure.replace(planes=blank)
    x, y = (round(v) for v in exposure.box.center)
    catalog = stars(exposure, [x], [y], 17.0)
    out = skygraft.inject(exposure, catalog, noise=False, flux_mode="aperture", aperture="12 pix")
    circle = CircularAperture((float(out.truth["x"][0]), float(out.truth["y"][0])), 12.0)
    held = aperture_photometry(out.exposure.image.astype(float), circle, method="exact")["aperture_sum"][0]
    assert held / out.exposure.image.sum(dtype=float) == pytest.approx(0.9833, abs=1e-3)
    assert out.truth["aperture_fraction"][0] == pytest.approx(0.9833, abs=1e-3)
