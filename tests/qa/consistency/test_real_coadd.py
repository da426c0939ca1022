"""A coadd that the real lsst.afw wrote, against visits with the PSFs, WCS and weights of its recorded inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import QTable

import skygraft
from skygraft.errors import InjectionError
from skygraft.exposure import DataId, Exposure, make_planes
from skygraft.photometry import CalibrationAperture, PhotoCalib
from skygraft.qa.consistency import check_consistency


@pytest.fixture(scope="module")
def coadd(data_dir: Path) -> Exposure:
    return skygraft.read_exposure(data_dir / "afw_reference/coadd_10_coaddpsf.fits", aperture="12 pix")


@pytest.fixture(scope="module")
def visits(coadd: Exposure) -> list[Exposure]:
    found = []
    for k, one in enumerate(coadd.psf.inputs):
        shape = int(one.box.y_max - one.box.y_min), int(one.box.x_max - one.box.x_min)
        planes = make_planes(np.zeros(shape, np.float32), np.ones(shape, np.float32), mask_planes={"BAD": 0})
        visit, detector = one.name.split("-")
        reference = CalibrationAperture(12.0, 12 * 0.168)
        calib = PhotoCalib.from_zeropoint(26.5 + 0.2 * k, reference=reference)
        data_id = DataId(visit=int(visit), detector=int(detector), band="i")
        found.append(Exposure(planes, one.wcs, one.psf, calib, data_id))
    return found


@pytest.fixture(scope="module")
def stars(coadd: Exposure) -> QTable:
    rng = np.random.default_rng(3)
    place = np.linspace(60, 450, 5)
    x, y = (
        one.ravel() + rng.uniform(-0.5, 0.5, 25) + first
        for one, first in zip(np.meshgrid(place, place), coadd.xy0, strict=True)
    )
    ra, dec = coadd.wcs.pixel_to_world_values(x, y)
    return QTable(
        {
            "injection_id": np.arange(25),
            "ra": ra,
            "dec": dec,
            "source_type": np.full(25, "Star"),
            "mag_i": rng.uniform(18, 23, 25),
        }
    )


def test_the_psf_that_afw_stored_is_the_mean_of_its_inputs(
    coadd: Exposure, visits: list[Exposure], stars: QTable
) -> None:
    found = check_consistency(coadd, visits, stars, settings={"pixels": False})
    table = {name: found.table.column(name).to_pylist() for name in found.table.column_names}
    assert set(table["verdict"]) <= {"agrees", "cannot tell"} and found.summary.verdicts["agrees"] >= 23
    assert np.abs(table["psf_term"]).max() < 5e-5
    assert np.abs(np.array(table["psf_size_ratio"]) - 1).max() < 1e-3
    assert np.abs(np.array(table["difference"])).max() < 2e-3
    # Weights are those that the file lists.
    listed = {f"{one.name}-i": one.weight for one in coadd.psf.inputs}
    row = int(np.argmax(table["n_visits"]))
    own = np.array([listed[name] for name in table["visits"][row]])
    np.testing.assert_allclose(table["weights"][row], own / own.sum(), rtol=1e-12)


def test_an_input_that_is_not_given_is_named(coadd: Exposure, visits: list[Exposure], stars: QTable) -> None:
    found = check_consistency(coadd, visits[1:], stars, settings={"pixels": False})
    assert {name for row in found.table.column("reasons").to_pylist() for name in row} <= {"MISSING_VISITS", "EDGE"}
    name = coadd.psf.inputs[0].name
    holding = coadd.psf.input_names_at(*coadd.wcs.world_to_pixel_values(stars["ra"], stars["dec"]))
    notes = found.table.column("note").to_pylist()
    assert [f"input {name} is not given" in note for note in notes] == [name in names for names in holding]


def test_a_visit_that_is_no_input_is_left_out(coadd: Exposure, visits: list[Exposure], stars: QTable) -> None:
    other = visits[0].replace(data_id=DataId(visit=77, detector=1, band="i"))
    found = check_consistency(coadd, [*visits, other], stars, settings={"pixels": False})
    assert found.left_out == {"77-1-i": "it is not an input of the coadd"}
    with pytest.raises(InjectionError, match="it is not an input of the coadd"):
        check_consistency(coadd, [other], stars)
