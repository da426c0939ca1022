"""Archives of afw with unknown classes, objects that are not there, and circles: named once, by what needs them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from skygraft import inject, read_exposure
from skygraft.errors import CalibrationError, FormatError, WcsError
from skygraft.exposure import NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.formats.base import CAUTION

pytestmark = pytest.mark.data
COADD_PSF = 147
"""Number of the coadd's PSF in its archive."""

type Edited = Callable[[Callable[[fits.HDUList], None]], Path]


@pytest.fixture
def edited(data_dir: Path, tmp_path: Path) -> Iterator[Edited]:
    def make(edit: Callable[[fits.HDUList], None]) -> Path:
        path = tmp_path / "coadd.fits"
        shutil.copyfile(data_dir / "afw_reference/coadd_10_coaddpsf.fits", path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, mode="update") as hdus:
                edit(hdus)
        return path

    yield make


def renamed(name: str) -> Callable[[fits.HDUList], None]:
    def edit(hdus: fits.HDUList) -> None:
        names = hdus["ARCHIVE_INDEX"].data["name"]
        names[names == name] = "OddClass"
        for hdu in hdus:
            if hdu.header.get("AR_NAME") == name:
                hdu.header["AR_NAME"] = "OddClass"

    return edit


def psfs_of_inputs(number: int) -> Callable[[fits.HDUList], None]:
    def edit(hdus: fits.HDUList) -> None:
        for hdu in hdus:
            if hdu.header.get("AR_NAME") == "CoaddPsf" and "psf" in hdu.columns.names:
                hdu.data["psf"][:] = number

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (renamed("CoaddPsf"), "the image's PSF is a OddClass"),
        (renamed("PsfexPsf"), "a CoaddPsf, cannot be used: the image's PSF is a OddClass"),
        (psfs_of_inputs(9999), "the archive has no object 9999"),
        (psfs_of_inputs(COADD_PSF), "refer to each other more than 8 deep, or in a circle"),
    ],
    ids=["unknown", "unknown input", "not there", "circle"],
)
def test_a_psf_that_cannot_be_read_is_named_and_the_image_opens(
    edited: Edited, edit: Callable[[fits.HDUList], None], says: str
) -> None:
    exposure = read_exposure(edited(edit))
    assert exposure.psf is None
    message = str(exposure.extra[NO_PSF])
    assert says in message
    assert message.count("cannot be used") <= 1


@pytest.mark.parametrize(("component", "name"), [("AP_CORR_MAP", "ApCorrMap"), ("FILTER", "FilterLabel")])
def test_parts_that_injection_can_do_without(edited: Edited, component: str, name: str) -> None:
    exposure = read_exposure(edited(renamed(name)))
    assert exposure.psf is not None
    assert f"{component} is a OddClass, not a {name}" in str(exposure.extra[CAUTION])


def test_an_unknown_calibration_is_named(edited: Edited) -> None:
    exposure = read_exposure(edited(renamed("PhotoCalib")))
    assert exposure.photo_calib is None
    assert "calibration is a OddClass" in str(exposure.extra[NO_PHOTO_CALIB])


def test_a_wcs_that_is_not_there_is_not_replaced_by_the_header(edited: Edited) -> None:
    def edit(hdus: fits.HDUList) -> None:
        hdus[0].header["SKYWCS_ID"] = hdus[0].header["ARCHIVE_ID_SKYWCS"] = 9999

    with pytest.raises((WcsError, FormatError), match="no object 9999"):
        read_exposure(edited(edit))


def test_tables_in_another_order(edited: Edited) -> None:
    def edit(hdus: fits.HDUList) -> None:
        for hdu in hdus:
            if hdu.header.get("AR_NAME") == "SkyWcs":
                hdu.header["AR_NAME"] = "Polygon"

    with pytest.raises(FormatError, match=r"is a SkyWcs, and the table that it should lie in holds a Polygon"):
        read_exposure(edited(edit))


def star(exposure: Exposure, **options: Any) -> Any:
    ra, dec = exposure.wcs.pixel_to_world_values(12150.3, 8100.2)
    columns = {"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag_i": [21.0]}
    return inject(exposure, QTable(columns), band="i", flux_mode="aperture", aperture="12 pix", **options)


def no_variance(hdus: fits.HDUList) -> None:
    hdus["VARIANCE"].data[:] = np.nan


def all_masked(hdus: fits.HDUList) -> None:
    hdus["MASK"].data[:] = 1 << hdus["MASK"].header["MP_NO_DATA"]


@pytest.mark.parametrize("edit", [no_variance, all_masked])
def test_no_gain_is_taken_from_pixels_that_say_nothing(edited: Edited, edit: Callable[[fits.HDUList], None]) -> None:
    exposure = read_exposure(edited(edit))
    with pytest.raises(CalibrationError, match="only 0 good pixels"):
        star(exposure)
    for options in ({"gain": 3.0}, {"noise": False}):
        made = star(exposure, **options)
        assert made.summary["n_drawn"] == 1
        changed = made.exposure.image - exposure.image
        assert np.isfinite(changed[np.isfinite(exposure.image)]).all()
        assert np.nansum(changed) > 0
    np.testing.assert_array_equal(np.isnan(made.exposure.variance), np.isnan(exposure.variance))


def test_a_mask_without_a_free_bit(edited: Edited) -> None:
    def edit(hdus: fits.HDUList) -> None:
        header = hdus["MASK"].header
        taken = {value for key, value in header.items() if key.startswith("MP_")}
        for bit in set(range(32)) - taken:
            header[f"MP_FULL{bit}"] = bit

    exposure = read_exposure(edited(edit))
    with pytest.raises(FormatError, match=r"no free bit for mask plane 'INJECTED'.*mark_injected=False"):
        star(exposure, noise=False)
    assert star(exposure, noise=False, mark_injected=False).summary["n_drawn"] == 1


def test_a_wcs_that_no_card_points_to_is_not_replaced_by_the_header(edited: Edited) -> None:
    def edit(hdus: fits.HDUList) -> None:
        del hdus[0].header["SKYWCS_ID"], hdus[0].header["ARCHIVE_ID_SKYWCS"]

    with pytest.raises(FormatError, match="holds a SkyWcs, and no card says"):
        read_exposure(edited(edit))


def copied(source: Path, folder: Path, edit: Callable[[fits.HDUList], None]) -> Path:
    path = Path(shutil.copyfile(source, folder / source.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, mode="update") as hdus:
            edit(hdus)
    return path


def test_an_archive_that_no_card_points_to(data_dir: Path, tmp_path: Path) -> None:
    def edit(hdus: fits.HDUList) -> None:
        del hdus[0].header["AR_HDU"]

    [source] = (data_dir / "afw").rglob("exposure-noversion.fits")
    with pytest.raises(FormatError, match="AR_HDU"):
        read_exposure(copied(source, tmp_path, edit))


def test_a_blank_unit_is_not_counts(data_dir: Path, tmp_path: Path) -> None:
    def edit(hdus: fits.HDUList) -> None:
        hdus["IMAGE"].header["BUNIT"] = ""

    with pytest.raises(FormatError, match="unit is blank"):
        read_exposure(copied(data_dir / "afw_reference/calexp_01_tan_singlegauss.fits", tmp_path, edit))


@pytest.mark.parametrize("bit", [32, 2**31 - 1, 0.5, True, "5"])
def test_a_mask_plane_of_no_bit_of_the_mask(data_dir: Path, tmp_path: Path, bit: object) -> None:
    def edit(hdus: fits.HDUList) -> None:
        hdus["MASK"].header["MP_EDGE"] = bit

    with pytest.raises(FormatError, match=r"'EDGE' has bit .*; a word and a bit of 0 to 31 are needed") as caught:
        read_exposure(copied(data_dir / "afw_reference/calexp_01_tan_singlegauss.fits", tmp_path, edit))
    assert caught.value.key == "MP_EDGE"
