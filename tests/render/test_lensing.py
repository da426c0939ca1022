"""Shear and magnification of every type against GalSim's ``lens`` of its profile, in double precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import galsim
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kits.direct_drawing import TIGHT, draw_directly, on_sky
from kits.real_galaxy_catalog import write_real_galaxies
from skygraft.psf import Box, FixedKernelPSF
from skygraft.render import Canvas, Sources, reach_pixels, render
from skygraft.render.knots import knot_offsets
from skygraft.render.lensing import lensed, lensed_ellipse, lensing_matrices, matrices_in_pixels

FLUX = 500.0
LENS = {"shear": 0.35, "shear_pa": 110.0, "magnification": 2.5}
JACOBIANS = {
    "East to the left": np.array([[-0.2, 0.0], [0.0, 0.2]]),
    "rotated": 0.2 * np.array([[-0.8, -0.6], [-0.6, 0.8]]) @ np.array([[1.0, 0.05], [0.0, 1.1]]),
    "mirrored": 0.2 * np.array([[0.6, -0.8], [0.8, 0.6]]),
}
KERNEL = np.asarray(
    galsim.Convolve(galsim.Moffat(beta=3.0, fwhm=3.2), galsim.Pixel(1.0))
    .drawImage(nx=41, ny=41, scale=1.0, method="no_pixel")
    .array,
    dtype=float,
)


class AsItIs:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def source(kind: str, jacobian: np.ndarray, **shape: Any) -> Sources:
    columns = {name: np.array([value]) for name, value in shape.items()}
    place = (np.array([7]), np.array([kind]), np.array([255.3]), np.array([257.8]), np.array([FLUX]), jacobian[None])
    return Sources(*place, shape=columns)


def draw(one: Sources, size: int = 512, **options: Any) -> tuple[Any, np.ndarray]:
    canvas = Canvas.empty((size, size), (0, 0))
    box = Box(-0.5, size - 0.5, -0.5, size - 0.5)
    return render(one, FixedKernelPSF(KERNEL), canvas, box, AsItIs(), **options), canvas.model


def by_galsim(profile: Any, shear: float, shear_pa: float, magnification: float) -> Any:
    """Lens a profile in arcsec (East, North); its flux stays."""
    twice = np.radians(2 * (90.0 - shear_pa))
    return profile.lens(shear * np.cos(twice), shear * np.sin(twice), magnification).withFlux(profile.flux)


SHAPE = {"half_light_radius": 0.5, "q": 0.7, "pa": 25.0}
TYPES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "Sersic": (
        "Sersic", SHAPE | {"n": 1.4},
        on_sky(galsim.Sersic(1.4, half_light_radius=0.5, gsparams=TIGHT), 0.7, 25),
    ),
    "Sersic that ends": (
        "Sersic", SHAPE | {"n": 1.4, "trunc": 1.5},
        on_sky(galsim.Sersic(1.4, half_light_radius=0.5, trunc=1.5, gsparams=TIGHT), 0.7, 25),
    ),
    "Gaussian": ("Gaussian", SHAPE, on_sky(galsim.Gaussian(half_light_radius=0.5), 0.7, 25)),
    "Moffat": ("Moffat", SHAPE | {"moffat_beta": 5.0}, on_sky(galsim.Moffat(5.0, half_light_radius=0.5), 0.7, 25)),
    "BulgeDisk": (
        "BulgeDisk",
        {
            "bulge_fraction": 0.4, "bulge_n": 2.0, "bulge_half_light_radius": 0.25, "bulge_q": 0.9, "bulge_pa": 80.0,
            "disk_half_light_radius": 0.6, "disk_q": 0.5, "disk_pa": 10.0,
        },
        0.4 * on_sky(galsim.Sersic(2.0, half_light_radius=0.25, gsparams=TIGHT), 0.9, 80)
        + 0.6 * on_sky(galsim.Exponential(half_light_radius=0.6, gsparams=TIGHT), 0.5, 10),
    ),
    "Spergel": ("Spergel", SHAPE | {"spergel_nu": 0.2}, on_sky(galsim.Spergel(0.2, half_light_radius=0.5), 0.7, 25)),
    "InclinedExponential": (
        "InclinedExponential", {"half_light_radius": 0.6, "pa": 25.0, "inclination": 60.0},
        galsim.InclinedExponential(60 * galsim.degrees, half_light_radius=0.6, gsparams=TIGHT)
        .rotate(65 * galsim.degrees),
    ),
}  # fmt: skip


@pytest.mark.parametrize("orientation", list(JACOBIANS))
@pytest.mark.parametrize("name", list(TYPES))
def test_each_type_is_lensed_as_galsim_lenses_it(name: str, orientation: str) -> None:
    kind, shape, profile = TYPES[name]
    jacobian = JACOBIANS[orientation]
    report, model = draw(lensed(source(kind, jacobian, **shape, **LENS)))
    wanted = FLUX * draw_directly(by_galsim(profile, **LENS), jacobian, 255.3, 257.8, KERNEL, 512)
    assert np.abs(model - wanted)[model != 0].max() < 3e-4 * wanted.max()
    assert report.flags[0] == 0
    assert report.flux_deposited[0] == pytest.approx(FLUX * KERNEL.sum(), rel=1.1e-3)
    # And it is the lens that makes the difference.
    plain = FLUX * draw_directly(profile, jacobian, 255.3, 257.8, KERNEL, 512)
    assert np.abs(model - plain).max() > 0.1 * wanted.max()


@pytest.mark.parametrize("galaxies", ["fast", "galsim"])
def test_knots_are_lensed_and_stars_are_not(galaxies: str) -> None:
    jacobian = JACOBIANS["rotated"]
    shape = SHAPE | {"n_knots": 5}
    one = source("RandomKnots", jacobian, **shape, **LENS)
    sky = knot_offsets(one, 0) @ jacobian.T
    profile = galsim.Add([galsim.DeltaFunction(0.2).shift(*place) for place in sky.tolist()])
    _, model = draw(lensed(one), galaxies=galaxies)
    wanted = FLUX * draw_directly(by_galsim(profile, **LENS), jacobian, 255.3, 257.8, KERNEL, 512)
    # The oracle's points ring: their transform ends at the grid's Nyquist frequency, where the kernel's is not zero.
    assert np.abs(model - wanted).max() < 1e-3 * wanted.max()
    for kind in ("Star", "Trail"):
        point = source(kind, jacobian, trail_length=2.0, trail_pa=40.0, **LENS)
        after = lensed(point)
        np.testing.assert_array_equal(after.jacobian, point.jacobian)
        assert after.shape["trail_length"][0] == 2.0


def test_real_galaxies_are_lensed(tmp_path) -> None:
    jacobian = JACOBIANS["mirrored"]
    profile = galsim.Exponential(half_light_radius=0.3, gsparams=TIGHT).shear(g1=0.2)
    path = write_real_galaxies(tmp_path, [profile])
    one = lensed(source("RealGalaxy", jacobian, real_galaxy_catalog=str(path), real_galaxy=0, **LENS))
    _, model = draw(one)
    wanted = FLUX * draw_directly(by_galsim(profile, **LENS), jacobian, 255.3, 257.8, KERNEL, 512)
    assert np.abs(model - wanted)[model != 0].max() < 5e-3 * wanted.max()


@pytest.mark.parametrize("orientation", list(JACOBIANS))
def test_lensing_leaves_the_trail_alone(orientation: str) -> None:
    """A trail is motion on the sky of the image."""
    jacobian = JACOBIANS[orientation]
    one = source("Sersic", jacobian, n=1.0, trail_length=3.0, trail_pa=70.0, **SHAPE, **LENS)
    _, model = draw(lensed(one))
    galaxy = by_galsim(on_sky(galsim.Exponential(half_light_radius=0.5, gsparams=TIGHT), 0.7, 25), **LENS)
    moving = galsim.Convolve(galaxy, galsim.Box(3.0, 1e-4).rotate(20 * galsim.degrees))
    wanted = FLUX * draw_directly(moving, jacobian, 255.3, 257.8, KERNEL, 512)
    assert np.abs(model - wanted)[model != 0].max() < 3e-4 * wanted.max()


def test_magnification_conserves_surface_brightness() -> None:
    """The flux grows as the area, so that what is much larger than the PSF is as bright as before."""
    jacobian = JACOBIANS["East to the left"]
    one = source("Gaussian", jacobian, half_light_radius=4.0, q=0.8, pa=10.0, **LENS)
    bright = dataclasses.replace(lensed(one), flux=one.flux * LENS["magnification"])
    before, after = draw(one)[1], draw(bright)[1]
    # The PSF makes the smaller one fainter by the hundredth part.
    assert after.max() == pytest.approx(before.max(), rel=1.2e-2)
    assert after.sum() == pytest.approx(2.5 * before.sum(), rel=3e-3)


def test_second_moments_are_those_of_the_lens() -> None:
    """Q = A Q A' for the sky, measured on pixels, apart from the PSF's own."""
    jacobian = JACOBIANS["rotated"]
    one = source("Gaussian", jacobian, half_light_radius=1.0, q=0.6, pa=35.0, **LENS)

    def moments(sources: Sources) -> np.ndarray:
        model = draw(sources, flux_tolerance=1e-6)[1].astype(float)
        y, x = np.mgrid[: model.shape[0], : model.shape[1]] - np.array([257.8, 255.3])[:, None, None]
        pixels = np.array([[(model * a * b).sum() for a in (x, y)] for b in (x, y)]) / model.sum()
        return jacobian @ pixels @ jacobian.T

    star = dataclasses.replace(one, source_type=np.array(["Star"]))
    of_psf = moments(star)
    a = lensing_matrices(**{name: [value] for name, value in LENS.items()})[0]
    wanted = a @ (moments(one) - of_psf) @ a.T
    np.testing.assert_allclose(moments(lensed(one)) - of_psf, wanted, rtol=0, atol=2e-3 * wanted.max())


angles, ratios = st.floats(0.0, 179.0), st.floats(0.05, 1.0)


@given(st.floats(0.0, 0.9), angles, st.floats(0.1, 30.0), ratios, angles)
def test_ellipses_are_sheared_as_galsim_shears_them(shear, shear_pa, magnification, q, pa):
    radius, ratio, angle = lensed_ellipse(2.0, q, pa, shear, shear_pa, magnification)
    first = galsim.Shear(q=q, beta=(90 - pa) * galsim.degrees)
    after = galsim.Shear(g=shear, beta=(90 - shear_pa) * galsim.degrees) + first
    assert radius == pytest.approx(2.0 * np.sqrt(magnification))
    assert ratio == pytest.approx(after.q, abs=1e-9)
    if after.q < 0.999:
        turn = (angle - (90 - after.beta.deg)) % 180
        assert min(turn, 180 - turn) == pytest.approx(0.0, abs=1e-5)
    assert 0 <= angle < 180


@given(st.floats(0.0, 0.95), st.floats(-400, 400), st.floats(0.1, 30.0))
def test_the_matrix_is_galsims(shear, shear_pa, magnification):
    a = lensing_matrices([shear], [shear_pa], [magnification])[0]
    wanted = galsim.Shear(g=shear, beta=(90 - shear_pa) * galsim.degrees).getMatrix() * np.sqrt(magnification)
    np.testing.assert_allclose(a, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
    assert np.linalg.det(a) == pytest.approx(magnification)


def test_shear_along_north_stretches_north() -> None:
    a = lensing_matrices([0.5], [0.0], [1.0])[0]
    np.testing.assert_allclose(a @ [0.0, 1.0], [0.0, np.sqrt(3.0)])
    np.testing.assert_allclose(a @ [1.0, 0.0], [1 / np.sqrt(3.0), 0.0])


@pytest.mark.parametrize("orientation", list(JACOBIANS))
def test_what_is_given_in_pixels_is_lensed_on_the_sky(orientation: str) -> None:
    jacobian = JACOBIANS[orientation]
    rows, matrices = matrices_in_pixels(lensed(source("Stamp", jacobian, **LENS)))
    a = lensing_matrices(**{name: [value] for name, value in LENS.items()})[0]
    np.testing.assert_allclose(matrices[0], np.linalg.inv(jacobian) @ a @ jacobian, rtol=1e-12)
    assert rows.tolist() == [0]


def test_sources_without_lensing_are_as_they_were() -> None:
    jacobian = JACOBIANS["rotated"]
    for shape in (
        {},
        {"shear": 0.0, "magnification": 1.0, "shear_pa": 20.0},
        {"shear": np.nan, "magnification": np.nan},
    ):
        one = source("Sersic", jacobian, n=1.0, **SHAPE, **shape)
        assert lensed(one) is one


@pytest.mark.parametrize("bad", [{"shear": 1.0}, {"shear": -0.1}, {"magnification": 0.0}, {"magnification": -2.0}])
def test_impossible_lenses_are_none(bad: dict[str, float]) -> None:
    """Such rows are flagged when a catalogue is read, and have a place on the image all the same."""
    one = source("Sersic", JACOBIANS["rotated"], n=1.0, **SHAPE, **(LENS | bad))
    assert lensed(one) is one


def test_lensed_sources_reach_as_far_as_their_light() -> None:
    one = source("Sersic", JACOBIANS["East to the left"], n=1.0, half_light_radius=0.5, **LENS)
    grown = 2.5 * (1 + 0.35) / (1 - 0.35)
    assert reach_pixels(lensed(one), 0, 1e-3) == pytest.approx(reach_pixels(one, 0, 1e-3) * np.sqrt(grown), rel=1e-9)
