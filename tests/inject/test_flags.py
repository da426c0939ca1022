"""Every flag of the registry, from a catalogue on disk through `inject` to the truth table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack

from skygraft import inject, read_catalog
from skygraft.catalog import Flag
from skygraft.catalog.flags import NOT_DRAWN, decode_flags
from skygraft.exposure import DIFFERENCE, DataId, Exposure
from skygraft.photometry import CalibrationAperture, ChebyshevField, PhotoCalib
from skygraft.psf import DifferenceImage, FixedKernelPSF, MatchingKernel, MoffatPSF, PsfexPSF
from skygraft.testing import make_exposure
from skygraft.wcs import FitsWcs

MAG, FLUX = 18.0, 10 ** (0.4 * (27.0 - 18.0))
SMALL = MoffatPSF(fwhm=3.0, beta=3.0, shape=(31, 31))


def exposure(**changes: Any) -> Exposure:
    return make_exposure((80, 80), psf=SMALL).replace(**changes)


def rows(exp: Exposure, x: float, y: float = 40.0, **columns: Any) -> Table:
    ra, dec = exp.wcs.pixel_to_world_values(x, y)
    content = {"injection_id": 7, "ra": float(ra), "dec": float(dec), "source_type": "Star", "mag_r": MAG} | columns
    return Table(rows=[content])


def tilting_psf() -> PsfexPSF:
    """A model that holds from x = 30 to 50, and whose flux falls to nothing at x = 60."""
    kernel = SMALL.kernels([0.0], [0.0])[0]
    nothing = np.zeros_like(kernel)
    return PsfexPSF(np.stack([kernel, -kernel, nothing]), 1, (40.0, 40.0), (20.0, 20.0))


def sharp_psf() -> FixedKernelPSF:
    """A Gaussian of FWHM 1.4 pixels, of which nothing is known but its pixels."""
    y, x = np.mgrid[-10:11, -10:11]
    return FixedKernelPSF(np.exp(-(x**2 + y**2) / (2 * 0.6**2)), normalize=True)


def difference() -> Exposure:
    """A difference image whose template, of the science image's PSF, was convolved with nothing."""
    kernel = MatchingKernel(np.ones((1, 1, 1)), (0, 0), [lambda x, y: np.ones(len(x))])
    return exposure(extra={DIFFERENCE: DifferenceImage(kernel, SMALL, "made for a test")})


def falling_calibration() -> PhotoCalib:
    """One that holds on the image, and is negative from two pixels right of it on."""
    field = ChebyshevField([[1.0, -0.95]], (0, 79, 0, 79))
    return PhotoCalib.from_zeropoint(27.0, field=field, reference=CalibrationAperture(8.0, 1.6, "test"))


CURVES = {"id": ["late", "green"], "mjd": [60001.0, 60000.0], "band": ["r", "g"], "mag": [20.0, 20.0]}

SERSIC = {"source_type": "Sersic", "n": 1.0, "half_light_radius": 0.5}

CASES: dict[Flag, Callable[[], tuple[Exposure, Table, dict[str, Any]]]] = {
    Flag.MAG_BAD: lambda: (exposure(), rows(exposure(), 40, mag_r=np.nan), {}),
    Flag.TYPE_UNKNOWN: lambda: (exposure(), rows(exposure(), 40, source_type="Quasar"), {}),
    Flag.SERSIC_EXTREME: lambda: (exposure(), rows(exposure(), 40, **SERSIC | {"n": 9.0}), {}),
    Flag.NO_OVERLAP: lambda: (exposure(), rows(exposure(), 200), {}),
    Flag.FFT_SIZE_ERROR: lambda: (
        exposure(),
        rows(exposure(), 40, **SERSIC | {"half_light_radius": 500.0, "trunc": 2000.0}),
        {},
    ),
    Flag.PSF_COMPUTE_ERROR: lambda: (exposure(psf=tilting_psf()), rows(exposure(), 70), {}),
    Flag.PSF_EXTRAPOLATED: lambda: (exposure(psf=tilting_psf()), rows(exposure(), 20), {}),
    Flag.TRUNCATED_BY_EDGE: lambda: (exposure(), rows(exposure(), 76), {}),
    Flag.STAMP_TRUNCATED: lambda: (exposure(), rows(exposure(), 40, **SERSIC, draw_size=11), {}),
    Flag.KERNEL_SMALLER_THAN_APERTURE: lambda: (
        exposure(psf=MoffatPSF(fwhm=3.0, beta=3.0, shape=(21, 21))),
        rows(exposure(), 40),
        {},
    ),
    Flag.PHOTOCALIB_EXTRAPOLATED: lambda: (exposure(photo_calib=falling_calibration()), rows(exposure(), 85), {}),
    Flag.PARAMETERS_BAD: lambda: (exposure(), rows(exposure(), 40, **SERSIC, q=3.0), {}),
    Flag.CENTER_OFF_IMAGE: lambda: (exposure(), rows(exposure(), 82), {}),
    Flag.STAMP_FILE_BAD: lambda: (exposure(), rows(exposure(), 40, source_type="Stamp", stamp="lost.fits"), {}),
    Flag.WCS_FAILED: lambda: (exposure(), rows(exposure(), 40, ra=330.0, dec=-2.0), {}),
    Flag.IN_TEMPLATE: lambda: (difference(), rows(exposure(), 40.3, inject_into="both"), {}),
    Flag.NOT_VISIBLE: lambda: (exposure(), rows(exposure(), 40, light_curve="late"), {"light_curves": CURVES}),
    Flag.NO_LIGHT_CURVE: lambda: (exposure(), rows(exposure(), 40, light_curve="green"), {"light_curves": CURVES}),
    Flag.NOT_FOR_IMAGE: lambda: (exposure(), rows(exposure(), 40, inject_into="template"), {}),
    Flag.PSF_UNDERSAMPLED: lambda: (exposure(psf=sharp_psf()), rows(exposure(), 40.3), {}),
}


def run(folder: Path, exp: Exposure, table: Table, **options: Any) -> Any:
    """Inject a catalogue by way of a file; a stamp called lost.fits is gone by then."""
    fits.writeto(folder / "lost.fits", np.ones((9, 9)), overwrite=True)
    table.write(folder / "fakes.ecsv", overwrite=True)
    catalog = read_catalog(folder / "fakes.ecsv", band="r", on_bad="flag")
    (folder / "lost.fits").unlink()
    return inject(exp, catalog, noise=False, **options)


def test_no_flag_is_without_its_test() -> None:
    assert set(CASES) == set(Flag)


@pytest.mark.filterwarnings("ignore::galsim.errors.GalSimFFTSizeWarning")
@pytest.mark.parametrize("flag", CASES, ids=lambda flag: flag.name)
def test_a_source_that_earns_a_flag_has_it(flag: Flag, tmp_path: Path) -> None:
    exp, table, options = CASES[flag]()
    truth = run(tmp_path, exp, table, **options).truth
    assert flag.name in decode_flags(truth["flags"][0])
    if flag & NOT_DRAWN:
        assert truth["stamp_size"][0] == 0
        assert truth["flux_deposited"][0] == 0
    else:
        assert not truth["flags"][0] & int(NOT_DRAWN)
        assert truth["stamp_size"][0] > 0


def test_a_source_that_earns_none_has_none(tmp_path: Path) -> None:
    truth = run(tmp_path, exposure(), rows(exposure(), 40)).truth
    assert truth["flags"][0] == 0
    assert truth["inst_flux"][0] == pytest.approx(FLUX, rel=1e-12)


def ccd(number: int) -> Exposure:
    """One of two CCDs, 200 pixels wide, that adjoin without a gap: the second begins where the first ends."""
    scale = 0.2 / 3600
    cd = np.array([[-scale, 0.0], [0.0, scale]])
    wcs = FitsWcs.tan(150.0, 2.0, crpix=(199.5 - 200 * number, 99.5), cd=cd)
    return make_exposure((200, 200), wcs=wcs, data_id=DataId("TestCam", 1, number, band="r"))


def test_of_two_adjacent_ccds_the_one_without_the_centre_says_so(tmp_path: Path) -> None:
    first, second = ccd(0), ccd(1)
    table = rows(second, 4.0, 100.0)
    found = [run(tmp_path, image, table).truth[0] for image in (first, second)]
    assert found[0]["x"] == pytest.approx(204.0, abs=1e-6)
    assert [bool(row["flags"] & Flag.CENTER_OFF_IMAGE) for row in found] == [True, False]
    assert 0 < found[0]["flux_deposited"] < 0.1 * found[1]["flux_deposited"]


@pytest.mark.parametrize("y", [0.3, 100.0])
def test_a_centre_on_the_very_edge_is_on_both_images(tmp_path: Path, y: float) -> None:
    """On neither it would count nowhere: which row of a visit counts is decided among those that have it."""
    first, second = ccd(0), ccd(1)
    for image, x in ((first, 199.5), (second, -0.5)):
        table = rows(image, x, y)
        flags = [int(run(tmp_path, one, table).truth["flags"][0]) for one in (first, second)]
        assert not (flags[0] | flags[1]) & Flag.CENTER_OFF_IMAGE


def test_a_calibration_that_runs_away_off_the_image_still_draws_a_good_magnitude(tmp_path: Path) -> None:
    exp = exposure(photo_calib=falling_calibration())
    row = run(tmp_path, exp, rows(exp, 85.0)).truth[0]
    # At the image's right edge the calibration is 0.05 of its middle.
    assert row["inst_flux"] == pytest.approx(FLUX / 0.05, rel=1e-9)
    assert row["flux_deposited"] > 0
    wanted = Flag.PHOTOCALIB_EXTRAPOLATED | Flag.CENTER_OFF_IMAGE | Flag.TRUNCATED_BY_EDGE
    assert row["flags"] == int(wanted)


def test_a_missing_stamp_off_the_image_costs_nobody_else(tmp_path: Path) -> None:
    exp = exposure()
    star, stamp = rows(exp, 40.0), rows(exp, 95.0, injection_id=8, source_type="Stamp")
    for table, path in ((star, ""), (stamp, "lost.fits")):
        table["stamp"] = [path]
    both = vstack([star, stamp])
    out = run(tmp_path, exp, both)
    assert out.truth["flags"].tolist() == [0, int(Flag.STAMP_FILE_BAD | Flag.CENTER_OFF_IMAGE)]
    assert "lost.fits" in out.summary["messages"][0]
    np.testing.assert_array_equal(out.exposure.image, run(tmp_path, exp, rows(exp, 40.0)).exposure.image)


@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
@pytest.mark.parametrize("content", ["text", "table", "blank", "empty"])
@pytest.mark.parametrize("x", [40.0, 95.0])
def test_a_stamp_of_any_bad_kind_is_flagged_wherever_it_lies(tmp_path: Path, content: str, x: float) -> None:
    path = tmp_path / "stamp.fits"
    if content == "text":
        path.write_text("SIMPLE  =                    T / but no more")
    elif content == "table":
        Table({"a": [1]}).write(path)
    elif content == "blank":
        fits.writeto(path, np.full((9, 9), np.nan))
    else:
        path.touch()
    exp = exposure()
    out = run(tmp_path, exp, rows(exp, x, source_type="Stamp", stamp=str(path)))
    assert out.truth["flags"][0] & Flag.STAMP_FILE_BAD
    assert str(path) in out.summary["messages"][0]
    assert not (out.exposure.image != exp.image).any()


def test_what_cannot_be_drawn_belongs_to_the_images_that_would_show_it(tmp_path: Path) -> None:
    exp = exposure()
    for x, off in ((40.0, False), (90.0, False), (300.0, True)):
        flags = run(tmp_path, exp, rows(exp, x, mag_r=np.nan)).truth["flags"][0]
        assert bool(flags & Flag.NO_OVERLAP) is off, x
        assert flags & Flag.MAG_BAD


@pytest.mark.parametrize("n", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("q", [0.3, 1.0])
def test_whoever_leaves_light_on_the_image_is_drawn(tmp_path: Path, n: float, q: float) -> None:
    """Galaxies off the image, nearer and nearer: those said to be out of reach leave less than the tolerance."""
    exp = exposure()
    for x in (100.0, 150.0, 250.0, 400.0):
        table = rows(exp, x, **SERSIC | {"n": n, "half_light_radius": 2.0}, q=q, pa=90.0)
        row = run(tmp_path, exp, table).truth[0]
        if row["flags"] & Flag.NO_OVERLAP:
            # The same galaxy on an image that begins half way to it holds all that the first could have had.
            wide = make_exposure((80, 1000), psf=SMALL, xy0=(-40, 0), wcs=exp.wcs)
            whole = inject(wide, read_catalog(tmp_path / "fakes.ecsv", band="r"), noise=False, flux_tolerance=1e-6)
            assert whole.exposure.image[:, 40:120].sum(dtype=float) < 1e-3 * FLUX
        else:
            assert row["flux_deposited"] > 0
