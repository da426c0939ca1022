"""``conventions="lsst_source_injection"`` against GalSim called by hand: no survey data is needed here."""

from __future__ import annotations

import warnings

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from skygraft.catalog import Flag
from skygraft.config.campaign import parse_config
from skygraft.errors import CalibrationError, CatalogError, ConfigError, PsfError
from skygraft.exposure import AMPLIFIERS, COADD_INPUTS, DataId, Exposure, add_mask_plane
from skygraft.injection import Injection, InjectionOptions, inject
from skygraft.injection.lsst.gains import fitted_gains
from skygraft.injection.lsst.jacobians import forward_jacobians
from skygraft.photometry import PSF_MODEL, enclosed_flux
from skygraft.psf import GaussianPSF, MoffatPSF
from skygraft.testing import make_exposure
from skygraft.wcs import local_jacobian

LSST = "lsst_source_injection"
X, Y = 60.3, 70.8


def exposure(**settings: object) -> Exposure:
    return make_exposure((140, 120), **({"rotation": 25.0, "variance": 1.0} | settings))


def catalog(image: Exposure, source_type: str, x: float = X, y: float = Y, **columns: object) -> Table:
    ra, dec = image.wcs.pixel_to_world_values(x, y)
    row = {"injection_id": 1, "ra": float(ra), "dec": float(dec), "source_type": source_type, "mag_r": 17.0}
    return Table({name: [value] for name, value in (row | columns).items()})


def like_lsst(image: Exposure, table: Table, **settings: object) -> Injection:
    return inject(image, table, **({"noise": False, "conventions": LSST} | settings))


def jacobian(image: Exposure, x: float = X, y: float = Y) -> np.ndarray:
    """Arcsec per pixel from one pixel to the next, with the cosines where the package has them."""
    here = SkyCoord(*image.wcs.pixel_to_world_values(x, y), unit="deg")
    columns = []
    for dx, dy in ((1, 0), (0, 1)):
        there = SkyCoord(*image.wcs.pixel_to_world_values(x + dx, y + dy), unit="deg")
        lon, lat = (v.to_value(u.rad) for v in (there.ra - here.ra, there.dec))
        at = here.dec.rad
        depth = np.sin(at) * np.sin(lat) + np.cos(at) * np.cos(lat) * np.cos(lon)
        plane = np.cos(at) * np.sin(lon), np.cos(at) * np.sin(lat) * np.cos(lon) - np.sin(at) * np.cos(lat)
        columns.append(np.degrees(np.array(plane) / depth) * 3600)
    return np.array(columns).T


def by_hand(image: Exposure, source: galsim.GSObject, x: float = X, y: float = Y, size: int = 0) -> np.ndarray:
    """The whole image of a source, cut to its stamp."""
    kernel = image.psf.kernels([x], [y])[0]
    wcs = galsim.JacobianWCS(*jacobian(image, x, y).ravel())
    aperture = enclosed_flux(kernel, 12.0)[0]
    both = galsim.Convolve(source, galsim.InterpolatedImage(galsim.Image(kernel / aperture), wcs=wcs))
    half = (size or both.getGoodImageSize(wcs.minLinearScale())) // 2
    (x0, y0), (ny, nx) = image.xy0, image.shape
    drawn = galsim.ImageF(galsim.BoundsI(x0, x0 + nx - 1, y0, y0 + ny - 1))
    i, j = int(np.floor(x)), int(np.floor(y))
    part = galsim.BoundsI(i - half, i + half, j - half, j + half) & drawn.bounds
    offset = galsim.PositionD(x, y) - part.true_center
    both.drawImage(drawn[part], offset=offset, wcs=wcs, method="no_pixel")
    return drawn.array


def flux_of(image: Exposure) -> float:
    return float(image.photo_calib.inst_flux(17.0, X, Y))


def sersic(**settings: float) -> galsim.GSObject:
    return galsim.Sersic(**settings).shear(q=0.4, beta=60 * galsim.degrees)


SHAPE = {"half_light_radius": 0.8, "q": 0.4, "pa": 30.0}
SOURCES = {
    "star": ("Star", {}, lambda J: galsim.DeltaFunction()),
    "sersic": ("Sersic", {"n": 2.5, **SHAPE}, lambda J: sersic(n=2.5, half_light_radius=0.8)),
    "truncated": ("Sersic", {"n": 1.5, "trunc": 3.0, **SHAPE}, lambda J: sersic(n=1.5, half_light_radius=0.8, trunc=3)),
    "gaussian": (
        "Gaussian",
        SHAPE,
        lambda J: galsim.Gaussian(half_light_radius=0.8).shear(q=0.4, beta=60 * galsim.degrees),
    ),
    "moffat": (
        "Moffat",
        {"half_light_radius": 0.8, "moffat_beta": 3.0},
        lambda J: galsim.Moffat(beta=3.0, half_light_radius=0.8),
    ),
    "trail in pixels": (
        "Trail",
        {"trail_length_pix": 21.0, "trail_angle_pix": 40.0},
        lambda J: galsim.Box(21.0, 1e-6).rotate(40 * galsim.degrees).transform(*J.ravel()).withFlux(1.0),
    ),
    "trail on the sky": (
        "Trail",
        {"trail_length": 4.2, "trail_pa": 50.0},
        # The box is as long on the sky; its width does not matter.
        lambda J: galsim.Box(4.2, 1e-7).rotate(40 * galsim.degrees),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_pixels_are_those_of_galsim(name: str, mirrored: bool) -> None:
    image = exposure(mirrored=mirrored, xy0=(30, 20))
    kind, columns, source = SOURCES[name]
    out = like_lsst(image, catalog(image, kind, X + 30, Y + 20, **columns))
    profile = source(jacobian(image, X + 30, Y + 20)).withFlux(flux_of(image))
    want = by_hand(image, profile, X + 30, Y + 20)
    added = out.exposure.image - image.image
    # A trail's own transform is as long as its Jacobian's last digit says.
    np.testing.assert_allclose(added, want, atol=(5e-5 if kind == "Trail" else 1e-6) * want.max())
    assert out.truth["flux_deposited"][0] == pytest.approx(want.sum(), rel=1e-4)
    touched = (out.exposure.mask & out.exposure.mask_planes["INJECTED"]) != 0
    np.testing.assert_array_equal(touched, want != 0)
    core = np.argwhere(out.exposure.mask & out.exposure.mask_planes["INJECTED_CORE"])
    # About the pixel that the position is floored to, not the nearest.
    assert (core.min(0).tolist(), core.max(0).tolist()) == ([69, 59], [71, 61])


def test_jacobian_is_one_sided_and_has_the_slip() -> None:
    image = exposure(center=(10.0, 80.0))
    x, y = np.array([5.0, 60.0]), np.array([110.0, 70.0])
    ra, dec = image.wcs.pixel_to_world_values(x, y)
    found = forward_jacobians(image.wcs, ra, dec, x, y)
    for i in range(2):
        np.testing.assert_allclose(found[i], jacobian(image, x[i], y[i]), atol=1e-9)
    assert 1e-7 < np.abs(found / local_jacobian(image.wcs, x, y) - 1).max() < 1e-4


def test_position_and_size_of_the_stamp() -> None:
    image = exposure()
    star = galsim.DeltaFunction().withFlux(flux_of(image))
    out = like_lsst(image, catalog(image, "Star", draw_size=9))
    want = by_hand(image, star, size=9)
    np.testing.assert_allclose(out.exposure.image, want, atol=1e-6 * want.max())
    assert np.count_nonzero(want) == 81
    tiny = like_lsst(image, catalog(image, "Star", draw_size=1)).exposure
    assert np.count_nonzero(tiny.mask & tiny.mask_planes["INJECTED_CORE"]) == 1
    # A hundred pixels off the image a centre is still considered, not more; what its stamp touches is drawn.
    for x, flags, size in (
        (-6.0, Flag.CENTER_OFF_IMAGE | Flag.TRUNCATED_BY_EDGE, True),
        (-90.0, Flag.NO_OVERLAP, False),
        (-101.0, Flag.NO_OVERLAP, False),
    ):
        row = like_lsst(image, catalog(image, "Star", x)).truth[0]
        assert (row["flags"] & ~Flag.PSF_EXTRAPOLATED, row["stamp_size"] > 0) == (flags, size)
    far = like_lsst(image, catalog(image, "Star", -90.0, draw_size=200)).truth[0]
    assert far["stamp_size"] == 200
    assert like_lsst(image, catalog(image, "Star", -101.0, draw_size=300)).truth["stamp_size"][0] == 0


def write_stamp(path, wcs: bool) -> np.ndarray:
    yy, xx = np.indices((15, 21))
    picture = np.exp(-((xx - 9) ** 2) / 18 - (yy - 7) ** 2 / 4).astype(np.float32)
    picture[2:5, 14:18] += 0.5
    hdu = fits.PrimaryHDU(picture)
    if wcs:
        scale = 0.25 / 3600
        keys = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 11, "CRPIX2": 8}
        hdu.header.update(keys | {"CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale})
    hdu.writeto(path)
    return picture


@pytest.mark.parametrize("alignment", ["", "pixel", "wcs"])
def test_stamps_keep_their_pixels_unless_asked_and_are_mirrored_then(tmp_path, alignment: str) -> None:
    image, path = exposure(rotation=0.0), tmp_path / "stamp.fits"
    picture = write_stamp(path, wcs=True)
    table = catalog(image, "Stamp", stamp=str(path), stamp_alignment=alignment)
    out = like_lsst(image, table)
    pixels = galsim.Image(picture, wcs=galsim.JacobianWCS(*jacobian(image).ravel()))
    if alignment == "wcs":
        pixels = galsim.Image(picture, wcs=galsim.JacobianWCS(0.25, 0.0, 0.0, 0.25))
    source = galsim.InterpolatedImage(pixels, calculate_stepk=False).withFlux(flux_of(image))
    want = by_hand(image, source)
    np.testing.assert_allclose(out.exposure.image, want, atol=2e-5 * want.max())
    if alignment == "wcs":
        # Columns of the stamp and of the image both run West; ours keeps the side that the bright corner is on.
        ours = inject(image, table, noise=False).exposure.image
        xx = np.arange(ours.shape[1]) - X
        assert np.sign((ours * xx).sum()) == -np.sign((out.exposure.image * xx).sum())


def test_stamps_that_cannot_be_used_are_flagged(tmp_path) -> None:
    image, bare = exposure(), tmp_path / "bare.fits"
    write_stamp(bare, wcs=False)
    (tmp_path / "text.fits").write_text("not a FITS file")
    for name, alignment in (("bare.fits", "wcs"), ("text.fits", "pixel"), ("absent.fits", "pixel")):
        out = like_lsst(image, catalog(image, "Stamp", stamp=str(tmp_path / name), stamp_alignment=alignment))
        assert out.truth["flags"][0] & Flag.STAMP_FILE_BAD
        assert "stamp" in out.summary["messages"][0]
        assert (out.exposure.image == image.image).all()


def with_gain(image: Exposure, slope: float) -> Exposure:
    """An image with a gradient, and a variance that follows it."""
    planes = image.planes.copy(deep=True)
    yy, xx = np.indices(image.shape)
    planes["image"].values[...] = xx + 0.5 * yy
    planes["variance"].values[...] = 10 + slope * planes["image"].values
    return image.replace(planes=planes)


@pytest.mark.parametrize("coadd", [False, True])
def test_noise_and_variance_are_the_packages_own(coadd: bool) -> None:
    inverse_gain = 0.25
    image = with_gain(exposure(), inverse_gain)
    image = image.replace(extra={COADD_INPUTS: coadd})
    other = catalog(image, "Star", 20.4, 110.2)
    other["injection_id"] = 0
    table = Table(np.concatenate([other.as_array(), catalog(image, "Star").as_array()]))
    out = like_lsst(image, table, noise=True, seed=7)
    star = galsim.DeltaFunction().withFlux(flux_of(image))
    image_sum, variance_sum = image.image.copy(), image.variance.copy()
    # One seed more with each source that was drawn before.
    for seed, place in ((7, (20.4, 110.2)), (8, (X, Y))):
        flux = galsim.Image(by_hand(image, star, *place))
        part = galsim.Image(flux.array[flux.array.any(1)][:, flux.array.any(0)].copy())
        expected = part * inverse_gain
        drawable = galsim.Image(np.maximum(expected.array, 0))
        if coadd:
            noisy = part.copy()
            noisy.addNoise(galsim.VariableGaussianNoise(galsim.BaseDeviate(seed), drawable))
            variance = noisy.array * inverse_gain
        else:
            drawable.addNoise(galsim.PoissonNoise(galsim.BaseDeviate(seed)))
            noisy = drawable / inverse_gain
            variance = np.where(expected.array < 0, expected.array, drawable.array)
        where = np.ix_(flux.array.any(1), flux.array.any(0))
        image_sum[where] += noisy.array
        variance_sum[where] += variance
    np.testing.assert_allclose(out.exposure.image, image_sum, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(out.exposure.variance, variance_sum, rtol=1e-4, atol=1e-2)
    assert out.summary["gain"] == pytest.approx(1 / inverse_gain, rel=1e-5)
    assert np.count_nonzero(out.exposure.image - image.image) > 100
    # Noise and variance are chosen apart.
    only = like_lsst(image, table, variance=True)
    assert (only.exposure.image != out.exposure.image).any()
    np.testing.assert_allclose(
        only.exposure.variance - image.variance, inverse_gain * (only.exposure.image - image.image), atol=1e-3
    )
    without = like_lsst(image, table, noise=True, variance=False, seed=7)
    np.testing.assert_array_equal(without.exposure.image, out.exposure.image)
    np.testing.assert_array_equal(without.exposure.variance, image.variance)


def test_a_coadd_without_an_inputs_list_is_known_by_its_data_id() -> None:
    image = with_gain(exposure(data_id=DataId(tract=1, patch=2, band="r")), 0.5)
    table = catalog(image, "Star")
    as_coadd = like_lsst(image, table, noise=True, seed=1)
    said = like_lsst(image.replace(extra={COADD_INPUTS: True}), table, noise=True, seed=1)
    not_so = like_lsst(image.replace(extra={COADD_INPUTS: False}), table, noise=True, seed=1)
    np.testing.assert_array_equal(as_coadd.exposure.image, said.exposure.image)
    assert (as_coadd.exposure.image != not_so.exposure.image).any()


def test_seed_zero_is_a_seed_of_the_image() -> None:
    image = with_gain(exposure(), 0.5)
    table = catalog(image, "Star")
    one, again, other = (
        like_lsst(image, table, noise=True, image_id=name).exposure.image for name in ("one", "one", "other")
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_gains_are_fitted_to_each_amplifier() -> None:
    image = with_gain(exposure(xy0=(1000, 500)), 0.5)
    bad = np.int32(1 << add_mask_plane(image.planes, "SAT"))
    variance = image.variance
    variance[:, 60:] = 10 + 0.25 * image.image[:, 60:]
    variance[3, 3], image.image[9, 9], variance[8, 8] = np.nan, np.inf, 1e6
    image.mask[8, 8] |= bad
    halves = ((1000, 500, 60, 140), (1060, 500, 60, 140))
    both = fitted_gains(image.replace(extra={AMPLIFIERS: halves}))
    np.testing.assert_allclose(both.value[:, :60], 2.0, rtol=1e-5)
    np.testing.assert_allclose(both.value[:, 60:], 4.0, rtol=1e-5)
    assert "of 2 amplifiers" in both.origin
    # A slope that is not positive gets the median of the others; without any, the whole image's; or else 1.
    variance[:, 60:] = 100 - image.image[:, 60:]
    fallback = fitted_gains(image.replace(extra={AMPLIFIERS: halves}))
    np.testing.assert_allclose(fallback.value, 2.0, rtol=1e-5)
    assert "1 of them not positive" in fallback.origin
    variance[:] = np.where(np.arange(120) < 60, 100.0, 200.0) - 0.01 * image.image
    np.testing.assert_allclose(
        fitted_gains(image.replace(extra={AMPLIFIERS: halves})).value, fitted_gains(image).value, rtol=1e-5
    )
    assert fitted_gains(image).value > 0
    image.mask[:] = bad
    assert fitted_gains(image).value == 1.0
    # Pixels all alike have no line.
    assert fitted_gains(make_exposure((20, 20))).value == 1.0
    with pytest.raises(CalibrationError, match="there is none"):
        fitted_gains(image.replace(planes=image.planes.drop_vars("variance")))


REFUSED = {
    "bulge and disk": (
        "BulgeDisk",
        {"bulge_fraction": 0.5, "bulge_half_light_radius": 0.5, "disk_half_light_radius": 1.0},
        Flag.TYPE_UNKNOWN,
        "BulgeDisk",
    ),
    "flat Moffat": ("Moffat", {"moffat_beta": 3.0, **SHAPE}, Flag.PARAMETERS_BAD, "q is 0.4"),
    "stamp without PSF": ("Stamp", {"stamp": "x.fits", "stamp_psf": "none"}, Flag.PARAMETERS_BAD, "stamp_psf is none"),
    "index at the end": ("Sersic", {"n": 6.2, **SHAPE}, Flag.SERSIC_EXTREME, "n is 6.2"),
    "edge that GalSim fails on": ("Sersic", {"n": 1.0, "trunc": 1.15, **SHAPE}, Flag.PARAMETERS_BAD, "trunc is 1.15"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_package_cannot_draw_is_refused_by_row(name: str) -> None:
    image = exposure()
    kind, columns, flag, words = REFUSED[name]
    table = catalog(image, kind, **columns)
    with pytest.raises(CatalogError, match=f"injection_id 1: .*{words}.*") as raised:
        like_lsst(image, table)
    assert "on_bad" in str(raised.value)
    out = like_lsst(image, table, on_bad="flag")
    assert out.truth["flags"][0] & flag
    assert words in out.summary["messages"][0]
    assert (out.exposure.image == image.image).all()


def test_a_transform_too_large_is_flagged() -> None:
    image = exposure()
    before = galsim.errors.raise_fft_size_error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = like_lsst(image, catalog(image, "Sersic", n=6.0, half_light_radius=300.0, q=0.9, pa=0.0))
    assert out.truth["flags"][0] & Flag.FFT_SIZE_ERROR
    assert "FFT" in out.summary["messages"][0]
    assert galsim.errors.raise_fft_size_error == before


class HalfDefined(GaussianPSF):
    """A PSF that has kernels on the left of the image only."""

    def defined(self, x, y):
        return np.atleast_1d(np.asarray(x, float)) <= 40


def test_a_psf_that_is_not_everywhere() -> None:
    psf = HalfDefined(fwhm=4.0, shape=(25, 25))
    psf._average_position = (20.0, 20.0)
    image = exposure(psf=psf)
    assert like_lsst(image, catalog(image, "Star", 20.2)).truth["stamp_size"][0] > 0
    # On the image: no kernel. Off it, the nearest pixel of the image is tried.
    assert like_lsst(image, catalog(image, "Star", X)).truth["flags"][0] & Flag.PSF_COMPUTE_ERROR
    psf.defined = lambda x, y: np.atleast_1d(np.asarray(x, float)) >= 0
    assert like_lsst(image, catalog(image, "Star", -3.0)).truth["stamp_size"][0] > 0
    psf.defined = lambda x, y: np.zeros(np.size(x), bool)
    with pytest.raises(PsfError, match="average position"):
        like_lsst(image, catalog(image, "Star"))


def test_the_aperture_flux_is_that_of_the_average_position() -> None:
    psf = MoffatPSF(beta=3.0, fwhm=4.0)
    image = exposure(psf=psf)
    out = like_lsst(image, catalog(image, "Star"))
    assert 1 / out.truth["kernel_scale"][0] == pytest.approx(enclosed_flux(psf.kernels([0.0], [0.0])[0], 12.0)[0])
    assert out.summary["correction_position"] == "image"
    six = like_lsst(image, catalog(image, "Star"), flux_mode="aperture", aperture="6 pix")
    assert six.truth["kernel_scale"][0] > out.truth["kernel_scale"][0]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"flux_mode": "psf_sum"}, "flux_mode"),
        ({"gain": 2.0}, "gain"),
        ({"flux_tolerance": 1e-4}, "flux_tolerance"),
        ({"mask_threshold": 0.0}, "mask_threshold"),
        ({"stars": "fast"}, "stars"),
        ({"galaxies": "galsim"}, "galaxies"),
        ({"seed": 2**63}, "seed"),
        ({"conventions": "lsst"}, "conventions"),
        ({"conventions": "skygraft", "variance": True, "noise": False}, "variance"),
        ({"variance": 1}, "variance"),
    ],
)
def test_settings_that_the_conventions_leave_no_choice_of(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        InjectionOptions(**({"conventions": LSST} | settings))
    assert raised.value.key == key
    content = {"name": "a", "survey": {"images": "*"}, "catalog": {"path": "c.parquet"}, "output": "out"}
    with pytest.raises(ConfigError, match=r"injection.*"):
        parse_config(content | {"injection": {"conventions": LSST} | settings})


def test_an_image_calibrated_to_no_aperture_is_refused() -> None:
    image = exposure(reference=PSF_MODEL)
    with pytest.raises(CalibrationError, match="flux in an aperture"):
        like_lsst(image, catalog(image, "Star"))
    assert like_lsst(image, catalog(image, "Star"), flux_mode="aperture", aperture="12 pix").summary["n_drawn"] == 1


def test_the_record_says_which_version_is_meant() -> None:
    image = exposure()
    conventions = like_lsst(image, catalog(image, "Star")).summary["conventions"]
    assert conventions["name"] == LSST
    assert conventions["commit"].startswith("8da8778")
    assert conventions["date"] == "2026-06-12"
    assert conventions["galsim"] == galsim.__version__
    assert inject(image, catalog(image, "Star"), noise=False).summary["conventions"] == {"name": "skygraft"}


def test_campaigns_of_before_are_not_made_again() -> None:
    content = {"name": "a", "survey": {"images": "*"}, "catalog": {"path": "c.parquet"}, "output": "out"}
    settings = parse_config(content).pixel_settings()
    assert not {"injection.conventions", "injection.variance"} & settings.keys()
    changed = parse_config(content | {"injection": {"conventions": LSST, "variance": True}}).pixel_settings()
    assert {k: v for k, v in changed.items() if k not in settings} == {
        "injection.conventions": LSST,
        "injection.variance": True,
    }
