"""Sources of difference images against brute force: GalSim's images, convolved in double precision, subtracted."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.table import Table
from scipy import signal

from skygraft import inject, read_exposure, write_exposure
from skygraft.catalog import Flag
from skygraft.cli.describe import describe_exposure, describe_rows
from skygraft.errors import CatalogError, ConfigError, InjectionError
from skygraft.exposure import DIFFERENCE, Exposure
from skygraft.psf import GaussianPSF, adaptive_moments
from skygraft.qa.closure import measure_closure
from skygraft.testing import make_exposure
from skygraft.wcs import local_jacobian

pytestmark = pytest.mark.data
images = pytest.importorskip("lsst.images")

SHAPE = (181, 201)
SCIENCE, TEMPLATE = 2.2, (3.3, 3.1, 0.2)
"""Sigma of the science image's PSF, and second moments of the template's; pixels."""
FLUX = 10 ** (0.4 * (31.4 - 18.0))
X, Y = 87.3, 95.8


def small(sigma: float, half: int = 8, dx: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    kernel = np.exp(-((x - dx) ** 2 + y**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def library_image(data_dir: Path, **changes: Any) -> Any:
    """A difference image of the library's own classes, with a kernel that changes over the image."""
    from lsst.images import convolution_kernels, fields, psfs, serialization

    like = serialization.read_archive(str(data_dir / "rubin" / "difference_image-1.0.0-dp2.json"))
    box = images.Box.factory[0 : SHAPE[0], 0 : SHAPE[1]]
    basis = np.stack([small(1.3), small(1.3, dx=0.8) - small(1.3, dx=-0.8), small(2.0) - small(1.3)])
    weights = ([[1.0, 0.0], [0.0, 0.0]], [[0.1, 0.08], [-0.05, 0.0]], [[0.0, 0.1], [0.2, 0.03]])
    spatial = [fields.ChebyshevField(box, np.array(w)) for w in weights]
    one = like.templates[0]
    where = images.Polygon(x_vertices=np.array([-9.0, 400, 400, -9]), y_vertices=np.array([-9.0, -9, 400, 400]))
    moments = dict(zip(("psf_shape_xx", "psf_shape_yy", "psf_shape_xy"), TEMPLATE, strict=True))
    parts = {
        "mask_schema": like.mask.schema,
        "sky_projection": like.sky_projection,
        "obs_info": like.obs_info,
        "psf": psfs.GaussianPointSpreadFunction(SCIENCE, box, 41),
        "detector": like.detector,
        "band": "r",
        "kernel": convolution_kernels.ImageBasisConvolutionKernel(basis, spatial),
        "templates": [one.model_copy(update={"bounds": where, "psf_shape_flag": False, **moments})],
    }
    unit = changes.pop("unit", like.unit)
    plane = images.Image(np.zeros(SHAPE, np.float32), bbox=box, unit=unit)
    variance = images.Image(np.full(SHAPE, 100.0, np.float32), bbox=box, unit=unit**2)
    return images.DifferenceImage(plane, variance=variance, **(parts | changes))


def written(image: Any, tmp_path: Path, suffix: str = ".fits") -> Path:
    from lsst.images import serialization

    path = tmp_path / f"difference{suffix}"
    serialization.write_archive(image, str(path))
    return path


@pytest.fixture(scope="module")
def image(data_dir: Path) -> Any:
    return library_image(data_dir)


@pytest.fixture(scope="module")
def exposure(image: Any, tmp_path_factory: pytest.TempPathFactory) -> Exposure:
    return read_exposure(written(image, tmp_path_factory.mktemp("difference")))


def catalog(exposure: Exposure, into: str | list[str], x: Any = X, y: Any = Y, **columns: Any) -> Table:
    x, y = np.atleast_1d(x), np.atleast_1d(y)
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    rows = {"injection_id": np.arange(len(x)), "ra": ra, "dec": dec, "mag_r": np.full(len(x), 18.0)}
    rows["source_type"] = np.full(len(x), "Star")
    rows["inject_into"] = np.array(into if isinstance(into, list) else [into] * len(x))
    return Table(rows | {name: np.full(len(x), value) for name, value in columns.items()})


def gaussian(moments: tuple[float, float, float]) -> galsim.GSObject:
    xx, yy, xy = moments
    size = np.sqrt(np.sqrt(xx * yy - xy**2))
    root = np.sqrt(xx * yy - xy**2)
    total = xx + yy + 2 * root
    return galsim.Gaussian(sigma=size).shear(g1=(xx - yy) / total, g2=2 * xy / total)


def drawn(profile: galsim.GSObject, x: float, y: float) -> np.ndarray:
    stamp = galsim.ImageD(SHAPE[1], SHAPE[0], scale=1.0, xmin=0, ymin=0)
    parameters = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-7, maximum_fft_size=16384)
    profile = profile.withGSParams(parameters)
    return profile.drawImage(image=stamp, method="no_pixel", center=galsim.PositionD(x, y)).array


def expected(image: Any, into: str, x: float = X, y: float = Y, profile: galsim.GSObject | None = None) -> np.ndarray:
    """Brute force: science, less the template convolved with the library's own kernel at the source."""
    sides = []
    for moments in ((SCIENCE**2, SCIENCE**2, 0.0), TEMPLATE):
        psf = gaussian(moments)
        sides.append(FLUX * drawn(psf if profile is None else galsim.Convolve(profile, psf), x, y))
    kernel = image.kernel.compute_kernel_image(x=x, y=y).array
    matched = signal.fftconvolve(sides[1], kernel, mode="same")
    return (into != "template") * sides[0] - (into != "science") * matched


@pytest.mark.parametrize("into", ["science", "template", "both", ""])
def test_stars(image: Any, exposure: Exposure, into: str) -> None:
    injection = inject(exposure, catalog(exposure, into), noise=False)
    truth = expected(image, into or "science")
    peak = expected(image, "science").max()
    np.testing.assert_allclose(injection.exposure.image, truth, atol=1e-5 * peak)
    # flux is closed: what the kernel sums to is what the template's flux is multiplied by
    kernel = image.kernel.compute_kernel_image(x=X, y=Y).array
    flux = FLUX * ((into != "template") - (into in ("template", "both")) * kernel.sum())
    assert injection.truth["flux_deposited"][0] == pytest.approx(flux, abs=1e-5 * FLUX)
    assert injection.exposure.image.sum(dtype=float) == pytest.approx(flux, abs=1e-5 * FLUX)
    flagged = bool(injection.truth["flags"][0] & int(Flag.IN_TEMPLATE))
    assert flagged == (into in ("template", "both"))
    assert injection.truth["inst_flux"][0] == pytest.approx(FLUX, rel=1e-9)


@pytest.mark.parametrize(
    ("here", "there", "mag"),
    [(2.0, 1.0, 18.0), (0.01, 1.0, 18.0), (0.0, 1.0, 18.0), (2.0, 0.0, np.nan), (-0.5, 1.0, 18.0)],
)
def test_variable_stars_differ_from_their_template(
    image: Any, exposure: Exposure, here: float, there: float, mag: float
) -> None:
    """The light curve is that of the science image, the row's magnitude that of the template."""
    mjd = exposure.visit_info.mjd
    curves = {"id": ["v"] * 2, "mjd": [mjd - 1, mjd + 1], "band": ["r"] * 2, "flux": [here * FLUX] * 2}
    row = catalog(exposure, "both", light_curve="v")
    row["mag_r"] = mag
    injection = inject(exposure, row, light_curves=curves, noise=False)
    science = expected(image, "science")
    truth = here * science + there * expected(image, "template")
    np.testing.assert_allclose(injection.exposure.image, truth, atol=2e-5 * science.max())
    assert injection.truth["stamp_size"][0] > 0
    assert bool(injection.truth["flags"][0] & int(Flag.IN_TEMPLATE)) == (there > 0)


@pytest.mark.parametrize("into", ["template", "both"])
def test_galaxies(image: Any, exposure: Exposure, into: str) -> None:
    row = catalog(exposure, into, source_type="Sersic", n=1.0, half_light_radius=0.8)
    injection = inject(exposure, row, noise=False, galaxies="precise")
    jacobian = local_jacobian(exposure.wcs, np.array([X]), np.array([Y]))[0]
    sky = galsim.Sersic(n=1.0, half_light_radius=0.8).transform(*np.linalg.inv(jacobian).ravel())
    profile = sky / sky.flux
    truth = expected(image, into, profile=profile)
    peak = expected(image, "science", profile=profile).max()
    np.testing.assert_allclose(injection.exposure.image, truth, atol=2e-4 * peak)


def test_a_static_source_cancels_to_what_the_kernel_can_match(data_dir: Path, tmp_path: Path) -> None:
    """A kernel that takes the template's PSF exactly to the science image's leaves nothing."""
    from lsst.images import convolution_kernels, fields

    kernel = small(np.sqrt(SCIENCE**2 - 1.7**2), 10)
    box = images.Box.factory[0 : SHAPE[0], 0 : SHAPE[1]]
    exact = convolution_kernels.ImageBasisConvolutionKernel(kernel[None], [fields.ChebyshevField(box, np.eye(1))])
    path = written(library_image(data_dir, kernel=exact), tmp_path)
    exposure = read_exposure(path, template_psf=GaussianPSF(sigma=1.7))
    both, science = (inject(exposure, catalog(exposure, into), noise=False).exposure for into in ("both", "science"))
    assert np.abs(both.image).max() < 1e-5 * science.image.max()
    assert science.image.max() > 1e3


def test_the_kernel_is_that_of_each_source(image: Any, exposure: Exposure) -> None:
    x, y = np.array([50.2, 151.6, 97.1]), np.array([48.9, 61.3, 140.7])
    injection = inject(exposure, catalog(exposure, ["template", "both", "science"], x, y), noise=False)
    truth = sum(expected(image, into, *at) for into, *at in zip(["template", "both", "science"], x, y, strict=True))
    np.testing.assert_allclose(injection.exposure.image, truth, atol=1e-5 * np.abs(truth).max())
    told = injection.summary["difference"]
    assert told["n_in_template"] == 2
    assert told["template_psf"] == "the science image's, stretched to the second moments recorded for 1 template"
    sums = [image.kernel.compute_kernel_image(x=a, y=b).array.sum() for a, b in zip(x[:2], y[:2], strict=True)]
    assert told["kernel_sum"] == pytest.approx(np.median(sums), abs=1e-5)


def test_noise_is_that_of_the_science_image_alone(exposure: Exposure) -> None:
    clean = {i: inject(exposure, catalog(exposure, i), noise=False).exposure for i in ("science", "template", "both")}
    noisy = {i: inject(exposure, catalog(exposure, i), gain=0.5, seed=3).exposure for i in clean}
    np.testing.assert_array_equal(noisy["template"].image, clean["template"].image)
    np.testing.assert_array_equal(noisy["template"].variance, exposure.variance)
    np.testing.assert_array_equal(noisy["both"].variance, noisy["science"].variance)
    added = [noisy[i].image.astype(float) - clean[i].image for i in ("science", "both")]
    np.testing.assert_allclose(added[0], added[1], atol=1e-6 * clean["science"].image.max())
    bright = clean["science"].image > 100
    assert added[0][bright].std() == pytest.approx(np.sqrt(clean["science"].image[bright].mean() / 0.5), rel=0.3)
    # a static source leaves little but noise, and is marked where its own light is
    bits = noisy["both"].mask_planes["INJECTED"]
    marked = {i: (noisy[i].mask & bits) != 0 for i in clean}
    np.testing.assert_array_equal(marked["both"], marked["science"] | marked["template"])


def test_order_does_not_matter_and_sources_without_the_column_are_as_before(exposure: Exposure) -> None:
    table = catalog(exposure, ["both", "template", "science"], [60.0, 70, 80], [60.0, 70, 80])
    one, two = (inject(exposure, some, gain=0.5).exposure for some in (table, table[::-1]))
    assert one.image.tobytes() == two.image.tobytes()
    science = catalog(exposure, "science")
    plain = science.copy()
    plain.remove_column("inject_into")
    assert inject(exposure, science, gain=0.5).exposure.image.tobytes() == (
        inject(exposure, plain, gain=0.5).exposure.image.tobytes()
    )
    assert "difference" not in inject(exposure, plain, gain=0.5).summary


def test_what_one_side_cannot_draw_is_drawn_on_neither(data_dir: Path, tmp_path: Path) -> None:
    like = library_image(data_dir)
    half = images.Polygon(x_vertices=np.array([-9.0, 100, 100, -9]), y_vertices=np.array([-9.0, -9, 400, 400]))
    path = written(library_image(data_dir, templates=[like.templates[0].model_copy(update={"bounds": half})]), tmp_path)
    exposure = read_exposure(path)
    table = catalog(exposure, ["both", "both", "science"], [50.0, 150, 160], [90.0, 90, 90])
    injection = inject(exposure, table, noise=False)
    flags = injection.truth["flags"]
    assert [bool(f & int(Flag.PSF_COMPUTE_ERROR)) for f in flags] == [False, True, False]
    assert [bool(f & int(Flag.IN_TEMPLATE)) for f in flags] == [True, False, False]
    assert injection.truth["flux_deposited"][1] == 0
    assert injection.summary["n_drawn"] == 2
    assert any("no template covers position (150.0, 90.0)" in text for text in injection.summary["messages"])
    alone = inject(exposure, table[[0, 2]], noise=False).exposure
    np.testing.assert_array_equal(injection.exposure.image, alone.image)


def test_light_that_only_the_kernel_brings_onto_the_image(data_dir: Path, tmp_path: Path) -> None:
    """The template's PSF through its kernel reaches 20 pixels to its side, this science image's 5."""
    from lsst.images import psfs

    box = images.Box.factory[0 : SHAPE[0], 0 : SHAPE[1]]
    psf = psfs.GaussianPointSpreadFunction(SCIENCE, box, 11)
    exposure = read_exposure(written(library_image(data_dir, psf=psf), tmp_path))
    table = catalog(exposure, ["science", "template", "both"], [SHAPE[1] + 9.0] * 3, [40.0, 90.0, 140.0])
    truth = inject(exposure, table, noise=False).truth
    assert (truth["flags"] & int(Flag.NO_OVERLAP) != 0).tolist() == [True, False, False]
    assert truth["flux_deposited"][0] == 0
    assert (truth["flux_deposited"][1:] < 0).all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"kernel": None}, "it carries no matching kernel"),
            ({"templates": None}, "it carries no list of templates"),
            ({"templates": []}, "it carries no list of templates"),
            ({"kernel": None, "templates": None}, "no matching kernel; the PSF of its template is not known"),
        ],
    )
    def test_what_is_absent_is_named(self, data_dir: Path, tmp_path: Path, changes: Any, reason: str) -> None:
        exposure = read_exposure(written(library_image(data_dir, **changes), tmp_path))
        with pytest.raises(InjectionError, match=reason) as caught:
            inject(exposure, catalog(exposure, "both"), noise=False)
        assert "difference.fits" in str(caught.value)
        assert inject(exposure, catalog(exposure, "science"), noise=False).summary["n_drawn"] == 1

    @pytest.mark.parametrize("update", [{"psf_shape_flag": True}, {"psf_shape_xx": np.nan}, {"psf_shape_xy": 9.0}])
    def test_templates_without_a_psf(self, data_dir: Path, tmp_path: Path, update: Any) -> None:
        like = library_image(data_dir)
        templates = [like.templates[0].model_copy(update=update)]
        path = written(library_image(data_dir, templates=templates), tmp_path)
        exposure = read_exposure(path)
        with pytest.raises(InjectionError, match="PSF of its template is not known"):
            inject(exposure, catalog(exposure, "template"), noise=False)
        given = read_exposure(path, template_psf={"kind": "gaussian", "fwhm": "4 pix"})
        told = inject(given, catalog(given, "template"), noise=False).summary["difference"]
        assert told["template_psf"] == "given (template_psf=)"

    def test_another_unit(self, data_dir: Path, tmp_path: Path) -> None:
        path = written(library_image(data_dir, unit=u.electron), tmp_path)
        exposure = read_exposure(path, photo_calib=30.0, aperture="12 pix")
        with pytest.raises(InjectionError, match="it is in electron, not in nJy"):
            inject(exposure, catalog(exposure, "both"), noise=False)

    def test_other_images_have_no_template(self, data_dir: Path) -> None:
        # An ordinary image is a science image or a template, and has the sources of its own.
        exposure = make_exposure((100, 100))
        truth = inject(exposure, catalog(exposure, ["both", "template"], [50.0, 60.0], [50.0, 60.0])).truth
        assert [int(flags) for flags in truth["flags"]] == [0, int(Flag.NOT_FOR_IMAGE)]
        with pytest.raises(ConfigError, match="given for a visit_image, which has no template"):
            read_exposure(data_dir / "rubin" / "dp1_visit_image.fits", template_psf=GaussianPSF(sigma=2.0))

    def test_another_word(self, exposure: Exposure) -> None:
        with pytest.raises(CatalogError, match="inject_into 'coadd' is not one of science, template, both"):
            inject(exposure, catalog(exposure, "coadd"), noise=False)


def test_the_output_keeps_its_kernel_and_templates(image: Any, exposure: Exposure, tmp_path: Path) -> None:
    from lsst.images import serialization

    out = tmp_path / "out.fits"
    write_exposure(inject(exposure, catalog(exposure, "both"), noise=False).exposure, out)
    after = serialization.read_archive(str(out))
    np.testing.assert_array_equal(after.kernel.basis, image.kernel.basis)
    assert after.templates == image.templates
    again = pickle.loads(pickle.dumps(exposure)).extra[DIFFERENCE]
    np.testing.assert_array_equal(again.kernel.kernels(X, Y), exposure.extra[DIFFERENCE].kernel.kernels(X, Y))


def test_closure_is_measured_on_stars_of_the_science_image_alone(exposure: Exposure) -> None:
    table = catalog(exposure, ["science", "template", "both"], [40.0, 100, 160], [90.0, 90, 90])
    injection = inject(exposure, table, gain=50.0)
    measured = measure_closure(exposure, injection.exposure, injection.truth)
    assert measured["injection_id"].tolist() == [0]
    assert abs(measured["residual"][0]) < 5 * measured["sigma"][0] + 1e-3


def test_inspect_tells_how_it_came_about(exposure: Exposure, data_dir: Path, tmp_path: Path) -> None:
    rows = dict(describe_rows(describe_exposure(exposure)))
    assert "through a kernel of 17 x 17 pixels, sum 1." in rows["difference"]
    assert "stretched to the second moments recorded for 1 template" in rows["difference"]
    bare = read_exposure(written(library_image(data_dir, kernel=None), tmp_path))
    assert "it carries no matching kernel" in dict(describe_rows(describe_exposure(bare)))["difference"]
    assert "difference" not in dict(describe_rows(describe_exposure(make_exposure((50, 50)))))


def test_rubin_s_own_difference_image(data_dir: Path) -> None:
    """Of Data Preview 2: its PSF is the science image's, and its kernel takes nJy of the template to its own nJy."""
    from lsst.images import serialization

    path = data_dir / "rubin" / "difference_image-1.0.0-dp2.json"
    exposure, image = read_exposure(path), serialization.read_archive(str(path))
    difference = exposure.extra[DIFFERENCE]
    assert difference.missing == ""
    assert "2 templates" in difference.origin
    at = 12.0, 700.0
    np.testing.assert_allclose(
        difference.kernel.kernels(*at)[0], image.kernel.compute_kernel_image(x=at[0], y=at[1]).array, atol=1e-15
    )
    # the file was cut to the middle of the kernel: the weight of its first image, of unit sum, tells what it sums to
    assert difference.kernel.coefficients(*at)[0, 0] == pytest.approx(1.006, abs=1e-4)
    assert difference.template_psf.defined([12.0, 3000.0], [700.0, 3000.0]).tolist() == [True, False]
    moments = [(t.psf_shape_xx, t.psf_shape_yy) for t in image.templates]
    kernel = difference.template_psf.kernels(*at)[0]
    assert adaptive_moments(kernel)[:2] == pytest.approx(moments[1], rel=1e-3)
    # the science image's PSF, and not one that noise was decorrelated with
    sizes = [adaptive_moments(psf.kernels(*at)[0]) for psf in (exposure.psf, difference.template_psf)]
    assert np.sqrt(np.sqrt(sizes[0][0] * sizes[0][1] - sizes[0][2] ** 2)) == pytest.approx(
        image.summary_stats.psfSigma, rel=0.01
    )
    assert sizes[1][0] < sizes[0][0]
