"""PSFs that cannot be images of a point source are refused, by the place and the number that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import (
    PSF,
    Box,
    FixedKernelPSF,
    GaussianPSF,
    KernelBasisPSF,
    MoffatPSF,
    PsfexPSF,
    check_coefficients,
    check_kernels,
    check_psf_soundness,
)
from skygraft.psf.warped import Warp, WarpedPSF

BOX = Box(-0.5, 63.5, -0.5, 63.5)
GOOD = MoffatPSF(fwhm=4.0, beta=3.0, shape=(31, 31)).basis[0]


def psfex(change: Any = None, *, scale: float = 1.0, **options: Any) -> PsfexPSF:
    """A model of degree 1 about the middle of the image, one sample a pixel."""
    images = np.stack([scale * GOOD, 0.01 * GOOD, 0.0 * GOOD])
    if change is not None:
        images[change[:3]] = change[3]
    return PsfexPSF(images, 1, (32.0, 32.0), (64.0, 64.0), **options)


@pytest.mark.parametrize("convention", ["psfex", "lsst"])
@pytest.mark.parametrize("scale", [1.0, 0.9, 1.08])
def test_sound_models_pass(convention: Any, scale: float) -> None:
    check_psf_soundness(psfex(scale=scale, convention=convention), BOX)
    check_psf_soundness(GaussianPSF(4.0, shape=(3, 3)), BOX)
    check_psf_soundness(FixedKernelPSF(0.43 * GOOD), None)


@pytest.mark.parametrize("convention", ["psfex", "lsst"])
@pytest.mark.parametrize(
    "change", [(0, 2, 3, 3e38), (1, 15, 15, 3e38), (0, 15, 15, 1e4), (0, 1, 1, 2.0), (2, 3, 3, -50.0)]
)
def test_one_damaged_pixel_of_a_psfex_model(convention: Any, change: tuple[int, int, int, float]) -> None:
    with pytest.raises(PsfError, match=r"no image of a point source|cannot be normalised"):
        check_psf_soundness(psfex(change, convention=convention), BOX)


@pytest.mark.parametrize("scale", [0.64, 1.6])
def test_a_psfex_model_sums_to_about_one(scale: float) -> None:
    with pytest.raises(PsfError, match="sums to"):
        check_psf_soundness(psfex(scale=scale), BOX)
    check_psf_soundness(psfex(scale=scale, convention="lsst"), BOX)
    check_psf_soundness(psfex(scale=0.925 * scale if scale > 1 else 0.75), BOX)  # 1.48: the highest in real files


def test_kernels_that_cannot_be() -> None:
    cases = {
        "not finite": np.where(GOOD.max() == GOOD, np.nan, GOOD),
        "sums to -6.98": -7e28 * GOOD,
        "sums to 0, not": 0.0 * GOOD,
        "sums to 6.4, not": 6.4 * GOOD / GOOD.sum(),
        "times its sum": GOOD + 2.0 * (np.indices(GOOD.shape).sum(axis=0) % 2 - 480 / 961),
        "centroid": np.roll(GOOD, 12, axis=1),
    }
    for message, kernel in cases.items():
        with pytest.raises(PsfError, match=message):
            check_kernels(kernel[None])


def test_the_place_is_named() -> None:
    x = np.arange(-15.0, 16.0)
    psf = KernelBasisPSF([GOOD, np.outer(GOOD[15], x)], [[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]], valid_box=BOX)
    with pytest.raises(PsfError, match=r"kernel at \(31.8, 0.0\)"):
        check_psf_soundness(psf, Box(0.0, 63.5, 0.0, 63.5))


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan, 1e30, 1e-9])
def test_widths_that_no_psf_has(width: float) -> None:
    with pytest.raises(ConfigError, match=r"0\.01 to 1000"):
        GaussianPSF(width, shape=(31, 31))


def test_kernels_that_memory_would_not_hold() -> None:
    with pytest.raises(PsfError, match="at most 1501"):
        PsfexPSF(GOOD[None], 0, step=1e6)
    with pytest.raises(ConfigError, match="at most 1501"):
        GaussianPSF(2.0, shape=(2**31 - 1, 3))

    def shrunk(x: Any, y: Any) -> tuple[Any, Any]:
        return 1e-5 * x, 1e-5 * y

    with pytest.raises(PsfError, match="at most 1501"):
        WarpedPSF(FixedKernelPSF(GOOD), shrunk, Warp(3, 0), at=(0.0, 0.0))


class Drawn(PSF):
    """Whatever a third library draws: nothing at x above 40, and rubbish below 10."""

    shape = (31, 31)

    def kernels(self, x: Any, y: Any) -> Any:
        out = np.repeat(GOOD[None], len(x), axis=0)
        out[np.asarray(x) > 40] = np.nan
        out[np.asarray(x) < 10] *= -1.0
        return out


@pytest.mark.parametrize("kind", ["Star", "Gaussian"])
def test_a_source_whose_kernel_is_unsound_is_flagged_alone(kind: str) -> None:
    from skygraft import inject
    from skygraft.catalog import Flag
    from skygraft.testing import make_exposure

    exposure = make_exposure((64, 64), psf=Drawn())
    ra, dec = exposure.wcs.pixel_to_world_values([32.0, 50.0, 5.0], [32.0] * 3)
    catalog = {"injection_id": [1, 2, 3], "ra": ra, "dec": dec, "source_type": [kind] * 3, "mag_r": [20.0] * 3}
    made = inject(exposure, catalog | {"half_light_radius": [0.5] * 3}, band="r", noise=False)
    assert [bool(f & Flag.PSF_COMPUTE_ERROR) for f in made.truth["flags"]] == [False, True, True]
    assert np.isfinite(made.exposure.image).all()
    assert made.exposure.image.max() > 0


def test_a_polynomial_that_has_run_away() -> None:
    images = np.stack([GOOD, 0.1 * GOOD, 0.0 * GOOD])
    psf = PsfexPSF(images, 1, (1e30, 32.0), (64.0, 64.0))
    with pytest.raises(PsfError, match=r"sums to -1.*e\+27, not to"):
        check_psf_soundness(psf, BOX)
    near = PsfexPSF(images, 1, (32.0, 32.0), (64.0, 64.0))
    y = np.array([32.0, 32.0])
    for far, sound in ((60.0, True), (-600.0, False), (1e30, False)):
        x = np.array([32.0, far])
        if sound:
            check_coefficients(near, near.coefficients(x, y), x, y)
            continue
        with pytest.raises(PsfError, match=r"not to 0\.2 to 5"):
            check_coefficients(near, near.coefficients(x, y), x, y)


def test_the_centre_of_a_stored_kernel_is_one_of_its_pixels() -> None:
    from skygraft.formats.afw_archive import Row
    from skygraft.formats.afw_psfs import _centred

    row = {"dimensions_x": 3, "dimensions_y": 3, "image": np.ones(9), "center_x": 1, "center_y": 1}
    assert _centred(Row(row, "a.fits", 1)).shape == (3, 3)
    with pytest.raises(PsfError, match="pixel 1073741824, which it does not have"):
        _centred(Row(row | {"center_x": 2**30}, "a.fits", 1))
