"""Crowded fields through `inject`: order of rows, totals, noise, memory, and truth."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from astropy.table import QTable, Table

from kits.plain_images import plain_header
from skygraft.catalog import Flag
from skygraft.catalog.arrow import to_arrow
from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
from skygraft.injection import inject
from skygraft.photometry import CalibrationAperture, PhotoCalib, enclosed_flux
from skygraft.psf import FixedKernelPSF, MoffatPSF
from skygraft.wcs import read_fits_wcs

SIDE = 256
RADIUS = 9.0
KERNEL = MoffatPSF(4.0, 3.5, shape=(31, 31)).kernels(0, 0)[0]


def exposure(side: int = SIDE) -> Exposure:
    shape = side, side
    return Exposure(
        planes=make_planes(np.full(shape, 10, np.float32), np.full(shape, 100.0, np.float32), mask_planes={"BAD": 0}),
        wcs=read_fits_wcs(plain_header(150.0, 2.0, side)),
        psf=FixedKernelPSF(1.03 * KERNEL),
        photo_calib=PhotoCalib.from_zeropoint(27.0, reference=CalibrationAperture(RADIUS, 2.0, "test")),
        data_id=DataId("TestCam", 12, 3, band="r"),
        visit_info=VisitInfo(60000.0, 30.0),
        gain=2.0,
        gain_origin="test",
    )


def crowd(exp: Exposure, n: int, seed: int = 1, side: int = SIDE) -> Table:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-25, side + 25, (2, n))
    ra, dec = exp.wcs.pixel_to_world_values(x, y)
    mag = 25.0 + 2.5 * np.log10(rng.uniform(0.01, 1, n))
    columns = {"injection_id": np.arange(n) + 5, "ra": ra, "dec": dec, "source_type": np.full(n, "Star")}
    return Table({**columns, "mag_r": mag})


def as_bytes(truth: QTable) -> bytes:
    """All values of a truth table, NaN among them, in Arrow's format."""
    table, sink = to_arrow(truth), io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_pixels_and_truth_do_not_depend_on_the_order_of_rows():
    exp = exposure()
    catalog = crowd(exp, 20_000)
    one = inject(exp, catalog, seed=3)
    other = inject(exp, catalog[np.random.default_rng(2).permutation(len(catalog))], seed=3)
    each = inject(exp, catalog, seed=3, stars="stamps", noise=False).exposure.image
    for name in ("image", "variance", "mask"):
        assert one.exposure.planes[name].values.tobytes() == other.exposure.planes[name].values.tobytes()
    assert as_bytes(one.truth) == as_bytes(other.truth)
    without = inject(exp, catalog, noise=False).exposure.image
    assert without.tobytes() != each.tobytes()  # it was the grid
    np.testing.assert_allclose(without, each, rtol=1e-4)


def test_totals_are_those_of_the_calibration():
    exp = exposure()
    found = inject(exp, crowd(exp, 20_000), noise=False)
    truth = found.truth
    light = found.exposure.image.astype(float) - exp.image
    assert light.sum() == pytest.approx(truth["flux_deposited"].sum(), rel=1e-5)
    inside = enclosed_flux(KERNEL, RADIUS)[0]
    far = (np.abs(truth["x"] - 127.5) < 100) & (np.abs(truth["y"] - 127.5) < 100)
    np.testing.assert_allclose(truth["flux_deposited"][far], truth["inst_flux"][far] * KERNEL.sum() / inside, rtol=1e-6)
    np.testing.assert_allclose(truth["inst_flux"], 10 ** (0.4 * (27.0 - truth["mag"])), rtol=1e-12)
    np.testing.assert_allclose(truth["aperture_fraction"][far], inside / KERNEL.sum(), rtol=1e-6)
    off = (np.asarray(truth["flags"]) & int(Flag.NO_OVERLAP)) > 0
    assert off.any()
    assert np.isnan(truth["psf_fwhm"][off]).all()
    assert (truth["stamp_size"] == np.where(off, 0, 31)).all()


def test_noise_and_marks_are_those_of_the_light():
    exp = exposure()
    catalog = crowd(exp, 20_000)
    light = inject(exp, catalog, noise=False).exposure.image - exp.image
    noisy = inject(exp, catalog, seed=1).exposure
    added = noisy.variance - exp.variance
    np.testing.assert_allclose(added, light / 2.0, rtol=2e-4, atol=2e-5)
    pull = (noisy.image - exp.image - light) / np.sqrt(light / 2.0)
    assert abs(pull.mean()) < 0.02
    assert pull.std() == pytest.approx(1.0, abs=0.02)
    injected = (noisy.mask & noisy.mask_planes["INJECTED"]) > 0
    assert (injected == (light > 0.1 * 10.0)).mean() > 0.999


def test_a_star_takes_less_than_three_hundred_bytes():
    exp = exposure(128)
    inject(exp, crowd(exp, 100, side=128), noise=False)
    peaks = []
    for n in (40_000, 120_000):
        catalog = crowd(exp, n, side=128)
        tracemalloc.start()
        inject(exp, catalog, noise=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 80_000 < 300


def test_truth_with_one_value_in_a_column_is_written_as_any_other():
    exp = exposure(128)
    truth = inject(exp, crowd(exp, 50, side=128), noise=False).truth
    copied = truth.copy()
    copied["image_id"] = np.array(truth["image_id"])
    copied["band"] = np.array(truth["band"])
    assert as_bytes(truth) == as_bytes(copied)
    truth.sort("mag")
    assert (np.diff(truth["mag"]) >= 0).all()
    assert set(truth["image_id"]) == set(copied["image_id"])
