"""Every format gives the middle of the exposure in TAI: real files against what their own cards and texts say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from astropy import units as u
from astropy.io import fits
from astropy.time import Time

from skygraft import read_exposure

SECOND = 1 / 86400


def test_legacy_surveys_start_in_utc(data_dir: Path) -> None:
    root = data_dir / "decam_grz"
    path = next(root.glob("images/**/*_ooi_g_*.fits"))
    header = fits.getheader(path)
    # The shutter opens 0.05 s later than MJD-OBS and DATE-OBS say.
    middle = (Time(header["DATE-OBS"], scale="utc") + header["EXPTIME"] / 2 * u.s).tai.mjd
    assert read_exposure(path).visit_info.mjd == pytest.approx(middle, abs=0.1 * SECOND)


def test_calexps_say_the_middle_in_tai(data_dir: Path) -> None:
    header = fits.getheader(data_dir / "afw" / "obs_base" / "calexp.fits")
    assert header["TIMESYS"] == "TAI"
    found = read_exposure(data_dir / "afw" / "obs_base" / "calexp.fits").visit_info.mjd
    assert found == pytest.approx(Time(header["DATE-AVG"], scale="tai").mjd, abs=1e-3 * SECOND)
    # HSC's own card of the start is UTC: 35 leap seconds, and half of 30 s with the shutter's delay.
    start = Time(f"{header['DATE-AVG'][:10]}T{header['UT']}", scale="utc").tai.mjd
    assert 14 * SECOND < found - start < 17 * SECOND


def test_visit_images_begin_and_end_in_tai(data_dir: Path) -> None:
    path = data_dir / "rubin" / "visit_image-1.0.0-dp1.json"
    info = json.loads(path.read_text())["obs_info"]
    # Julian dates in two parts, in TAI (astro_metadata_translator.ObservationInfo).
    begin, end = (sum(info[f"datetime_{end}"]) - 2400000.5 for end in ("begin", "end"))
    assert end - begin == pytest.approx(30 * SECOND, abs=0.1 * SECOND)
    assert read_exposure(path).visit_info.mjd == pytest.approx((begin + end) / 2, abs=1e-3 * SECOND)


def test_coadds_have_no_time(data_dir: Path) -> None:
    for name in ("afw_reference/coadd_10_coaddpsf.fits", "rubin/dp1_cell_coadd.fits"):
        assert read_exposure(data_dir / name).visit_info.mjd is None
