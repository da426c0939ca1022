"""Profiles of any size: against their convolution by quadrature in float64, and what of their flux is left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import gammainc, gammaincinv, gammaln, ive

from skygraft.catalog import Flag
from skygraft.psf import Box, FixedKernelPSF, GaussianPSF, MoffatPSF
from skygraft.render import Canvas, Sources, render

SCALE = 0.2
JACOBIAN = np.array([[-SCALE, 0.0], [0.0, SCALE]])
FWHM = 4.0
SIGMA = FWHM / np.sqrt(8 * np.log(2))


class AsItIs:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def draw(x, y, size, psf, tolerance=1e-3, galaxies="fast", **shape):
    x, y = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    n = len(x)
    sources = Sources(
        np.arange(n), np.full(n, "Sersic"), x, y, np.ones(n), np.repeat(JACOBIAN[None], n, axis=0),
        {name: np.broadcast_to(value, n) for name, value in shape.items()},
    )  # fmt: skip
    canvas = Canvas.empty((size, size), (0, 0))
    box = Box(-0.5, size - 0.5, -0.5, size - 0.5)
    return render(sources, psf, canvas, box, AsItIs(), flux_tolerance=tolerance, galaxies=galaxies), canvas.model


def blurred(n: float, radius: float, r: np.ndarray, end: float = np.inf) -> np.ndarray:
    """A round profile of unit flux, convolved with a Gaussian: the integral over rings up to `end`, in panels.

    A ring of radius s blurs to ``exp(-(r - s)^2 / 2 sigma^2) I0(r s / sigma^2) exp(-r s / sigma^2) s / sigma^2``.
    """
    b = gammaincinv(2 * n, 0.5)
    log_peak = 2 * n * np.log(b) - np.log(2 * np.pi * n) - gammaln(2 * n) - 2 * np.log(radius)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    out = np.zeros(len(r))
    for i, at in enumerate(r):
        low, high = max(0.0, at - 12 * SIGMA), at + 12 * SIGMA
        inner = high * np.concatenate([[0.0], np.geomspace(1e-10, 1.0, 40)])
        edges = np.unique(np.minimum(np.linspace(low, high, 9) if low > 0 else inner, end))
        if len(edges) < 2:
            continue
        s = 0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * np.diff(edges)[:, None] * nodes
        ring = s / SIGMA**2 * np.exp(-0.5 * ((at - s) / SIGMA) ** 2) * ive(0, at * s / SIGMA**2)
        light = np.exp(log_peak - b * (s / radius) ** (1 / n))
        out[i] = (0.5 * np.diff(edges)[:, None] * weights * light * ring).sum()
    return out


@pytest.mark.parametrize(("galaxies", "bound"), [("fast", 3e-4), ("precise", 6e-5)])
@pytest.mark.parametrize("n", [0.5, 0.95, 1.0, 1.05, 1.5, 4.0, 6.0])
@pytest.mark.parametrize("arcsec", [4.0, 10.0, 30.0, 100.0, 400.0])
def test_profiles_of_any_size(n, arcsec, galaxies, bound):
    if n < 1 and arcsec > 30:
        pytest.skip("a transform of thousands of pixels: the same code, for longer than a test should take")
    size, radius = 400, arcsec / SCALE
    psf = FixedKernelPSF(GaussianPSF(fwhm=FWHM, shape=(45, 45)).basis[0])
    _, image = draw(size // 2 + 0.3, size // 2, size, psf, galaxies=galaxies, n=n, half_light_radius=arcsec)
    steps = np.unique(np.concatenate([np.arange(12), np.geomspace(12, size // 2 - 1, 30).astype(int)]))
    found = np.concatenate([image[size // 2, size // 2 + steps], image[size // 2, size // 2 - steps]])
    expected = blurred(n, radius, np.concatenate([[0.0], np.abs(steps - 0.3), steps + 0.3]))
    assert np.abs(found - expected[1:]).max() < bound * expected[0]


@pytest.mark.parametrize("galaxies", ["fast", "precise"])
@pytest.mark.parametrize(
    ("n", "ratio"), [(0.3, 2**0.5), (1.0, 1.5), (1.0, 3.0), (2.0, 2**0.5), (4.0, 1.6), (4.0, 5.0), (6.2, 2.0)]
)
@pytest.mark.parametrize("edge", [39.0, 41.0, 90.0, 300.0])
def test_profiles_that_end_at_any_radius(edge, n, ratio, galaxies):
    size, arcsec = 800, edge * SCALE
    psf = FixedKernelPSF(GaussianPSF(fwhm=FWHM, shape=(45, 45)).basis[0])
    report, image = draw(
        size // 2 + 0.3, size // 2, size, psf, galaxies=galaxies, n=n, half_light_radius=arcsec / ratio, trunc=arcsec
    )
    steps = np.unique(np.concatenate([np.arange(0, 12), np.linspace(edge - 12, edge + 12, 25), [edge / 2]]).astype(int))
    found = np.concatenate([image[size // 2, size // 2 + steps], image[size // 2, size // 2 - steps]])
    offsets = np.concatenate([[0.0], np.abs(steps - 0.3), steps + 0.3])
    # The same light over the same radii, whatever its normalisation.
    b = solve_for_b(n, ratio)
    if b < 1e-3:
        wanted = disk(edge, offsets)
    else:
        radius = edge * (gammaincinv(2 * n, 0.5) / b) ** n
        wanted = blurred(n, radius, offsets, edge) / gammainc(2 * n, b)
    peak, expected = wanted[0], wanted[1:]
    assert np.abs(found - expected).max() < {"fast": 3e-4, "precise": 1.5e-4}[galaxies] * peak
    assert report.flags[0] == 0
    assert report.flux_deposited[0] == pytest.approx(1.0, rel=1e-3)


def solve_for_b(n: float, ratio: float) -> float:
    """Of exp(-b u^(1/n)) up to u = 1, half of whose light is within 1 / ratio; 0 for a flat disk."""
    if ratio == 2**0.5:
        return 0.0
    return float(brentq(lambda b: gammainc(2 * n, b * ratio ** (-1 / n)) - 0.5 * gammainc(2 * n, b), 1e-4, 200.0))


def disk(edge: float, r: np.ndarray) -> np.ndarray:
    """A flat disk of unit flux, convolved with a Gaussian: the integral over rings."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(0.0, edge, 1 + int(edge))
    s = (0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * np.diff(edges)[:, None] * nodes).ravel()
    w = (0.5 * np.diff(edges)[:, None] * weights).ravel()
    ring = s / SIGMA**2 * np.exp(-0.5 * ((r[:, None] - s) / SIGMA) ** 2) * ive(0, r[:, None] * s / SIGMA**2)
    return (ring * w).sum(axis=1) / (np.pi * edge**2)


@pytest.mark.parametrize("galaxies", ["fast", "precise"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-2])
def test_no_more_flux_is_left_out_than_allowed_or_it_is_flagged(tolerance, galaxies):
    psf = FixedKernelPSF(MoffatPSF(4.0, 3.0, shape=(45, 45)).basis[0])
    rng = np.random.default_rng(5)
    count, size = 600, 2600
    shape = {
        "n": rng.uniform(0.3, 6.2, count),
        "half_light_radius": np.exp(rng.uniform(np.log(0.05), np.log(3.0), count)),
        "q": rng.uniform(0.1, 1.0, count),
        "pa": rng.uniform(0, 180, count),
    }
    x, y = (size // 2 + rng.uniform(-0.5, 0.5, count) for _ in range(2))
    report, _ = draw(x, y, size, psf, tolerance, galaxies, **shape)
    left = 1 - report.flux_deposited / psf.basis.sum()
    whole = (report.flags & int(Flag.STAMP_TRUNCATED | Flag.TRUNCATED_BY_EDGE)) == 0
    assert whole.sum() > 450
    assert left[whole].max() <= tolerance
    assert not (report.flags & int(Flag.STAMP_TRUNCATED)).any()


def test_a_stamp_that_leaves_out_more_than_allowed_is_flagged():
    psf = FixedKernelPSF(MoffatPSF(4.0, 3.0, shape=(45, 45)).basis[0])
    report, _ = draw(500, 500, 1001, psf, n=4.0, half_light_radius=2.0, draw_size=151)
    assert 1 - report.flux_deposited[0] / psf.basis.sum() > 1e-3
    assert report.flags[0] & Flag.STAMP_TRUNCATED
