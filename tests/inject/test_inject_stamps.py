"""Stamps from a catalogue to the truth table: bands, fluxes in every mode, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kits.stamp_kit import Blobs, turned
from skygraft import inject
from skygraft.catalog import Flag, normalize_catalog
from skygraft.exposure import Exposure
from skygraft.injection import Injection
from skygraft.psf import MoffatPSF
from skygraft.testing import make_exposure
from skygraft.wcs import local_jacobian

ZEROPOINT, MAG = 27.0, 19.0
FLUX = 10 ** (0.4 * (ZEROPOINT - MAG))
PSF = MoffatPSF(fwhm=3.6, beta=3.0, shape=(41, 41))


def exposure(**changes: Any) -> Exposure:
    return make_exposure((140, 150), psf=PSF, noise=0.0).replace(**changes)


def put(exp: Exposure, x: float, y: float, *, on_bad: Any = "raise", settings: Any = None, **columns: Any) -> Injection:
    ra, dec = exp.wcs.pixel_to_world_values(x, y)
    row = {"injection_id": 7, "ra": float(ra), "dec": float(dec), "source_type": "Stamp", "mag_r": MAG} | columns
    table = normalize_catalog({name: [value] for name, value in row.items()}, on_bad=on_bad)
    return inject(exp, table, noise=False, **(settings or {}))


def light(exp: Exposure, out: Injection) -> np.ndarray:
    return np.asarray(out.exposure.image, dtype=float) - np.asarray(exp.image, dtype=float)


@pytest.fixture
def stamp(tmp_path: Path) -> str:
    return Blobs().write(tmp_path / "l.fits", turned(0.17, 63.0), (80, 77))


@pytest.mark.parametrize(
    "settings", [{}, {"flux_mode": "psf_sum"}, {"flux_mode": "total"}, {"flux_mode": "aperture", "aperture": "9 pix"}]
)
def test_a_stamp_is_scaled_as_a_galaxy_of_its_magnitude_and_one_that_is_convolved_is_all_of_it(
    stamp: str, settings: dict[str, str]
) -> None:
    exp = exposure()
    convolved = put(exp, 70.2, 68.7, stamp=stamp, settings=settings)
    galaxy = put(exp, 70.2, 68.7, source_type="Sersic", n=0.5, half_light_radius=0.8, q=1.0, settings=settings)
    one, other = convolved.truth[0], galaxy.truth[0]
    assert one["inst_flux"] == pytest.approx(FLUX, rel=1e-9)
    assert one["kernel_scale"] == other["kernel_scale"]
    kernel = PSF.kernels([70.2], [68.7])[0].sum()
    assert one["flux_deposited"] == pytest.approx(FLUX * one["kernel_scale"] * kernel, rel=1e-4)
    as_it_is = put(exp, 70.2, 68.7, stamp=stamp, stamp_psf="none", settings=settings).truth[0]
    assert as_it_is["flux_deposited"] == pytest.approx(FLUX, rel=1e-5)


def test_the_pixels_are_those_of_the_formula_on_a_real_wcs(stamp: str) -> None:
    exp = exposure()
    out = put(exp, 70.2, 68.7, stamp=stamp, stamp_psf="none")
    jacobian = local_jacobian(exp.wcs, [70.2], [68.7])[0]
    exact = FLUX / Blobs().total * Blobs().on(jacobian, exp.shape, (70.2, 68.7))
    assert np.abs(light(exp, out) - exact).max() < 3e-4 * exact.max()


@pytest.mark.parametrize("alignment", ["wcs", "pixel"])
def test_a_lensed_stamp_is_turned_then_stretched_on_the_sky_and_magnified(tmp_path: Path, alignment: str) -> None:
    exp, at = exposure(), (70.2, 68.7)
    jacobian = local_jacobian(exp.wcs, [at[0]], [at[1]])[0]
    own = jacobian if alignment == "pixel" else turned(0.17, 63.0)
    path = Blobs(sigma=0.5).write(tmp_path / "l.fits", own, (80, 77))
    rotation, shear, shear_pa, magnification = 40.0, 0.15, 110.0, 1.4
    out = put(
        exp, *at, stamp=path, stamp_alignment=alignment, stamp_psf="none", stamp_rotation=rotation, shear=shear,
        shear_pa=shear_pa, magnification=magnification,
    )  # fmt: skip
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    along = np.array([np.sin(np.radians(shear_pa)), np.cos(np.radians(shear_pa))])
    lens = np.sqrt(magnification / (1 - shear**2)) * (np.eye(2) + shear * (2 * np.outer(along, along) - np.eye(2)))
    sky = Blobs(sigma=0.5).on(jacobian, exp.shape, at, turn=lens @ np.array([[c, s], [-s, c]]))
    exact = FLUX * magnification / Blobs().total * sky
    assert np.abs(light(exp, out) - exact).max() < 3e-4 * exact.max()
    assert out.truth["mag"][0] == pytest.approx(MAG - 2.5 * np.log10(magnification), abs=1e-9)


def test_each_band_has_its_own(tmp_path: Path) -> None:
    """By a name with the band, by a column of the band, and none where there is none."""
    for band, angle in (("g", 0.0), ("r", 90.0)):
        Blobs().write(tmp_path / f"l-{band}.fits", turned(0.2, angle), (81, 81))
    exp = exposure()
    named = put(exp, 70.0, 70.0, stamp=str(tmp_path / "l-{band}.fits"), stamp_psf="none")
    column = put(exp, 70.0, 70.0, stamp="gone.fits", stamp_r=str(tmp_path / "l-r.fits"), stamp_psf="none")
    np.testing.assert_array_equal(light(exp, named), light(exp, column))
    other = put(exp, 70.0, 70.0, stamp=str(tmp_path / "l-g.fits"), stamp_psf="none")
    # Two files of the same sky.
    np.testing.assert_allclose(light(exp, named), light(exp, other), atol=2e-4 * light(exp, other).max())
    none = put(exp, 70.0, 70.0, stamp_g=str(tmp_path / "l-g.fits"), stamp="")
    assert none.truth["flags"][0] == Flag.STAMP_FILE_BAD
    assert "stamp_<band>" in none.summary["messages"][0]


def test_flux_of_the_pixels(tmp_path: Path) -> None:
    """One unit is of magnitude 24; what the row's magnitude says does not matter."""
    path, exp = tmp_path / "s.fits", exposure()
    pixels = 1.7 * Blobs().stamp(turned(0.2, 0.0), (80, 81))
    fits.writeto(path, pixels)
    unit = 10 ** (0.4 * (ZEROPOINT - 24.0))
    columns = {"stamp": str(path), "stamp_flux": "stamp", "stamp_zeropoint": 24.0, "mag_r": np.nan}
    row = put(exp, 70.2, 68.7, stamp_psf="none", **columns).truth[0]
    assert row["inst_flux"] == pytest.approx(unit * pixels.sum(), rel=1e-9)
    assert row["mag"] == pytest.approx(24.0 - 2.5 * np.log10(pixels.sum()), abs=1e-9)
    assert row["flux_deposited"] == pytest.approx(unit * pixels.sum(), rel=1e-5)
    assert row["flags"] == 0
    convolved = put(exp, 70.2, 68.7, **columns).truth[0]
    kernel = PSF.kernels([70.2], [68.7])[0].sum()
    assert convolved["flux_deposited"] == pytest.approx(
        unit * pixels.sum() * convolved["kernel_scale"] * kernel, rel=1e-4
    )


@pytest.mark.parametrize("engine", ["fast", "galsim"])
def test_a_residual_has_no_magnitude_and_is_drawn_also_where_it_is_cut(tmp_path: Path, engine: str) -> None:
    """Half of a dipole is on the image: much more light than its sum of nothing."""
    path, exp = tmp_path / "d.fits", exposure()
    dipole = Blobs(((-1.5, 0.0, 5.0), (1.5, 0.0, -5.01)))
    fits.writeto(path, dipole.stamp(turned(0.2, 0.0), (70, 71)))
    columns = {"stamp": str(path), "stamp_flux": "stamp", "stamp_zeropoint": 24.0, "stamp_psf": "none"}
    out = put(exp, -0.3, 68.0, settings={"galaxies": engine}, **columns)
    row = out.truth[0]
    assert np.isnan(row["mag"])
    assert row["inst_flux"] == pytest.approx(-0.01 * 10**1.2, rel=1e-3)
    assert row["flags"] == int(Flag.TRUNCATED_BY_EDGE)
    assert abs(row["flux_deposited"]) == pytest.approx(5 * 10**1.2, rel=0.02)
    assert light(exp, out).sum() == pytest.approx(row["flux_deposited"], rel=1e-4)


def test_a_zeropoint_is_asked_for(tmp_path: Path, stamp: str) -> None:
    out = put(exposure(), 70.0, 70.0, stamp=stamp, stamp_flux="stamp", on_bad="flag")
    assert out.truth["flags"][0] & Flag.PARAMETERS_BAD
    assert out.truth["stamp_size"][0] == 0


@pytest.mark.parametrize("case", ["gone", "no sum", "cube", "not aligned"])
def test_a_stamp_that_cannot_be_used_costs_its_row_and_nothing_else(tmp_path: Path, case: str) -> None:
    exp, columns = exposure(), {"stamp": str(tmp_path / "bad.fits")}
    if case == "no sum":
        fits.writeto(columns["stamp"], np.array([[1.0, -1.0], [1.0, -1.0]]))
    elif case == "cube":
        fits.writeto(columns["stamp"], np.ones((3, 4, 4)))
    elif case == "not aligned":
        fits.writeto(columns["stamp"], np.ones((4, 4)))
        columns["stamp_alignment"] = "wcs"
    out = put(exp, 70.0, 70.0, **columns)
    assert out.truth["flags"][0] == Flag.STAMP_FILE_BAD
    assert out.truth["stamp_size"][0] == 0
    assert columns["stamp"] in out.summary["messages"][0]
    assert not light(exp, out).any()


def test_stamps_alone_need_no_psf(stamp: str) -> None:
    exp = exposure(psf=None)
    with_psf = put(exposure(), 70.2, 68.7, stamp=stamp, stamp_psf="none")
    np.testing.assert_array_equal(light(exp, put(exp, 70.2, 68.7, stamp=stamp, stamp_psf="none")), light(exp, with_psf))


@pytest.mark.parametrize("column", [{"stamp_rotation": 20.0}, {"stamp_index": 0}, {"stamp_flux": "stamp"}])
def test_what_lsst_does_not_know_is_refused_in_its_conventions(stamp: str, column: dict[str, Any]) -> None:
    out = put(
        exposure(), 70.0, 70.0, stamp=stamp, stamp_zeropoint=24.0, on_bad="flag", **column,
        settings={"conventions": "lsst_source_injection", "on_bad": "flag", "variance": False},
    )  # fmt: skip
    assert out.truth["flags"][0] & Flag.PARAMETERS_BAD
    assert next(iter(column)) in " ".join(out.summary["messages"])
