"""Photon noise on coadds: correlated as the coadd's own noise, which the record says; other images are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from scipy import signal

from skygraft import inject, read_exposure
from skygraft.cli.describe import describe_exposure, describe_rows
from skygraft.config.campaign import InjectionConfig
from skygraft.errors import ConfigError
from skygraft.exposure import COADD_NOISE, Exposure
from skygraft.injection.coadd_noise import image_noise
from skygraft.noise import CellGrid, CoaddNoise
from skygraft.qa.closure import measure_closure
from skygraft.testing import make_exposure

TAPS = np.array([[0.1, 0.4, 0.1], [0.5, 1.0, 0.5], [0.1, 0.4, 0.1]])
TAPS /= np.sqrt((TAPS**2).sum())
ROWS = float((TAPS[1:] * TAPS[:-1]).sum())
COLUMNS = float((TAPS[:, 1:] * TAPS[:, :-1]).sum())


def noise(shape: tuple[int, int], seed: int = 1, taps: np.ndarray = TAPS) -> np.ndarray:
    white = np.random.default_rng(seed).normal(size=(shape[0] + 2, shape[1] + 2))
    return signal.convolve2d(white, taps, mode="valid").astype(np.float32)


def coadd(shape: tuple[int, int] = (240, 300), realizations: int = 1, **changes: Any) -> Exposure:
    exposure = make_exposure(shape, xy0=(1000, 2000), **changes)
    planes = tuple(3 * noise(shape, seed) for seed in range(realizations))
    return exposure.replace(extra={COADD_NOISE: CoaddNoise(planes, CellGrid((1000, 2000), (100, 80)))})


def stars(exposure: Exposure, n: int = 12, mag: float = 19.0, seed: int = 2) -> Table:
    rng, (ny, nx), (x0, y0) = np.random.default_rng(seed), exposure.shape, exposure.xy0
    ra, dec = exposure.wcs.pixel_to_world_values(x0 + rng.uniform(30, nx - 30, n), y0 + rng.uniform(30, ny - 30, n))
    rows = {"injection_id": np.arange(n), "ra": ra, "dec": dec, "source_type": ["Star"] * n}
    return Table(rows | {"mag_r": np.full(n, mag)})


def planes_of(exposure: Exposure) -> bytes:
    assert exposure.variance is not None
    return exposure.image.tobytes() + exposure.variance.tobytes() + exposure.mask.tobytes()


def test_noise_is_correlated_as_the_realizations_are_and_its_variance_is_the_expected_one() -> None:
    before, images, units = coadd(), [], []
    table = stars(before, 40, 17.0)
    clean = inject(before, table, noise=False).exposure
    for seed in range(20):
        injection = inject(before, table, seed=seed)
        after = injection.exposure
        expected = np.where(clean.image > 0, clean.image, 0) / 2.0
        np.testing.assert_allclose(after.variance - before.variance, expected, rtol=1e-5, atol=1e-4)
        bright = expected > 20
        unit = np.where(bright, (after.image - clean.image) / np.sqrt(np.maximum(expected, 1e-9)), np.nan)
        images.append(unit[bright])
        units.append([np.nanmean(unit[1:] * unit[:-1]), np.nanmean(unit[:, 1:] * unit[:, :-1])])
    assert np.var(images) == pytest.approx(1, abs=0.03)
    assert np.mean(units, axis=0) == pytest.approx([ROWS, COLUMNS], abs=0.04)
    told = injection.summary["noise_correlation"]
    assert told["kind"] == "correlated"
    assert "1 noise realization of the coadd, in each of 9 cells" in told["origin"]
    assert (told["lags"]["1,0"], told["lags"]["0,1"]) == (
        pytest.approx(ROWS, abs=0.02),
        pytest.approx(COLUMNS, abs=0.02),
    )
    assert "correlated" in repr(injection)


def test_white_noise_on_a_coadd_is_that_of_any_other_image() -> None:
    before = coadd()
    white = inject(before, stars(before), seed=4, coadd_noise="white")
    single = before.replace(extra={})
    for choice in ("white", "correlated"):
        assert planes_of(inject(single, stars(before), seed=4, coadd_noise=choice).exposure) == planes_of(
            white.exposure
        )
    assert white.summary["noise_correlation"]["kind"] == "white"
    assert white.summary["noise_correlation"]["origin"] == "coadd_noise is white"
    assert planes_of(inject(before, stars(before), seed=4).exposure) != planes_of(white.exposure)
    with pytest.raises(ConfigError, match=r"Did you mean 'correlated'"):
        inject(before, stars(before), coadd_noise="correlate")


def test_order_and_absent_sources_change_nothing() -> None:
    before = coadd()
    table = stars(before)
    assert planes_of(inject(before, table[::-1], seed=1).exposure) == planes_of(inject(before, table, seed=1).exposure)
    alone = inject(before, table[:1], seed=1).exposure.image
    others = inject(before, table[1:], seed=1, noise=False).exposure.image
    together = inject(before, table, seed=1).exposure.image
    np.testing.assert_array_equal(together[others == before.image], alone[others == before.image])


def test_several_realizations_are_put_together() -> None:
    found = image_noise(coadd(realizations=4), "correlated").correlation
    assert found is not None
    assert found.n_pixels == 4 * 240 * 300


@pytest.mark.parametrize("spoilt", [np.nan, 0.0])
def test_cells_without_data_do_not_count(spoilt: float) -> None:
    before = coadd()
    plane = before.extra[COADD_NOISE].realizations[0]
    plane[:80, :100] = spoilt
    before.image[:80, :100] = np.nan
    before.variance[:80, :100] = np.inf
    injection = inject(before, stars(before), seed=1)
    assert "in each of 8 cells" in injection.summary["noise_correlation"]["origin"]
    assert np.isfinite(injection.exposure.image[80:]).all()


def test_sky_pixels_do_where_there_are_no_realizations() -> None:
    before = coadd((500, 500), 0)
    bright = inject(before, stars(before, 30, 16.0), noise=False).exposure
    mask = before.mask.copy()
    mask[bright.image > 30] |= before.mask_planes["DETECTED"]
    planes = before.planes.assign(
        image=before.planes["image"].copy(data=bright.image + 10 * noise((500, 500), 3)),
        mask=before.planes["mask"].copy(data=mask),
    )
    told = image_noise(before.replace(planes=planes), "correlated").describe()
    assert told["kind"] == "correlated"
    assert "neither masked nor detected" in told["origin"]
    assert told["lags"]["1,0"] == pytest.approx(ROWS, abs=0.03)
    assert told["lags"]["0,1"] == pytest.approx(COLUMNS, abs=0.03)


def test_it_says_why_it_falls_back() -> None:
    blank = coadd((500, 500), 0)
    told = image_noise(blank, "correlated").describe()
    assert told["kind"] == "white"
    assert "not known; sky pixels: fewer than 2500 good pixels that vary" in told["origin"]
    y, x = np.indices((500, 500))
    waves = blank.planes.assign(image=blank.planes["image"].copy(data=np.sin((x + y) / 8.0).astype(np.float32)))
    assert "no noise has the correlation measured" in image_noise(blank.replace(planes=waves), "correlated").origin
    smooth = signal.fftconvolve(noise((500, 500)), np.outer(*[np.hanning(23)] * 2), mode="same")
    smooth = CoaddNoise((smooth.astype(np.float32),))
    told = image_noise(blank.replace(extra={COADD_NOISE: smooth}), "correlated").describe()
    assert "is not that of noise" in told["origin"] or "no noise has" in told["origin"]
    other = CoaddNoise((noise((10, 10)),))
    told = image_noise(blank.replace(extra={COADD_NOISE: other}), "correlated").describe()
    assert "1 noise realization of the coadd: another shape than the image" in told["origin"]
    assert inject(blank, stars(blank), seed=1).summary["noise_correlation"]["lags"] is None


def test_closure_expects_the_scatter_that_correlation_makes() -> None:
    """Correlated noise scatters aperture fluxes by more than its variance says: by 2.2 times here."""
    before = coadd((1500, 1500))
    x, y = np.meshgrid(np.arange(1060, 2440, 110.0), np.arange(2060, 3440, 110.0))
    ra, dec = before.wcs.pixel_to_world_values(x.ravel(), y.ravel())
    rows = {"injection_id": np.arange(x.size), "ra": ra, "dec": dec, "source_type": ["Star"] * x.size}
    injection = inject(before, Table(rows | {"mag_r": np.full(x.size, 18.0)}), seed=3)
    table = measure_closure(before, injection.exposure, injection.truth)
    pull = table["residual"] / table["sigma"]
    assert len(table) > 150
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1, abs=0.2)


def test_inspect_tells_of_it() -> None:
    content = describe_exposure(coadd())
    assert dict(describe_rows(content))["coadd noise"].startswith(
        f"correlated, {content['coadd_noise']['lags']['0,1']:.3f}"
    )
    assert describe_exposure(make_exposure((50, 50)))["coadd_noise"] is None


def test_a_campaign_can_ask_for_white_noise() -> None:
    assert InjectionConfig.model_validate({"coadd_noise": "white"}).options().coadd_noise == "white"
    assert InjectionConfig().options().coadd_noise == "correlated"
    with pytest.raises(ValueError, match="coadd_noise"):
        InjectionConfig.model_validate({"coadd_noise": "pink"})


@pytest.mark.data
def test_an_afw_coadd_and_a_calexp(data_dir: Path) -> None:
    """The reference coadd was made with white noise, on which faint light lies; a calexp is no coadd."""
    exposure = read_exposure(data_dir / "afw_reference" / "coadd_10_coaddpsf.fits", aperture="12 pix")
    told = image_noise(exposure, "correlated").describe()
    assert "sky" in told["origin"]
    assert max(map(abs, told["lags"].values())) < 0.02
    for path in (data_dir / "afw_reference").glob("calexp_*.fits"):
        assert COADD_NOISE not in read_exposure(path).extra


@pytest.mark.data
def test_a_cell_coadd_of_rubin(data_dir: Path, tmp_path: Path) -> None:
    """A coadd of twelve cells made with the library's own classes, of which one is missing."""
    serialization = pytest.importorskip("lsst.images.serialization")
    import lsst.images as li
    from lsst.images import _cell_grid as cell_grid
    from lsst.images import cells

    small = serialization.read_archive(str(data_dir / "rubin" / "cell_coadd-1.0.0-canonical.json"))
    box = li.Box.factory[48 : 48 + 180, 36 : 36 + 240]
    grid = cell_grid.CellGrid(bbox=box, cell_shape=li.YX(y=60, x=60))
    missing = cell_grid.CellIJ(i=2, j=3)
    kernels = np.broadcast_to(small.psf[cell_grid.CellIJ(i=8, j=7)].array, (3, 4, 5, 5)).copy()
    kernels[2, 3] = np.nan
    bounds = cell_grid.CellGridBounds(grid=grid, bbox=box, missing=frozenset([missing]))
    shape = (180, 240)
    variance, plane = np.full(shape, 4.0, np.float32), noise(shape, 4)
    plane[:, :60] = np.random.default_rng(5).normal(size=(180, 60))
    variance[120:, 180:], plane[120:, 180:] = np.inf, 0.0
    image = cells.CellCoadd(
        li.Image(np.zeros(shape, np.float32), bbox=box, unit=small.unit, sky_projection=small.sky_projection),
        mask_schema=small.mask.schema,
        variance=li.Image(variance, bbox=box, unit=small.unit**2),
        noise_realizations=[li.Image(plane, bbox=box)],
        band="r",
        psf=cells.CellPointSpreadFunction(kernels, bounds),
    )
    path = tmp_path / "coadd.fits"
    serialization.write_archive(image, str(path))
    found = image_noise(read_exposure(path), "correlated").correlation
    assert found is not None
    assert "in each of 11 cells" in found.origin
    for (i, j), one in found.which.items():
        kernel = found.filters[one]
        expected = 0 if j == 0 else COLUMNS
        assert (kernel[:, 1:] * kernel[:, :-1]).sum() == pytest.approx(expected, abs=0.1), (i, j)
