"""Extended wings: fluxes by policy, the profile far out, edges and neighbours, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from photutils.aperture import CircularAnnulus, CircularAperture, aperture_photometry
from scipy import signal

from kits.oracles import band_limited_aperture_flux
from kits.winged import POWER, catalog_at, exposure, flux_of
from skygraft.catalog import Flag
from skygraft.errors import ConfigError, PsfError
from skygraft.injection import InjectionOptions, inject
from skygraft.injection.wing_settings import read_profile
from skygraft.photometry import PSF_MODEL, TOTAL
from skygraft.psf import FixedKernelPSF, KernelBasisPSF, MoffatPSF, OversampledPSF

X, Y, MAG = 120.37, 119.81, 15.0
MOFFAT = {"model": "moffat", "beta": 1.4, "core": "3 pix", "join": "20 pix", "outer": "110 pix"}


def inside(image, x, y, radius) -> float:
    return float(aperture_photometry(image.astype(float), CircularAperture([(x, y)], radius))["aperture_sum"][0])


def drawn(wings=None, exp=None, mag=MAG, **options):
    exp = exp or exposure()
    return inject(exp, catalog_at(exp, X, Y, mag), noise=False, wings=wings, **options)


def power_law_total(join, blend, outer, alpha) -> float:
    """2 pi times the integral of r b(r) (r / join)^-alpha, of the formulae in the docs, by a fine sum."""
    r = np.linspace(join - blend, outer, 2_000_001)
    t = np.clip((r - join + blend) / blend, 0, 1)
    return float(np.trapezoid(2 * np.pi * r * t**3 * (10 - 15 * t + 6 * t**2) * (r / join) ** -alpha, r))


@pytest.mark.parametrize("wings", [POWER, MOFFAT, POWER | {"alpha": 2.0}])
def test_the_flux_inside_the_calibration_radius_is_what_it_was(wings):
    before, after = drawn().exposure.image, drawn(wings).exposure.image
    assert inside(after, X, Y, 12.0) == pytest.approx(inside(before, X, Y, 12.0), rel=1e-6)
    assert inside(after, X, Y, 90.0) > 1.005 * inside(before, X, Y, 90.0)


def test_the_flux_inside_is_kept_where_the_radius_is_beyond_the_join():
    wings = POWER | {"join": "10 pix", "blend": "4 pix"}
    image = drawn(wings, flux_mode="aperture", aperture="30 pix").exposure.image
    flux = band_limited_aperture_flux(image[60:181, 60:181].astype(float), X - 60, Y - 60, 30.0)
    assert flux == pytest.approx(flux_of(MAG), rel=1e-5)


@pytest.mark.parametrize(("reference", "mode"), [(None, "calibrated"), (PSF_MODEL, "calibrated"), (None, "psf_sum")])
def test_with_flux_total_the_total_is_what_it_was(reference, mode):
    exp = exposure(reference)
    result = drawn(POWER | {"flux": "total"}, exp, flux_mode=mode)
    alone = drawn(None, exp, flux_mode=mode)
    before = float(alone.truth["kernel_scale"][0]) * flux_of(MAG)  # of a Moffat whose kernel and outside make up one
    assert result.exposure.image.sum(dtype=float) == pytest.approx(before, rel=1e-4)
    assert result.summary["wings"]["flux"] == "total"


@pytest.mark.parametrize(("reference", "mode"), [(TOTAL, "calibrated"), (None, "total")])
@pytest.mark.parametrize("policy", ["calibrated", "total"])
def test_a_total_flux_includes_the_wings(reference, mode, policy):
    result = drawn(POWER | {"flux": policy}, exposure(reference), flux_mode=mode)
    assert result.exposure.image.sum(dtype=float) == pytest.approx(flux_of(MAG), rel=1e-4)


@pytest.mark.parametrize("mode", ["psf_sum", "calibrated"])
def test_with_a_psf_model_the_pixels_inside_are_what_they_were(mode):
    exp = exposure(PSF_MODEL)
    before, after = (drawn(w, exp, flux_mode=mode).exposure.image for w in (None, POWER))
    yy, xx = np.indices(before.shape)
    core = np.hypot(xx - X, yy - Y) < 8
    np.testing.assert_allclose(after[core], before[core], rtol=1e-5, atol=1e-7 * before.max())


@pytest.mark.parametrize("wings", [POWER, MOFFAT])
def test_beyond_the_join_radius_the_profile_is_the_models(wings):
    image = drawn(wings).exposure.image.astype(float)
    yy, xx = np.indices(image.shape)
    r = np.hypot(xx - X, yy - Y)
    if wings["model"] == "moffat":
        model, end = (1 + (r / 3.0) ** 2) ** -1.4, 110.0
    else:
        model, end = r**-3.0, 100.0
    there = (r > 20.0) & (r < end)
    # The amplitude from the flux in one ring; then ring by ring, and pixel by pixel: along the axes through the star
    # there is what moving the kernel by a fraction of a pixel leaves (ringing, 5e-6 of the peak).
    ring = (r > 25.0) & (r < 40.0)
    amplitude = image[ring].sum() / model[ring].sum()
    for low in range(20, int(end) - 2, 2):
        ring = (r > low) & (r < low + 2)
        assert image[ring].sum() == pytest.approx(amplitude * model[ring].sum(), rel=0.003)
    np.testing.assert_allclose(image[there], amplitude * model[there], rtol=0.01, atol=1e-5 * image.max())
    assert not image[r > end + 0.5].any()


def test_value_and_slope_are_continuous_at_both_ends_of_the_blend():
    # A kernel much steeper than the wings, so that a kink would show.
    image = drawn(POWER | {"alpha": 1.5}, mag=10.0).exposure.image.astype(float)
    edges = np.arange(5.0, 40.01, 0.5)
    table = aperture_photometry(image, [CircularAperture([(X, Y)], radius) for radius in edges])
    sums = np.array([table[f"aperture_sum_{k}"][0] for k in range(len(edges))])
    mean = np.diff(sums) / np.diff(np.pi * edges**2)
    slope = np.diff(np.log(mean)) / np.diff(np.log(0.5 * (edges[1:] + edges[:-1])))
    # The slope goes from 4.9 to 1.5, in the blend: from ring to ring by no more than a blend of 7 pixels makes it.
    assert slope[-1] - slope[:16].min() > 3
    assert np.abs(np.diff(slope)).max() < 1.5
    assert mean.min() > 0


def test_the_amplitude_is_that_of_the_kernel_in_the_blend():
    kernel = MoffatPSF(fwhm=4.5, beta=3.0, shape=(61, 61)).kernels([0.0], [0.0])[0]
    yy, xx = np.indices(kernel.shape) - 30
    r = np.hypot(xx, yy)
    t = np.clip((r - 13.0) / 7.0, 0, 1)
    b = t**3 * (10 - 15 * t + 6 * t**2)
    with np.errstate(divide="ignore"):
        profile = np.where(r > 0, np.maximum(r, 1e-9) / 20.0, 1.0) ** -3.0
    a = (b * (1 - b) * kernel).sum() / (b * (1 - b) * profile).sum()
    result = drawn(POWER)
    expected = float(result.truth["kernel_scale"][0]) * flux_of(MAG)
    expected *= ((1 - b) * kernel).sum() + a * power_law_total(20.0, 7.0, 100.0, 3.0)
    assert result.exposure.image.sum(dtype=float) == pytest.approx(expected, rel=2e-6)
    assert float(result.truth["flux_deposited"][0]) == pytest.approx(expected, rel=2e-6)
    fraction = flux_of(MAG) / expected
    assert float(result.truth["aperture_fraction"][0]) == pytest.approx(fraction, rel=1e-6)


def test_the_truth_says_how_far_the_wings_reach():
    result = drawn(POWER)
    assert result.truth["stamp_size"][0] == 201
    assert result.truth["flags"][0] == 0
    record = result.summary["wings"]
    assert (record["join_pixels"], record["blend_pixels"], record["outer_pixels"]) == (20.0, 7.0, 100.0)
    assert record["kernel_slope"] > record["wing_slope"] == pytest.approx(3.0)
    assert "power law" in result.truth.meta["wings"]
    assert "wings" in repr(result)


def test_without_wings_nothing_of_them_is_recorded():
    result = drawn()
    assert "wings" not in result.summary
    assert "wings" not in result.truth.meta


def test_wings_without_an_outer_radius_reach_as_far_as_tolerance_and_limit_ask_for():
    steep = {"model": "power_law", "alpha": 4.0, "join": "20 pix", "limit": 27.0}
    sizes = [int(drawn(steep, mag=mag).truth["stamp_size"][0]) for mag in (24.0, 14.0, 10.0)]
    assert sizes[0] == sizes[1] < sizes[2]
    # The light left out is less than the tolerance, and fainter than the limit.
    exp = exposure()
    half = sizes[2] // 2
    image = drawn(steep, exp, mag=10.0).exposure.image
    ring = aperture_photometry(image.astype(float), CircularAnnulus([(X, Y)], 90.0, 95.0))["aperture_sum"][0]
    brightness = ring / (np.pi * (95.0**2 - 90.0**2)) * (half / 92.5) ** -4.0 / 0.2**2
    assert 26.9 < -2.5 * np.log10(brightness) + 27.0 < 27.5


def test_a_star_off_the_image_counts_if_its_wings_reach_it():
    exp = exposure()
    whole = exposure(shape=(241, 451), xy0=(-100, 0))
    cat = catalog_at(exp, [-60.0, 260.0], [100.3, 50.7], [12.0, 11.0])
    part = inject(exp, cat, noise=False, wings=POWER)
    flags = np.asarray(part.truth["flags"])
    assert (flags & Flag.CENTER_OFF_IMAGE).all()
    assert (flags & Flag.TRUNCATED_BY_EDGE).all()
    assert not (flags & (Flag.NO_OVERLAP | Flag.PSF_COMPUTE_ERROR)).any()
    large = catalog_at(whole, [-60.0, 260.0], [100.3, 50.7], [12.0, 11.0])
    all_of_it = inject(whole, large, noise=False, wings=POWER).exposure.image
    np.testing.assert_allclose(part.exposure.image, all_of_it[:, 100:351], rtol=2e-3, atol=1e-6)
    landed = part.exposure.image.sum(dtype=float)
    assert float(part.truth["flux_deposited"].sum()) == pytest.approx(landed, rel=1e-4)
    assert np.isfinite(part.truth["psf_fwhm"]).all()
    # Without wings, and with wings that end before the image, there is nothing.
    assert not inject(exp, cat[:1], noise=False).exposure.image.any()
    short = inject(exp, cat, noise=False, wings=POWER | {"outer": "55 pix"})
    assert (np.asarray(short.truth["flags"])[0] & Flag.NO_OVERLAP) != 0


def test_stars_add_up_and_their_order_does_not_matter():
    exp = exposure()
    rng = np.random.default_rng(3)
    cat = catalog_at(exp, rng.uniform(-50, 300, 12), rng.uniform(-50, 290, 12), rng.uniform(10, 20, 12))
    together = inject(exp, cat, noise=False, wings=POWER).exposure.image
    turned = inject(exp, cat[::-1], noise=False, wings=POWER).exposure.image
    np.testing.assert_array_equal(together, turned)
    alone = sum(inject(exp, cat[i : i + 1], noise=False, wings=POWER).exposure.image.astype(float) for i in range(12))
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6 * together.max())


def test_wings_of_a_galaxy_are_those_of_its_light_blurred():
    exp = exposure()
    cat = catalog_at(exp, X, Y, 14.0, "Sersic", n=1.0, half_light_radius=0.8, q=1.0, pa=0.0)
    result = inject(exp, cat, noise=False, wings=POWER, galaxies="precise")
    image = result.exposure.image.astype(float)
    star = drawn(POWER, exp, mag=14.0).exposure.image.astype(float)
    # All its light, as much as a star's.
    assert image.sum() == pytest.approx(star.sum(), rel=2e-3)
    # The wings against a convolution by brute force: an exponential disk of 4 pixels half-light radius.
    yy, xx = np.indices((81, 81)) - 40
    disk = np.exp(-1.678 * np.hypot(xx, yy) / 4.0)
    full = signal.fftconvolve(star, disk / disk.sum(), mode="same")
    r = np.hypot(*(np.indices(image.shape)[::-1] - np.array([X, Y])[:, None, None]))
    for low, high, tolerance in ((24, 30, 0.015), (30, 40, 0.015), (40, 60, 0.01), (60, 90, 0.01)):
        ring = (r > low) & (r < high)
        assert image[ring].sum() == pytest.approx(full[ring].sum(), rel=tolerance)


def test_wings_of_a_trail_are_those_of_the_points_it_is_made_of():
    exp = exposure()
    trail = catalog_at(exp, X, Y, 12.0, "Trail", trail_length=8.0, trail_pa=90.0)
    image = inject(exp, trail, noise=False, wings=POWER).exposure.image.astype(float)
    n = 200
    along = (np.arange(n) + 0.5) / n - 0.5
    points = catalog_at(exp, X + 40.0 * along, np.full(n, Y), 12.0 + 2.5 * np.log10(n))
    many = inject(exp, points, noise=False, wings=POWER).exposure.image.astype(float)
    np.testing.assert_allclose(image, many, atol=1e-4 * many.max(), rtol=0.012)
    assert image.sum() == pytest.approx(many.sum(), rel=1e-4)


def test_the_place_on_the_parent_image_does_not_matter():
    exp = exposure()
    cut = exposure(shape=(101, 111), xy0=(70, 60))
    cat = catalog_at(exp, [X, 10.0], [Y, 15.0], [13.0, 10.0])
    whole = inject(exp, cat, noise=False, wings=POWER).exposure.image
    part = inject(cut, catalog_at(cut, [X, 10.0], [Y, 15.0], [13.0, 10.0]), noise=False, wings=POWER).exposure.image
    np.testing.assert_allclose(part, whole[60:161, 70:181], rtol=1e-5, atol=1e-7 * whole.max())


@pytest.mark.parametrize("kind", ["varying", "image position", "undersampled", "oversampled", "not linear"])
def test_any_kernel_takes_wings(kind):
    options, psf = {}, None
    base = MoffatPSF(fwhm=4.5, beta=3.0, shape=(61, 61)).kernels([0.0], [0.0])[0]
    wide = MoffatPSF(fwhm=6.0, beta=3.0, shape=(61, 61)).kernels([0.0], [0.0])[0]
    if kind in ("varying", "image position"):
        psf = KernelBasisPSF(np.array([base, wide - base]), np.array([[0.2, 0.0, 0.0], [0.0, 2e-3, 1e-3]]) / 0.2)
        options = {"position": "image"} if kind == "image position" else {}
    elif kind == "undersampled":
        psf = MoffatPSF(fwhm=1.6, beta=3.0, shape=(41, 41))
    elif kind == "oversampled":
        fine = MoffatPSF(fwhm=13.5, beta=3.0, shape=(183, 183)).kernels([0.0], [0.0])[0]
        psf = OversampledPSF(9.0 * fine, oversampling=3)
    else:

        class Plain(FixedKernelPSF.__mro__[2]):  # PSF itself: no basis
            shape = (61, 61)

            def kernels(self, x, y):
                return np.repeat(base[None], len(np.atleast_1d(x)), axis=0)

        psf = Plain()
    exp = exposure(psf=psf)
    before, after = (drawn(w, exp, **options) for w in (None, POWER))
    rel = 2e-4 if kind == "undersampled" else 1e-5
    ratio = inside(after.exposure.image, X, Y, 12.0) / inside(before.exposure.image, X, Y, 12.0)
    assert ratio == pytest.approx(1.0, rel=rel)
    total = after.exposure.image.sum(dtype=float)
    assert float(after.truth["flux_deposited"][0]) == pytest.approx(total, rel=1e-5)


def test_a_measured_profile_is_drawn_as_it_is_in_the_table(tmp_path):
    radius = np.geomspace(1.0, 22.0, 40)
    brightness = (radius / 4.0) ** -2.6 * (1 + 0.3 * np.sin(3 * np.log(radius)))
    table = Table({"radius": radius, "surface_brightness": -2.5 * np.log10(brightness)})
    table["radius"].unit, table["surface_brightness"].unit = "arcsec", "mag / arcsec2"
    table.write(tmp_path / "profile.ecsv")
    wings = {"model": "profile", "file": str(tmp_path / "profile.ecsv"), "join": "4 arcsec"}
    image = drawn(wings).exposure.image.astype(float)
    yy, xx = np.indices(image.shape)
    r = 0.2 * np.hypot(xx - X, yy - Y)
    there = (r > 4.0) & (r < 21.9)
    model = (r[there] / 4.0) ** -2.6 * (1 + 0.3 * np.sin(3 * np.log(r[there])))
    amplitude = image[there].sum() / model.sum()
    np.testing.assert_allclose(image[there], amplitude * model, rtol=0.01, atol=1e-5 * image.max())
    # Once read, the file is not needed any more, and its numbers are part of the settings.
    options = InjectionOptions(wings=wings)
    (tmp_path / "profile.ecsv").unlink()
    assert InjectionOptions(wings=options.wings.to_dict()) == options == pickle.loads(pickle.dumps(options))


def test_profiles_are_the_same_from_every_format_and_columns_of_words_are_refused(tmp_path):
    table = Table({"radius": np.array([1.0, 2.0, 4.0, 9.0]), "surface_brightness": np.array([20.0, 22.0, 24.0, 27.0])})
    table["radius"].unit, table["surface_brightness"].unit = "arcsec", "mag / arcsec2"
    table.write(tmp_path / "a.ecsv")
    fields = [pa.field(name, pa.float64(), metadata={"unit": str(table[name].unit)}) for name in table.colnames]
    arrays = [pa.array(np.asarray(table[name])) for name in table.colnames]
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), tmp_path / "a.parquet")
    assert read_profile(tmp_path / "a.parquet") == read_profile(tmp_path / "a.ecsv")
    table["surface_brightness"] = ["a", "b", "c", "d"]
    table.write(tmp_path / "b.ecsv")
    with pytest.raises(ConfigError, match="surface_brightness = 'a' is not a number"):
        read_profile(tmp_path / "b.ecsv")
    table["surface_brightness"] = np.ones((4, 2))
    table.write(tmp_path / "c.ecsv")
    with pytest.raises(ConfigError, match="surface_brightness"):
        read_profile(tmp_path / "c.ecsv")


@pytest.mark.parametrize(
    ("wings", "words"),
    [
        ({"model": "power_law", "alpha": 2.0, "join": "12 pix"}, "infinite"),
        ({"model": "moffat", "beta": 1.0, "core": "2 pix", "join": "12 pix"}, "infinite"),
        (POWER | {"join": "12"}, "no length with a unit"),
        (POWER | {"jion": "12 pix"}, "unknown key 'jion'"),
        (POWER | {"beta": 2.0}, "does not have"),
        (POWER | {"flux": "all"}, "not one of"),
        (POWER | {"limit": 300.0}, "limit"),
        ({"model": "power_law", "join": "12 pix", "outer": "50 pix"}, "alpha is missing"),
        ({"alpha": 2.5, "join": "12 pix"}, "the model is missing"),
        ({"model": "profile", "file": "/nowhere.ecsv", "join": "12 pix"}, "no such file"),
        ({"model": "profile", "radii": [1, 2, 3], "values": [1, 1, -1], "unit": "pix", "join": "2 pix"}, "positive"),
        ("wide", "a mapping is needed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wings, words):
    with pytest.raises(ConfigError, match=words):
        InjectionOptions(wings=wings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"join": "40 pix"}, "outside of the PSF's kernel"),
        ({"join": "9 pix", "blend": "6 pix"}, "inside the PSF's core"),
        ({"blend": "25 pix"}, "narrower"),
        ({"outer": "15 pix"}, "end at"),
    ],
)
def test_wings_that_do_not_go_with_the_psf_are_refused(change, words):
    with pytest.raises((PsfError, ConfigError), match=words) as caught:
        drawn(POWER | change)
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


def test_a_negative_kernel_at_the_join_is_refused():
    kernel = MoffatPSF(fwhm=4.5, beta=3.0, shape=(61, 61)).kernels([0.0], [0.0])[0]
    with pytest.raises(PsfError, match="negative"):
        drawn(POWER, exposure(psf=FixedKernelPSF(kernel - 2e-4)))


def test_lsst_conventions_and_templates_take_no_wings():
    with pytest.raises(ConfigError, match="wings"):
        InjectionOptions(conventions="lsst_source_injection", wings=POWER)
