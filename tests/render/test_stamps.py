"""Stamps against formulas: Gaussians on the sky, an L that no mirror image passes for; and GalSim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kits.stamp_kit import L_SHAPE, Blobs, OneScale, gaussian_psf, sources_of, turned, wcs_header
from skygraft.catalog.flags import Flag
from skygraft.psf import PSF, Box, MoffatPSF
from skygraft.render import Canvas, RenderReport, Sources, render
from skygraft.render.stamp_files import read_stamp
from skygraft.render.stamp_grids import fine_pixels

SHAPE = (150, 160)
PSF_SIGMA = 1.7
FLUX = 1000.0


def draw(
    sources: Sources, psf: PSF | None = None, shape: tuple[int, int] = SHAPE, **settings: Any
) -> tuple[NDArray[np.float64], RenderReport]:
    canvas = Canvas.empty(shape, (0, 0))
    report = render(sources, psf, canvas, Box(-0.5, shape[1] - 0.5, -0.5, shape[0] - 0.5), OneScale(), **settings)
    return canvas.model.astype(np.float64), report


def check(
    drawn: NDArray[np.float64], report: RenderReport, exact: NDArray[np.float64], *, most: float, flux: float = FLUX
) -> None:
    """Largest error over the peak; flux; centroid."""
    assert not report.messages
    assert np.abs(drawn - exact).max() / exact.max() < most
    assert report.flux_deposited[0] == pytest.approx(flux, rel=1e-5)
    assert drawn.sum() == pytest.approx(flux, rel=1e-5)
    y, x = np.mgrid[: drawn.shape[0], : drawn.shape[1]]
    for axis in (x, y):
        centre, wanted = ((axis * image).sum() / image.sum() for image in (drawn, exact))
        assert centre == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "own", [turned(0.2, 0.0), turned(0.15, 130.0), turned(0.24, -35.0, mirrored=True, squeezed=1.1)]
)
@pytest.mark.parametrize("convolved", [False, True])
def test_scale_rotation_and_parity_of_the_stamps_own_wcs(
    tmp_path: Path, own: NDArray[np.float64], mirrored: bool, convolved: bool
) -> None:
    blobs, image = Blobs(), turned(0.2, 20.0, mirrored=mirrored)
    path = blobs.write(tmp_path / "l.fits", own, (81, 80))
    at = 70.3, 75.8
    sources = sources_of(image, *([v] for v in at), FLUX, stamp=path, stamp_psf="image" if convolved else "none")
    drawn, report = draw(sources, gaussian_psf(PSF_SIGMA) if convolved else None)
    exact = FLUX / blobs.total * blobs.on(image, SHAPE, at, psf_variance=PSF_SIGMA**2 if convolved else 0.0)
    check(drawn, report, exact, most=3e-4)


@pytest.mark.parametrize("convolved", [False, True])
def test_pixels_much_finer_than_the_images_lose_no_flux(tmp_path: Path, convolved: bool) -> None:
    """As stamps of HST are on the ground; those that are not convolved hold a PSF already."""
    blobs, image, own = Blobs(sigma=0.35), turned(0.2, 10.0), turned(0.05, 77.0)
    path = blobs.write(tmp_path / "fine.fits", own, (200, 190))
    sources = sources_of(image, [70.3], [75.8], FLUX, stamp=path, stamp_psf="image" if convolved else "none")
    drawn, report = draw(sources, gaussian_psf(PSF_SIGMA) if convolved else None)
    exact = FLUX / blobs.total * blobs.on(image, SHAPE, (70.3, 75.8), psf_variance=PSF_SIGMA**2 * convolved)
    check(drawn, report, exact, most=3e-4)


def test_a_point_on_fine_pixels_keeps_its_flux(tmp_path: Path) -> None:
    """No band limit to help: what the image cannot hold is left out, and flux is kept."""
    path, pixels = tmp_path / "point.fits", np.zeros((61, 61))
    pixels[30, 30] = 1.0
    fits.writeto(path, pixels, wcs_header(turned(0.05, 0.0), (61, 61)))
    sources = sources_of(turned(0.2, 0.0), [70.3], [75.8], FLUX, stamp=str(path), stamp_psf="none")
    drawn, _ = draw(sources)
    assert drawn.sum() == pytest.approx(FLUX, rel=1e-5)


@pytest.mark.parametrize("fwhm", [2.35, 3.0, 4.0])
def test_what_interpolation_misses_of_a_stamp_that_is_hardly_sampled(tmp_path: Path, fwhm: float) -> None:
    """Of FWHM 2.35 pixels, the standard deviation is one pixel, and little light is beyond the Nyquist frequency."""
    blobs = Blobs(((0.0, 0.0, 1.0),), sigma=0.2 * fwhm / 2.3548)
    path = blobs.write(tmp_path / "s.fits", turned(0.2, 0.0), (41, 41))
    image = turned(0.17, 33.0)
    drawn, _ = draw(sources_of(image, [70.3], [75.8], FLUX, stamp=path, stamp_psf="none"))
    exact = FLUX * blobs.on(image, SHAPE, (70.3, 75.8))
    error = np.abs(drawn - exact).max() / exact.max()
    assert error < {2.35: 2.5e-3, 3.0: 1.5e-4, 4.0: 1e-5}[fwhm]
    assert drawn.sum() == pytest.approx(FLUX, rel=1e-5)


def band_limited(pixels: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of sincs through the pixels of a stamp at places (u, v), without end."""
    ny, nx = pixels.shape
    along_y, along_x = np.sinc(v[..., None] - np.arange(ny)), np.sinc(u[..., None] - np.arange(nx))
    return np.einsum("...j,ji,...i->...", along_y, pixels, along_x)


def test_light_between_pixels_is_the_sum_of_sincs_through_them(tmp_path: Path) -> None:
    """Of a stamp with light at nearly all frequencies, that ends softly in space."""
    rng, n = np.random.default_rng(5), 48
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    pixels = rng.normal(1.0, 1.0, (n, n)) * np.exp(-(x**2 + y**2) / (2 * 5.0**2))
    for axis in (0, 1):  # at the Nyquist frequency itself sincs do not end
        pixels = 0.25 * np.roll(pixels, -1, axis) + 0.5 * pixels + 0.25 * np.roll(pixels, 1, axis)
    path = tmp_path / "noise.fits"
    fits.writeto(path, pixels)
    angle, at, shape = np.radians(28.0), (40.37, 39.81), (80, 82)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    image = turned(0.2, 0.0)
    # Turned on the sky from North to East, which is to the left in this image.
    sources = sources_of(
        image, [at[0]], [at[1]], 1.0, stamp=str(path), stamp_psf="none", stamp_rotation=28.0, stamp_alignment="pixel"
    )
    drawn, _ = draw(sources, shape=shape)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    back = np.linalg.inv(turn)
    u, v = (back[k, 0] * (xx - at[0]) + back[k, 1] * (yy - at[1]) + (n - 1) / 2 for k in (0, 1))
    inside = (abs(u - 23.5) < 24) & (abs(v - 23.5) < 24)
    exact = band_limited(pixels, u, v) / pixels.sum()
    assert np.abs(drawn - exact)[inside].max() / np.abs(exact).max() < 5e-5


@pytest.mark.parametrize("alignment", ["wcs", "pixel"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_stamps_are_turned_and_lensed_on_the_sky(tmp_path: Path, alignment: str, mirrored: bool) -> None:
    """Both are matrices in (East, North), the turn first."""
    blobs, at = Blobs(), (72.2, 70.9)
    image = turned(0.2, 15.0, mirrored=mirrored)
    own = image if alignment == "pixel" else turned(0.18, -50.0)
    # A stamp without a WCS, on the axes of the image.
    path = blobs.write(tmp_path / "l.fits", own, (80, 81))
    rotation, shear, shear_pa, magnification = 40.0, 0.12, 25.0, 1.3
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    turn = np.array([[c, s], [-s, c]])  # takes North (0, 1) to (sin, cos)
    along = np.array([np.sin(np.radians(shear_pa)), np.cos(np.radians(shear_pa))])
    lens = np.eye(2) + shear * (2 * np.outer(along, along) - np.eye(2))
    lens *= np.sqrt(magnification / (1 - shear**2))
    columns = {"shear": shear, "shear_pa": shear_pa, "magnification": magnification, "stamp_rotation": rotation}
    # Sources that are lensed have the Jacobian from pixels to the sky before lensing.
    sources = sources_of(
        np.linalg.inv(lens) @ image, [at[0]], [at[1]], FLUX, stamp=path, stamp_alignment=alignment, stamp_psf="none",
        **columns,
    )  # fmt: skip
    drawn, report = draw(sources)
    check(drawn, report, FLUX / blobs.total * blobs.on(image, SHAPE, at, turn=lens @ turn), most=3e-4)


def test_one_arm_of_the_l_points_north_and_the_short_one_east(tmp_path: Path) -> None:
    """In an image with North up and East to the left."""
    path = Blobs().write(tmp_path / "l.fits", turned(0.2, 70.0, mirrored=True), (80, 80))
    drawn, _ = draw(sources_of(turned(0.2, 0.0), [70.0], [70.0], FLUX, stamp=path, stamp_psf="none"))
    row, column = 70 + round(3.4 / 0.2), 70 - round(1.6 / 0.2)
    assert drawn[row, 70] > 100 * drawn[140 - row, 70]
    assert drawn[70, column] > 100 * drawn[70, 140 - column]


def test_a_stamp_on_the_images_own_pixels_is_added_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).normal(size=(20, 21)).astype(np.float32)
    path = tmp_path / "p.fits"
    fits.writeto(path, pixels)
    sources = sources_of(turned(0.2, 30.0), [60.0], [50.5], 1.0, stamp=str(path), stamp_psf="none", stamp_flux="stamp")
    drawn, report = draw(sources)
    expected = np.zeros(SHAPE, dtype=np.float32)
    expected[41:61, 50:71] = pixels
    np.testing.assert_array_equal(drawn, expected)
    assert report.flux_deposited[0] == pytest.approx(float(pixels.sum(dtype=np.float64)), rel=1e-6)
    assert report.stamp_size[0] == 21


def test_flux_of_the_pixels_may_be_zero_or_negative(tmp_path: Path) -> None:
    """Residuals: a dipole, whose pixels say what they are themselves."""
    one, path = Blobs(((-1.0, 0.0, 1.0), (1.0, 0.0, -1.0))), tmp_path / "dipole.fits"
    one.write(path, turned(0.2, 0.0), (60, 61))
    image = turned(0.2, 25.0)
    for psf in (None, gaussian_psf(PSF_SIGMA)):
        sources = sources_of(
            image,
            [70.3],
            [75.8],
            7.0,
            stamp=str(path),
            stamp_psf="none" if psf is None else "image",
            stamp_flux="stamp",
        )
        drawn, report = draw(sources, psf)
        exact = 7.0 * one.on(image, SHAPE, (70.3, 75.8), psf_variance=PSF_SIGMA**2 if psf else 0.0)
        assert np.abs(drawn - exact).max() / exact.max() < 3e-4
        assert abs(report.flux_deposited[0]) < 1e-5 * np.abs(exact).sum()
        assert report.flags[0] == 0
    row = sources_of(image, [70.3], [75.8], 7.0, stamp=str(path), stamp_psf="none")
    _, report = draw(row)
    assert report.flags[0] == Flag.STAMP_FILE_BAD
    assert "stamp_zeropoint" in report.messages[0]


@pytest.mark.parametrize("convolved", [False, True])
def test_what_lies_off_the_image_is_cut_and_said(tmp_path: Path, convolved: bool) -> None:
    path = Blobs().write(tmp_path / "l.fits", turned(0.17, 40.0), (60, 60))
    psf = gaussian_psf(PSF_SIGMA) if convolved else None
    x, y = [70.3, 3.2], [75.8, 60.1]
    sources = sources_of(turned(0.2, 0.0), x, y, FLUX, stamp=path, stamp_psf="image" if convolved else "none")
    drawn, report = draw(sources, psf)
    assert report.flags.tolist() == [0, int(Flag.TRUNCATED_BY_EDGE)]
    wide = (SHAPE[0], SHAPE[1] + 100)
    moved = sources_of(
        turned(0.2, 0.0), [v + 100 for v in x], y, FLUX, stamp=path, stamp_psf="image" if convolved else "none"
    )
    whole, _ = draw(moved, psf, wide)
    np.testing.assert_allclose(drawn, whole[:, 100:], atol=2e-6 * whole.max())
    assert report.flux_deposited.sum() == pytest.approx(drawn.sum(), rel=1e-6)


def test_a_draw_size_cuts_and_says_so(tmp_path: Path) -> None:
    path = Blobs().write(tmp_path / "l.fits", turned(0.2, 40.0), (60, 60))
    for psf in (None, gaussian_psf(PSF_SIGMA)):
        kind = "none" if psf is None else "image"
        sources = sources_of(turned(0.2, 0.0), [70.3], [75.8], FLUX, stamp=path, stamp_psf=kind, draw_size=21)
        drawn, report = draw(sources, psf)
        assert report.flags[0] == Flag.STAMP_TRUNCATED
        assert report.stamp_size[0] == 21
        assert np.ptp(np.flatnonzero(drawn.any(axis=0))) == 20


def test_a_stamp_depends_on_no_other(tmp_path: Path) -> None:
    """Neither on how many are drawn with it nor on what was drawn before."""
    paths = [Blobs().write(tmp_path / f"{k}.fits", turned(0.15 + 0.02 * k, 50.0 * k), (40 + k, 44)) for k in range(3)]
    n = 6
    rng = np.random.default_rng(2)
    x, y = rng.uniform(30, 120, (2, n))
    names = [paths[k % 3] for k in range(n)]
    kinds = ["none", "image"] * (n // 2)
    psf = gaussian_psf(PSF_SIGMA)
    together, _ = draw(sources_of(turned(0.2, 0.0), x, y, FLUX, stamp=names, stamp_psf=kinds), psf)
    canvas = Canvas.empty(SHAPE, (0, 0))
    for k in range(n):
        one = sources_of(turned(0.2, 0.0), x[k : k + 1], y[k : k + 1], FLUX, stamp=names[k], stamp_psf=kinds[k])
        render(one, psf, canvas, Box(-0.5, SHAPE[1] - 0.5, -0.5, SHAPE[0] - 0.5), OneScale())
    np.testing.assert_array_equal(together, canvas.model)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(0.12, 0.3), st.floats(0.0, 360.0), st.floats(0.8, 1.25), st.booleans(), st.booleans(),
    st.tuples(st.integers(56, 65), st.integers(56, 65)), st.floats(69.0, 71.0),
)  # fmt: skip
def test_any_stamp_is_drawn_as_galsim_draws_it(
    tmp_path: Path, scale: float, angle: float, squeezed: float, mirrored: bool, convolved: bool,
    shape: tuple[int, int], x: float,
) -> None:  # fmt: skip
    """To the accuracy of GalSim's own interpolants, whose Lanczos 15 is off by 2e-4 of the peak."""
    own = turned(scale, angle, mirrored=mirrored, squeezed=squeezed)
    sigma = max(1.6 * scale, 0.3)
    room = (28 * scale * min(squeezed, 1.0) - 5.5 * sigma) / 3.4
    parts = [(room * east, room * north, flux) for east, north, flux in L_SHAPE]
    path = Blobs(parts, sigma).write(tmp_path / "g.fits", own, shape)
    kind = "image" if convolved else "none"
    sources = sources_of(turned(0.2, 30.0), [x], [75.8], FLUX, stamp=path, stamp_psf=kind)
    (ours, said), (theirs, _) = (draw(sources, gaussian_psf(PSF_SIGMA), galaxies=e) for e in ("fast", "galsim"))
    assert not said.messages
    assert np.abs(ours - theirs).max() / theirs.max() < 5e-4


def test_a_psf_that_pixels_undersample_is_convolved_on_a_finer_grid(tmp_path: Path) -> None:
    psf = MoffatPSF(fwhm=1.4, beta=4.0, shape=(41, 41))
    path = Blobs(sigma=0.2).write(tmp_path / "l.fits", turned(0.1, 40.0), (90, 91))
    sources = sources_of(turned(0.2, 0.0), [70.3], [75.8], FLUX, stamp=path)
    (ours, _), (theirs, _) = (draw(sources, psf, galaxies=engine) for engine in ("fast", "galsim"))
    assert np.abs(ours - theirs).max() / theirs.max() < 3e-3


def test_too_large_for_the_image_is_said(tmp_path: Path) -> None:
    path = tmp_path / "wide.fits"
    Blobs().write(path, turned(4.0, 10.0), (120, 121))
    _, report = draw(sources_of(turned(0.2, 0.0), [70.3], [75.8], FLUX, stamp=str(path)), gaussian_psf(PSF_SIGMA))
    assert report.flags[0] == Flag.FFT_SIZE_ERROR
    assert "2048 are allowed" in report.messages[0]


def test_soft_edges_need_no_margin_and_hard_ones_the_whole_frame(tmp_path: Path) -> None:
    soft, hard = tmp_path / "soft.fits", tmp_path / "hard.fits"
    Blobs().write(soft, turned(0.2, 0.0), (80, 80))
    fits.writeto(hard, np.ones((20, 20)))
    assert fine_pixels(read_stamp(soft)).margin == 0
    assert fine_pixels(read_stamp(hard)).margin == 8
    drawn, _ = draw(sources_of(turned(0.2, 0.0), [70.3], [75.8], FLUX, stamp=str(hard), stamp_psf="none"))
    assert drawn.sum() == pytest.approx(FLUX, rel=1e-5)
