"""Sérsic profiles against direct transforms in float64, closed forms, and GalSim with tight parameters."""

from __future__ import annotations

import dataclasses
import functools

import galsim
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.special import gammaincinv, gammaln, j0

from kits.psf_kit import KINDS, psf_of_kind
from skygraft.catalog.flags import Flag
from skygraft.psf import Box, FixedKernelPSF
from skygraft.render import Canvas, Sources, render
from skygraft.render.radial import MAX_INDEX, MIN_INDEX, WIDTHS, gaussian_fluxes, intensity, radial_tables
from skygraft.render.sersic import metric_of

SCALE = 0.2
JACOBIAN = np.array([[-SCALE, 0.0], [0.0, SCALE]])


# -- the radial tables


def tabulated(n: float, kappa: np.ndarray, first_wide: int = len(WIDTHS)) -> np.ndarray:
    placed = radial_tables().place(np.array([n]), np.array([first_wide]))
    pieces = (placed.pieces[placed.rows[0]].astype(float) * placed.weights[0][:, None, None]).sum(axis=0)
    mantissa, exponent = np.frexp(kappa + 2.0**-20)
    sixteenths = 16 * (2 * mantissa - 1)
    t = sixteenths - np.floor(sixteenths)
    c = pieces[16 * (exponent - 1 + 20) + np.floor(sixteenths).astype(int)]
    return c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))


def hankel(n: float, k: float) -> float:
    """The transform by quadrature: over r for compact profiles, over the exponent's argument for others."""
    if n < 1:
        r = np.linspace(0, 30, 600_001)
        return float(simpson(2 * np.pi * r * intensity(n, r) * j0(k * r), x=r))
    s = np.linspace(0, 90 + 4 * n, 600_001)
    weight = np.exp((2 * n - 1) * np.log(np.maximum(s, 1e-300)) - s - gammaln(2 * n))
    return float(simpson(weight * j0(k * (s / gammaincinv(2 * n, 0.5)) ** n), x=s))


def test_closed_forms():
    kappa = np.concatenate([[0.0], np.geomspace(1e-9, 1e7, 3000)])
    np.testing.assert_allclose(tabulated(0.5, kappa), np.exp(-kappa / (4 * np.log(2))), rtol=0, atol=1.2e-7)
    b = gammaincinv(2.0, 0.5)
    np.testing.assert_allclose(tabulated(1.0, kappa), (1 + kappa / b**2) ** -1.5, rtol=0, atol=1.2e-7)


@settings(max_examples=25, deadline=None)
@given(st.floats(MIN_INDEX, MAX_INDEX), st.floats(-3, 0.8))
def test_any_index_at_any_wavenumber(n, log_k):
    k = 10**log_k
    assert tabulated(n, np.array([k * k]))[0] == pytest.approx(hankel(n, k), rel=0, abs=2e-7)


@pytest.mark.parametrize("n", [0.8, 1.0, 2.7, 4.0, 6.1])
def test_the_gaussians_taken_out_are_those_that_are_told(n):
    first = 6
    kappa = np.geomspace(1e-5, 1e3, 500)
    fluxes = gaussian_fluxes(np.array([n]))[0]
    fluxes[:first] = 0.0
    gaussians = (fluxes * np.exp(-0.5 * kappa[:, None] * WIDTHS**2)).sum(axis=1)
    np.testing.assert_allclose(tabulated(n, kappa, first) + gaussians, tabulated(n, kappa), rtol=0, atol=5e-7)
    # And they are nearly all there is far out, or else the transform would not get more compact.
    r = np.array([2.0, 4.0])
    density = (fluxes / (2 * np.pi * WIDTHS**2) * np.exp(-0.5 * (r[:, None] / WIDTHS) ** 2)).sum(axis=1)
    np.testing.assert_allclose(density, intensity(n, r), rtol=0.05, atol=1e-3 * intensity(n, np.zeros(1))[0])


# -- whole images


@functools.cache
def moffat(fwhm: float, g1: float = 0.0, size: int = 45) -> np.ndarray:
    profile = galsim.Moffat(beta=3.0, fwhm=fwhm).shear(g1=g1)
    kernel = galsim.Convolve(profile, galsim.Pixel(1.0)).drawImage(nx=size, ny=size, scale=1.0, method="no_pixel").array
    return np.asarray(kernel, dtype=float)


def source(
    kind: str = "Sersic", *, x: float, y: float, flux: float = 1000.0, n_copies: int = 1, **shape: float
) -> Sources:
    columns = {name: np.full(n_copies, value) for name, value in shape.items()}
    return Sources(
        injection_id=np.arange(n_copies),
        source_type=np.full(n_copies, kind),
        x=np.full(n_copies, x),
        y=np.full(n_copies, y),
        flux=np.full(n_copies, flux),
        jacobian=np.repeat(JACOBIAN[None], n_copies, axis=0),
        shape=columns,
    )


class AsItIs:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def draw(sources: Sources, kernel: np.ndarray, size: int = 512, x0: int = 0, **options):
    canvas = Canvas.empty((size, size), (x0, x0))
    box = Box(x0 - 0.5, x0 + size - 0.5, x0 - 0.5, x0 + size - 0.5)

    return render(sources, FixedKernelPSF(kernel), canvas, box, AsItIs(), **options), canvas


def direct(sources: Sources, kernel: np.ndarray, size: int) -> np.ndarray:
    """Every source's transform times that of the kernel on one large grid, in float64; transforms by GalSim."""
    params = galsim.GSParams(kvalue_accuracy=1e-7, maximum_fft_size=1 << 15, integration_relerr=1e-8)
    # The transform of a real image is known from half a plane.
    half = galsim.BoundsI(0, size // 2, -size // 2, size // 2 - 1)
    ky, kx = 2 * np.pi * np.fft.fftfreq(size)[:, None], 2 * np.pi * np.fft.rfftfreq(size)
    box = np.zeros((size, size))
    box[: kernel.shape[0], : kernel.shape[1]] = kernel
    middle = kernel.shape[0] // 2
    whole = np.zeros((size, size // 2 + 1), dtype=complex)
    for i in range(len(sources)):
        profile = galsim.Sersic(
            sources.value("n", i, 1.0), half_light_radius=sources.value("half_light_radius", i, 1.0), gsparams=params
        )
        profile = profile.shear(q=sources.value("q", i, 1.0), beta=(90 - sources.value("pa", i, 0.0)) * galsim.degrees)
        pixels = galsim.JacobianWCS(*JACOBIAN.ravel()).profileToImage(profile)
        image = galsim.ImageCD(half)
        pixels.drawKImage(image=image, scale=2 * np.pi / size, recenter=False)
        moved = np.exp(-1j * ky * (sources.y[i] - middle)) * np.exp(-1j * kx * (sources.x[i] - middle))
        whole += sources.flux[i] * np.fft.ifftshift(image.array, axes=0) * moved
    return scipy.fft.irfft2(scipy.fft.rfft2(box) * whole, (size, size), overwrite_x=True)


def worst(sources: Sources, kernel: np.ndarray, size: int, **options) -> float:
    """Largest error over the pixels that were drawn on, in units of the peak."""
    _, canvas = draw(sources, kernel, size, **options)
    return error_of(sources, kernel, canvas.model, 256 if options.get("galaxies") == "precise" else 128)


def error_of(sources: Sources, kernel: np.ndarray, model: np.ndarray, least: int = 128) -> float:
    """The same of an image with the sources in its middle.

    The grid of the transforms is twice as wide as what was drawn, so that what is folded in is faint, and reaches at
    least `least` pixels from the middle: a kernel between pixels rings.
    """
    size = len(model)
    wide = max(max(abs(places.min() - size // 2), abs(places.max() - size // 2)) for places in np.nonzero(model))
    half = min(size // 2, max(least, 1 << int(np.ceil(np.log2(2 * wide)))))
    cut = size // 2 - half
    near = dataclasses.replace(sources, x=sources.x - cut, y=sources.y - cut)
    expected = direct(near, kernel, 2 * half)
    drawn = model[cut : cut + 2 * half, cut : cut + 2 * half]
    return float(np.abs(drawn - expected)[drawn != 0].max() / expected.max())


@pytest.mark.parametrize("fwhm", [2.6, 3.0, 4.0])
@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
@pytest.mark.parametrize(("radius", "q"), [(0.05, 0.9), (0.35, 1.0), (0.4, 0.3), (1.5, 0.8), (2.0, 0.1)])
def test_one_profile_is_that_of_a_direct_transform(n, radius, q, fwhm):
    one = source(x=511.3, y=512.81, n=n, half_light_radius=radius, q=q, pa=33.0)
    # A kernel of 2.6 pixels rings when it is moved by part of a pixel, and rings on at the edge of its box.
    assert worst(one, moffat(fwhm), 1024) < (4e-4 if fwhm < 3 else 3e-4)


@pytest.mark.parametrize(("galaxies", "bound"), [("fast", 3e-4), ("precise", 5e-5)])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(50, 450),
    st.floats(0.05, 2.0),
    st.floats(0.1, 1.0),
    st.floats(0, 180),
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    st.floats(-0.2, 0.2),
)
def test_any_profile_is_that_of_a_direct_transform(galaxies, bound, n, radius, q, pa, where, ellipticity):
    one = source(x=512 + where[0], y=512 + where[1], n=n / 100, half_light_radius=radius, q=q, pa=pa)
    assert worst(one, moffat(3.5, ellipticity), 1024, galaxies=galaxies) < bound


@pytest.mark.parametrize("n", [0.35, 0.5, 0.6, 0.8, 0.9, 1.0])
@pytest.mark.parametrize(
    ("galaxies", "bound", "radius", "q"),
    [("fast", 3e-4, 1.5, 0.125), ("fast", 3e-4, 5.0, 0.9), ("precise", 5e-5, 1.5, 0.125)],
)
def test_little_flux_beyond_the_stamp_is_not_folded_back_into_it(n, galaxies, bound, radius, q):
    one = source(x=512.2, y=512.4, n=n, half_light_radius=radius, q=q, pa=10.0)
    assert worst(one, moffat(3.5), 1024, galaxies=galaxies) < bound


@pytest.mark.parametrize("where", [(0.0, 0.5), (0.5, 0.5), (0.5, 0.0)])
def test_a_kernel_that_rings_has_room_to_do_so(where):
    one = source(x=512 + where[0], y=512 + where[1], n=0.5, half_light_radius=0.06)
    for ellipticity in (-0.2, 0.0, 0.2):
        assert worst(one, moffat(3.5, ellipticity), 1024, galaxies="precise") < 4e-5


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(st.floats(450, 570), st.floats(450, 570), st.sampled_from([0.8, 1.0, 2.5, 4.0]), st.floats(0.1, 1.2))
def test_every_kind_of_psf_at_its_own_place(kind, x, y, n, radius):
    psf = psf_of_kind(kind, moffat(3.5))
    one = source(x=x, y=y, n=n, half_light_radius=radius, q=0.6, pa=40.0)
    canvas = Canvas.empty((1024, 1024), (0, 0))
    render(one, psf, canvas, Box(-0.5, 1023.5, -0.5, 1023.5), AsItIs())
    assert error_of(one, psf.kernels([x], [y])[0], canvas.model) < 3e-4


def test_bulge_and_disk_are_two_profiles():
    both = source(
        "BulgeDisk",
        x=250.2,
        y=260.7,
        bulge_fraction=0.3,
        **{"bulge_half_light_radius": 0.4, "bulge_q": 0.8, "bulge_pa": 10.0},
        **{"disk_half_light_radius": 0.9, "disk_q": 0.4, "disk_pa": 70.0},
    )
    report, canvas = draw(both, moffat(3.5))
    bulge = source(x=250.2, y=260.7, flux=300.0, n=4.0, half_light_radius=0.4, q=0.8, pa=10.0)
    disk = source(x=250.2, y=260.7, flux=700.0, n=1.0, half_light_radius=0.9, q=0.4, pa=70.0)
    expected = direct(bulge, moffat(3.5), 512) + direct(disk, moffat(3.5), 512)
    drawn = canvas.model != 0
    assert np.abs(canvas.model - expected)[drawn].max() < 2e-4 * expected.max()
    assert report.flux_deposited[0] == pytest.approx(canvas.model.sum(dtype=float), rel=1e-6)


def test_a_gaussian_is_the_profile_of_index_one_half():
    gaussian = source("Gaussian", x=250.2, y=260.7, half_light_radius=0.6, q=0.5, pa=20.0)
    same = source(x=250.2, y=260.7, n=0.5, half_light_radius=0.6, q=0.5, pa=20.0)
    np.testing.assert_array_equal(draw(gaussian, moffat(3.5))[1].model, draw(same, moffat(3.5))[1].model)


@pytest.mark.parametrize(("n", "radius"), [(1.0, 0.4), (4.0, 0.6), (4.0, 0.1), (2.0, 2.0)])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_no_more_flux_is_left_out_than_allowed(n, radius, tolerance):
    one = source(x=1024.3, y=1023.8, n=n, half_light_radius=radius)
    kernel = moffat(3.5)
    report, canvas = draw(one, kernel, 2048, flux_tolerance=tolerance)
    left = 1 - report.flux_deposited[0] / (1000.0 * kernel.sum())
    assert -1e-6 < left <= tolerance
    assert report.flux_deposited[0] == pytest.approx(canvas.model.sum(dtype=float), rel=1e-5)


def test_off_the_edge_nothing_else_changes():
    one = source(x=130.4, y=141.7, n=4.0, half_light_radius=0.7, q=0.6, pa=20.0)
    whole, canvas = draw(one, moffat(3.5), 512, x0=-100)
    cut, corner = draw(one, moffat(3.5), 150, x0=0)
    np.testing.assert_array_equal(corner.model, canvas.model[100:250, 100:250])
    assert cut.flags[0] & Flag.TRUNCATED_BY_EDGE
    assert not whole.flags[0] & Flag.TRUNCATED_BY_EDGE
    assert cut.flux_deposited[0] == pytest.approx(corner.model.sum(dtype=float), rel=1e-5)
    assert cut.flux_deposited[0] < whole.flux_deposited[0]


def test_a_pixel_does_not_know_of_sources_that_do_not_touch_it():
    rng = np.random.default_rng(5)
    count = 150
    many = Sources(
        injection_id=np.arange(count),
        source_type=np.full(count, "Sersic"),
        x=np.r_[rng.uniform(700, 900, count - 3), 120.2, 131.9, 118.0],
        y=np.r_[rng.uniform(700, 900, count - 3), 110.2, 121.9, 130.0],
        flux=rng.uniform(10, 1000, count),
        jacobian=np.repeat(JACOBIAN[None], count, axis=0),
        shape={"n": rng.uniform(0.5, 2.0, count), "half_light_radius": rng.uniform(0.1, 1.0, count)},
    )
    few = Sources(
        **{name: getattr(many, name)[-3:] for name in ("injection_id", "source_type", "x", "y", "flux", "jacobian")},
        shape={name: values[-3:] for name, values in many.shape.items()},
    )
    _, crowded = draw(many, moffat(3.5), 1024)
    _, alone = draw(few, moffat(3.5), 1024)
    np.testing.assert_array_equal(crowded.model[:300, :300], alone.model[:300, :300])
    assert crowded.model[:300, :300].any()


def test_a_stamp_that_is_cut_says_so():
    one = source(x=250.0, y=250.0, n=4.0, half_light_radius=0.7, draw_size=41)
    report, canvas = draw(one, moffat(3.5))
    assert report.flags[0] & Flag.STAMP_TRUNCATED
    assert report.stamp_size[0] == 41
    rows, columns = np.nonzero(canvas.model)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (41, 41)
    assert report.flux_deposited[0] == pytest.approx(canvas.model.sum(dtype=float), rel=1e-6)


@pytest.mark.parametrize("shape", [{"trunc": 0.9, "n": 1.0}, {"n": 0.3 - 1e-9}])
def test_what_there_are_no_tables_for_is_drawn_by_galsim(shape):
    one = source(x=250.3, y=250.1, half_light_radius=0.7, **shape)
    (report, canvas), (expected, by_galsim) = draw(one, moffat(3.5)), draw(one, moffat(3.5), galaxies="galsim")
    np.testing.assert_array_equal(canvas.model, by_galsim.model)
    assert report.messages == expected.messages


def test_a_profile_without_a_size_is_named():
    report, canvas = draw(source(x=250.0, y=250.0, n=1.0), moffat(3.5))
    assert "half_light_radius" in report.messages[0]
    assert not canvas.model.any()


def test_position_angle_is_from_north_through_east():
    east = np.array([-SCALE, 0.0])  # x grows towards West
    metric = metric_of(JACOBIAN[None], np.array([1.0]), np.array([0.25]), np.array([90.0]))[0]
    along = np.array([1.0 / np.hypot(*east), 0.0])
    across = along[::-1]
    radius = [np.sqrt(metric[0] * x * x + 2 * metric[1] * x * y + metric[2] * y * y) for x, y in (along, across)]
    # One arcsec from the centre: half-light radii of 2 and 0.5 arcsec along and across.
    assert radius == pytest.approx([0.5, 2.0])
