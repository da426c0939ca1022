"""Every type of source against GalSim's transform of it, in double precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import j1

from kits.direct_drawing import TIGHT, draw_directly, on_sky
from kits.real_galaxy_catalog import write_real_galaxies
from skygraft.catalog.flags import Flag
from skygraft.psf import Box, FixedKernelPSF
from skygraft.render import Canvas, RenderReport, Sources, real_galaxies, render
from skygraft.render.knots import knot_offsets, round_places
from skygraft.render.kolmogorov import kolmogorov_reach, remaining
from skygraft.render.radial import WIDTHS
from skygraft.render.spergel import gaussian_fluxes, spergel_reach

FLUX = 1000.0
JACOBIANS = {
    "East to the left": np.array([[-0.2, 0.0], [0.0, 0.2]]),
    "rotated": 0.2 * np.array([[-0.8, -0.6], [-0.6, 0.8]]) @ np.array([[1.0, 0.05], [0.0, 1.1]]),
    "mirrored": 0.2 * np.array([[0.6, -0.8], [0.8, 0.6]]),
}
KERNEL = np.asarray(
    galsim.Convolve(galsim.Moffat(beta=3.0, fwhm=3.5).shear(g1=0.05), galsim.Pixel(1.0))
    .drawImage(nx=45, ny=45, scale=1.0, method="no_pixel")
    .array,
    dtype=float,
)


class AsItIs:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def source(kind: str, x: float, y: float, jacobian: np.ndarray, **shape: Any) -> Sources:
    columns = {name: np.array([value]) for name, value in shape.items()}
    place = (np.array([7]), np.array([kind]), np.array([x]), np.array([y]), np.array([FLUX]), jacobian[None])
    return Sources(*place, shape=columns)


def draw(one: Sources, size: int, **options: Any) -> tuple[RenderReport, np.ndarray]:
    canvas = Canvas.empty((size, size), (0, 0))
    box = Box(-0.5, size - 0.5, -0.5, size - 0.5)
    return render(one, FixedKernelPSF(KERNEL), canvas, box, AsItIs(), **options), canvas.model


def disagreement(one: Sources, profile: Any, jacobian: np.ndarray, size: int, **options: Any) -> float:
    """Largest error over the pixels that were drawn on, in units of the peak; with all of the flux, and no flags."""
    report, model = draw(one, size, **options)
    assert report.messages == {}
    assert report.flags[0] == 0
    assert report.flux_deposited[0] == pytest.approx(FLUX * KERNEL.sum(), rel=1.1e-3)
    assert report.flux_deposited[0] == pytest.approx(model.sum(dtype=float), rel=1e-5)
    wanted = FLUX * draw_directly(profile, jacobian, float(one.x[0]), float(one.y[0]), KERNEL, size)
    return float(np.abs(model - wanted)[model != 0].max() / wanted.max())


ELLIPSE = {"half_light_radius": 0.7, "q": 0.6, "pa": 25.0}
DISK = {"half_light_radius": 0.8, "pa": 25.0}
TYPES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "Gaussian": ("Gaussian", ELLIPSE, on_sky(galsim.Gaussian(half_light_radius=0.7), 0.6, 25.0)),
    "Spergel": (
        "Spergel", ELLIPSE | {"spergel_nu": 0.3}, on_sky(galsim.Spergel(0.3, half_light_radius=0.7), 0.6, 25.0),
    ),
    "Spergel with a cusp": (
        "Spergel", ELLIPSE | {"spergel_nu": -0.6}, on_sky(galsim.Spergel(-0.6, half_light_radius=0.7), 0.6, 25.0),
    ),
    "Kolmogorov": (
        "Kolmogorov", ELLIPSE, on_sky(galsim.Kolmogorov(half_light_radius=0.7, gsparams=TIGHT), 0.6, 25.0),
    ),
    "InclinedExponential": (
        "InclinedExponential", DISK | {"inclination": 65.0, "scale_h_over_r": 0.15},
        galsim.InclinedExponential(65 * galsim.degrees, half_light_radius=0.8, scale_h_over_r=0.15, gsparams=TIGHT)
        .rotate(65 * galsim.degrees),
    ),
    "edge-on": (
        "InclinedExponential", DISK | {"inclination": 90.0},
        galsim.InclinedExponential(90 * galsim.degrees, half_light_radius=0.8, scale_h_over_r=0.1, gsparams=TIGHT)
        .rotate(65 * galsim.degrees),
    ),
    "InclinedSersic": (
        "InclinedSersic", DISK | {"inclination": 50.0, "n": 1.8},
        galsim.InclinedSersic(1.8, 50 * galsim.degrees, half_light_radius=0.8, scale_h_over_r=0.1, gsparams=TIGHT)
        .rotate(65 * galsim.degrees),
    ),
    "InclinedSersic that ends": (
        "InclinedSersic", DISK | {"inclination": 50.0, "n": 1.8, "trunc": 2.5},
        galsim.InclinedSersic(
            1.8, 50 * galsim.degrees, half_light_radius=0.8, scale_h_over_r=0.1, trunc=2.5, gsparams=TIGHT
        ).rotate(65 * galsim.degrees),
    ),
    "two Sersics": (
        "BulgeDisk",
        {
            "bulge_fraction": 0.3, "bulge_n": 2.5, "bulge_half_light_radius": 0.3, "bulge_q": 0.9, "bulge_pa": 80.0,
            "disk_n": 0.8, "disk_half_light_radius": 0.9, "disk_q": 0.5, "disk_pa": 10.0,
        },
        0.3 * on_sky(galsim.Sersic(2.5, half_light_radius=0.3, gsparams=TIGHT), 0.9, 80.0)
        + 0.7 * on_sky(galsim.Sersic(0.8, half_light_radius=0.9, gsparams=TIGHT), 0.5, 10.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("orientation", list(JACOBIANS))
@pytest.mark.parametrize("name", list(TYPES))
def test_each_type_is_what_its_transform_says(name: str, orientation: str) -> None:
    kind, shape, profile = TYPES[name]
    jacobian = JACOBIANS[orientation]
    one = source(kind, 255.3, 257.8, jacobian, **shape)
    assert disagreement(one, profile, jacobian, 512) < 3e-4


@pytest.mark.parametrize("name", ["Gaussian", "Spergel", "Kolmogorov", "two Sersics"])
def test_galsims_engine_draws_the_same(name: str) -> None:
    kind, shape, profile = TYPES[name]
    jacobian = JACOBIANS["mirrored"]
    assert disagreement(source(kind, 255.3, 257.8, jacobian, **shape), profile, jacobian, 512, galaxies="galsim") < 3e-4


# -- profiles that have tables


@pytest.mark.parametrize(("galaxies", "bound"), [("fast", 3e-4), ("precise", 5e-5)])
@settings(max_examples=8, deadline=None)
@given(
    st.floats(-0.85, 4.0) | st.just(math.inf),
    st.floats(0.05, 1.5),
    st.floats(0.2, 1.0),
    st.floats(0, 180),
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)
def test_any_spergel_or_kolmogorov_is_that_of_its_closed_form(galaxies, bound, nu, radius, q, pa, where):
    jacobian, size = JACOBIANS["East to the left"], 1024
    kind = "Kolmogorov" if math.isinf(nu) else "Spergel"
    one = source(kind, 512 + where[0], 512 + where[1], jacobian, spergel_nu=nu, half_light_radius=radius, q=q, pa=pa)
    _, model = draw(one, size, galaxies=galaxies)
    # The transform of a real image is known from half a plane.
    ky, kx = 2 * np.pi * np.fft.fftfreq(size)[:, None], 2 * np.pi * np.fft.rfftfreq(size)
    east, north = kx / jacobian[0, 0], ky / jacobian[1, 1]
    sine, cosine = np.sin(np.radians(pa)), np.cos(np.radians(pa))
    along, across = (east * sine + north * cosine) / np.sqrt(q), (east * cosine - north * sine) * np.sqrt(q)
    k2 = radius**2 * (along**2 + across**2)
    if math.isinf(nu):
        # GalSim's own half-light radius, by its transform at one wavenumber.
        k_0 = (-math.log(galsim.Kolmogorov(half_light_radius=1.0).kValue(1.0, 0.0).real)) ** -0.6
        whole = np.exp(-((np.sqrt(k2) / k_0) ** (5 / 3)))
    else:
        whole = (1 + k2 * galsim.Spergel(nu, half_light_radius=1.0).scale_radius ** 2) ** -(1 + nu)
    box = np.zeros((size, size))
    box[:45, :45] = KERNEL
    phase = np.exp(-1j * kx * (one.x[0] - 22)) * np.exp(-1j * ky * (one.y[0] - 22))
    wanted = FLUX * np.fft.irfft2(np.fft.rfft2(box) * whole * phase, (size, size))
    assert np.abs(model - wanted)[model != 0].max() < bound * wanted.max()


@pytest.mark.parametrize("nu", [-0.85, -0.6, 0.0, 0.5, 1.0])
def test_a_spergel_is_the_sum_of_its_gaussians(nu: float) -> None:
    r = np.array([0.1, 0.5, 1.0, 3.0])
    fluxes = gaussian_fluxes(nu, WIDTHS)
    density = (fluxes / (2 * np.pi * WIDTHS**2) * np.exp(-0.5 * (r[:, None] / WIDTHS) ** 2)).sum(axis=1)
    profile = galsim.Spergel(nu, half_light_radius=1.0)
    np.testing.assert_allclose(density, [profile.xValue(x, 0) for x in r], rtol=2e-4)


@pytest.mark.parametrize("nu", [-0.85, -0.3, 0.5, 4.0])
@pytest.mark.parametrize("missing", [1e-2, 1e-4])
def test_reach_of_a_spergel_is_galsims(nu: float, missing: float) -> None:
    wanted = galsim.Spergel(nu, half_light_radius=1.0).calculateFluxRadius(1 - missing)
    assert spergel_reach(np.array([nu]), missing)[0] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("missing", [0.5, 1e-2, 1e-3])
def test_reach_of_a_kolmogorov_by_a_hankel_transform(missing: float) -> None:
    radius = kolmogorov_reach(missing)
    # 1 - r int T(k) J_1(k r) dk, by parts: T' = 0 at zero, so that it converges.
    within = quad(lambda k: np.exp(-((k / 1.66051333) ** (5 / 3))) * j1(k * radius), 0, 40, limit=4000)[0] * radius
    assert 1 - within == pytest.approx(missing, rel=1e-4)
    assert remaining(radius) == pytest.approx(missing, rel=1e-6)


# -- knots


def knots(x: float = 128.2, y: float = 127.9, jacobian: np.ndarray = JACOBIANS["rotated"], **changes: Any) -> Sources:
    shape = {"half_light_radius": 1.0, "q": 0.5, "pa": 30.0, "n_knots": 25} | changes
    return source("RandomKnots", x, y, jacobian, **shape)


def test_knots_are_stars_at_their_places() -> None:
    one = knots()
    report, model = draw(one, 256)
    offsets = knot_offsets(one, 0)
    n = len(offsets)
    x, y = offsets.T + np.array([[one.x[0]], [one.y[0]]])
    stars = Sources(
        np.arange(n), np.full(n, "Star"), x, y, np.full(n, FLUX / n), np.repeat(one.jacobian, n, axis=0), {}
    )
    other, wanted = draw(stars, 256)
    np.testing.assert_allclose(model, wanted, rtol=0, atol=1e-6 * wanted.max())
    assert report.flux_deposited[0] == pytest.approx(other.flux_deposited.sum(), rel=1e-6)
    assert report.flags[0] == 0
    assert report.stamp_size[0] >= 2 * np.abs(offsets).max() + 45


def test_knots_by_galsim_are_the_same() -> None:
    _, model = draw(knots(), 256)
    _, other = draw(knots(), 256, galaxies="galsim")
    np.testing.assert_allclose(model, other, rtol=0, atol=3e-4 * model.max())


def test_an_object_has_the_same_knots_on_the_sky_everywhere() -> None:
    sky = [knot_offsets(knots(jacobian=j), 0) @ j.T for j in JACOBIANS.values()]
    np.testing.assert_allclose(sky[0], sky[1], atol=1e-12)
    np.testing.assert_allclose(sky[0], sky[2], atol=1e-12)
    twice = knots(half_light_radius=2.0)
    np.testing.assert_allclose(knot_offsets(twice, 0), 2 * knot_offsets(knots(), 0), rtol=1e-12)
    named, unnamed = knots(object_id=7), knots(object_id=-1)
    np.testing.assert_array_equal(knot_offsets(named, 0), knot_offsets(unnamed, 0))
    assert not np.allclose(knot_offsets(knots(object_id=8), 0), knot_offsets(named, 0))
    np.testing.assert_array_equal(round_places(7, 40)[:25], round_places(7, 25))


def test_half_of_many_knots_are_within_the_half_light_radius() -> None:
    places = round_places(3, 40_000)
    assert np.mean(np.hypot(*places.T) < 1) == pytest.approx(0.5, abs=0.01)
    sigma = galsim.Gaussian(half_light_radius=1.0).sigma
    np.testing.assert_allclose(places.std(axis=0), sigma, rtol=0.02)
    assert np.abs(places.mean(axis=0)).max() < 0.02
    # Spread by the axis ratio, along the position angle.
    along, across = np.array([0.5, np.sqrt(0.75)]), np.array([np.sqrt(0.75), -0.5])
    sky = knot_offsets(knots(n_knots=40_000), 0) @ JACOBIANS["rotated"].T
    assert (sky @ along).std() / (sky @ across).std() == pytest.approx(2.0, rel=0.03)


def test_these_are_the_places_of_all_times() -> None:
    """What was drawn last year has the same knots today."""
    np.testing.assert_allclose(round_places(12345, 2), PLACES, rtol=1e-12)


PLACES = [[0.63483973171961, 0.5759684674437525], [0.6570301223138411, -1.1777442838622876]]


def test_knots_off_the_image_and_cut_by_draw_size_are_flagged() -> None:
    report, _ = draw(knots(x=1.0), 256)
    assert report.flags[0] == Flag.TRUNCATED_BY_EDGE
    assert 0.1 < report.flux_deposited[0] / FLUX < 0.95
    report, _ = draw(knots(draw_size=55), 256)
    assert report.flags[0] == Flag.STAMP_TRUNCATED
    assert report.flux_deposited[0] < 0.9 * FLUX
    report, model = draw(knots(n_knots=0), 256)
    assert report.flags[0] == Flag.PARAMETERS_BAD
    assert "n_knots" in report.messages[0]
    assert not model.any()


# -- trails of any type


@pytest.mark.parametrize("orientation", list(JACOBIANS))
@pytest.mark.parametrize("kind", ["Sersic", "Spergel", "InclinedExponential", "RandomKnots", "Star"])
def test_any_type_is_drawn_along_its_trail(kind: str, orientation: str) -> None:
    jacobian = JACOBIANS[orientation]
    profile = {
        "Sersic": on_sky(galsim.Sersic(1.3, half_light_radius=0.7, gsparams=TIGHT), 0.6, 25.0),
        "Spergel": on_sky(galsim.Spergel(0.3, half_light_radius=0.7), 0.6, 25.0),
        "InclinedExponential": galsim.InclinedExponential(
            50 * galsim.degrees, half_light_radius=0.7, gsparams=TIGHT
        ).rotate(65 * galsim.degrees),
        "Star": galsim.DeltaFunction(),
    }
    shape = ELLIPSE | {"n": 1.3, "spergel_nu": 0.3, "inclination": 50.0, "n_knots": 4}
    one = source(kind, 255.3, 257.8, jacobian, trail_length=3.0, trail_pa=70.0, **shape)
    if kind == "RandomKnots":
        sky = knot_offsets(one, 0) @ jacobian.T
        profile[kind] = galsim.Add([galsim.DeltaFunction(0.25).shift(*place) for place in sky.tolist()])
    trail = galsim.Box(3.0, 1e-4).rotate(20 * galsim.degrees)
    assert disagreement(one, galsim.Convolve(profile[kind], trail), jacobian, 512) < 3e-4


# -- real galaxies


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real_galaxies(tmp_path_factory.mktemp("real"), GALAXIES)


def lopsided() -> Any:
    """A galaxy with a companion to the West (x) and a bit North."""
    return galsim.Gaussian(sigma=0.3).shear(g1=0.3) * 0.8 + galsim.Gaussian(sigma=0.15).shift(0.7, 0.3) * 0.2


GALAXIES = [galsim.Exponential(half_light_radius=0.35).shear(g2=0.2), lopsided()]


def real(catalog: Path, row: int, jacobian: np.ndarray, **changes: Any) -> Sources:
    shape = {"real_galaxy_catalog": str(catalog), "real_galaxy": row, **changes}
    return source("RealGalaxy", 127.3, 128.8, jacobian, **shape)


@pytest.mark.parametrize("orientation", list(JACOBIANS))
def test_a_real_galaxy_is_the_galaxy_before_its_own_psf(catalog: Path, orientation: str) -> None:
    jacobian = JACOBIANS[orientation]
    # x of its image is West.
    profile = lopsided().transform(-1, 0, 0, 1)
    assert disagreement(real(catalog, 1, jacobian), profile, jacobian, 256) < 3e-3
    turned = profile.rotate(-40 * galsim.degrees)
    assert disagreement(real(catalog, 1, jacobian, pa=40.0), turned, jacobian, 256) < 3e-3


def test_a_real_galaxy_is_that_of_galsim(catalog: Path) -> None:
    jacobian = JACOBIANS["East to the left"]
    other = galsim.RealGalaxy(galsim.RealGalaxyCatalog(str(catalog)), index=0, flux=1.0).transform(-1, 0, 0, 1)
    assert disagreement(real(catalog, 0, jacobian), other, jacobian, 256) < 3e-4


def test_a_real_galaxy_that_is_not_there_costs_no_other_source(catalog: Path, tmp_path: Path) -> None:
    jacobian = JACOBIANS["East to the left"]
    report, model = draw(real(catalog, 2, jacobian), 256)
    assert report.flags[0] == Flag.PARAMETERS_BAD
    assert "rows 0 to 1" in report.messages[0]
    (tmp_path / "no.fits").write_text("nothing")
    for path in (tmp_path / "no.fits", tmp_path / "absent.fits", catalog.parent / "images.fits"):
        report, model = draw(real(path, 0, jacobian), 256)
        assert report.flags[0] == Flag.STAMP_FILE_BAD
        assert path.name in report.messages[0]
    assert not model.any()


def test_a_catalogue_is_opened_once_and_images_do_not_pile_up(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    actual = galsim.RealGalaxyCatalog
    monkeypatch.setattr(galsim, "RealGalaxyCatalog", lambda path: opened.append(path) or actual(path))
    real_galaxies._read.cache_clear()
    real_galaxies._opened.cache_clear()
    for row in (0, 1, 0, 1):
        real_galaxies.real_galaxy(str(catalog), row)
    assert opened == [str(catalog)]
    table = real_galaxies._opened(catalog, catalog.stat().st_mtime_ns)
    held = [hdu for file in table.loaded_files.values() for hdu in file if "data" in hdu.__dict__ and hdu.size]
    assert table.loaded_files
    assert held == []
