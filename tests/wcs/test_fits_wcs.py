"""FITS world coordinate systems: against astropy, closed forms and real headers."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK4, FK5, Galactic, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseLowLevelWCS, HighLevelWCSWrapper
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import MissingWcsError, WcsError
from skygraft.wcs import FitsWcs, read_fits_wcs

REAL = [
    ("video_H/image_1.fits", 1, "ZPN"),
    ("decam_grz/images/decam/NonDECaLS/CP20141215/c4d_141206_043719_ooi_z_a1-S10.fits", 1, "TPV"),
    ("afw_reference/calexp_01_tan_singlegauss.fits", 1, "TAN"),
    ("afw_reference/calexp_02_tansip_doublegauss_gzip2.fits", 1, "SIP"),
    ("afw/obs_base/calexp.fits", 1, "SIP"),
    ("cfht_849375/calexp-849375-12.fits.fz", 1, "SIP"),
]


def tan_header(**changes):
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 150.0,
        "CRVAL2": 2.0,
        "CRPIX1": 51.0,
        "CRPIX2": 26.0,
        "CD1_1": -5e-5,
        "CD1_2": 1e-6,
        "CD2_1": 2e-6,
        "CD2_2": 5e-5,
    }
    return {k: v for k, v in (cards | changes).items() if v is not None}


def tangent_plane(ra, dec, ra0, dec0):
    """Gnomonic (xi, eta) in degrees, in its textbook form."""
    a, d, a0, d0 = (np.radians(v) for v in (ra, dec, ra0, dec0))
    depth = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(a - a0)
    xi = np.cos(d) * np.sin(a - a0) / depth
    eta = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(a - a0)) / depth
    return np.degrees([xi, eta])


def load(data_dir, name, hdu):
    with fits.open(data_dir / name) as hdus:
        return hdus[hdu].header


@settings(max_examples=50, deadline=None)
@given(
    ra0=st.floats(0, 359.99),
    dec0=st.floats(-89.9, 89.9),
    x=st.floats(-3000, 3000),
    y=st.floats(-3000, 3000),
    xy0=st.tuples(st.integers(-500, 500), st.integers(-500, 500)),
)
def test_tan_by_its_closed_form(ra0, dec0, x, y, xy0):
    header = tan_header(CRVAL1=ra0, CRVAL2=dec0)
    wcs = FitsWcs(header, xy0)
    ra, dec = wcs.pixel_to_world_values(x, y)
    assert 0 <= ra < 360
    # FITS pixels begin at 1; the array begins at xy0 in the parent.
    dx, dy = x - xy0[0] + 1 - 51.0, y - xy0[1] + 1 - 26.0
    plane = [-5e-5 * dx + 1e-6 * dy, 2e-6 * dx + 5e-5 * dy]
    np.testing.assert_allclose(tangent_plane(ra, dec, ra0, dec0), plane, atol=1e-11)
    np.testing.assert_allclose(wcs.world_to_pixel_values(ra, dec), (x, y), atol=1e-6)


@pytest.mark.data
@pytest.mark.parametrize(("name", "hdu", "kind"), REAL)
def test_real_headers_agree_with_astropy_and_come_back(data_dir, name, hdu, kind):
    header = load(data_dir, name, hdu)
    wcs = FitsWcs(header, (1000, 200))
    assert kind in "".join(wcs.header["CTYPE*"].values())
    ny, nx = header["NAXIS2"], header["NAXIS1"]
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-500, nx + 500, 4000) + 1000, rng.uniform(-500, ny + 500, 4000) + 200
    ra, dec = wcs.pixel_to_world_values(x, y)
    clean = {k: header[k] for k in wcs.header if k in header}
    expected = WCS(fits.Header(clean), fix=False).all_pix2world(np.column_stack([x - 1000, y - 200]), 0)
    np.testing.assert_allclose(np.column_stack([ra, dec]), expected, rtol=0, atol=1e-12)
    back = wcs.world_to_pixel_values(ra, dec)
    np.testing.assert_allclose(back, (x, y), rtol=0, atol=1e-6)


@pytest.mark.data
@pytest.mark.parametrize(("name", "hdu", "kind"), REAL)
def test_no_position_far_away_lands_on_a_real_image(data_dir, name, hdu, kind):
    header = load(data_dir, name, hdu)
    wcs = FitsWcs(header)
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 3000), np.degrees(np.arcsin(rng.uniform(-1, 1, 3000)))
    middle = wcs.pixel_to_world_values(header["NAXIS1"] / 2, header["NAXIS2"] / 2)
    far = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(*middle, unit="deg")) > 1 * u.deg
    x, y = wcs.world_to_pixel_values(ra[far], dec[far])
    inside = (x > 0) & (x < header["NAXIS1"]) & (y > 0) & (y < header["NAXIS2"])
    assert np.isnan(x).any()
    assert not inside.any()
    # What has a pixel at all is what comes back from it: on the far side of the sky a polynomial finds others.
    found = np.isfinite(x)
    back = SkyCoord(*wcs.pixel_to_world_values(x[found], y[found]), unit="deg")
    if found.any():
        assert back.separation(SkyCoord(ra[far][found], dec[far][found], unit="deg")).max() < 1e-3 * u.arcsec


def test_positions_without_a_pixel_are_nan():
    wcs = FitsWcs(tan_header())
    # Antipode, more than 90 degrees away, not numbers, off the sphere.
    x, y = wcs.world_to_pixel_values([330.0, 241.0, np.nan, 10.0, np.inf, 150.0], [-2.0, 2.0, 0.0, np.nan, 0.0, 91.0])
    assert np.isnan(x).all()
    assert np.isnan(y).all()
    assert np.isnan(wcs.pixel_to_world_values([np.nan, 1.0], [1.0, np.inf])).all()
    good = wcs.world_to_pixel_values([150.0, 330.0], [2.0, -2.0])
    np.testing.assert_allclose(np.array(good)[:, 0], (50, 25), atol=1e-9)


def test_a_strong_sip_distortion_is_inverted_without_its_own_inverse():
    sip = {"A_ORDER": 3, "B_ORDER": 3, "A_2_0": 2e-5, "A_1_1": -1e-5, "B_0_2": 1e-5, "B_2_1": 3e-9, "A_0_3": -2e-9}
    wcs = FitsWcs(tan_header(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **sip))
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(-2000, 2000, 41), np.linspace(-2000, 2000, 41)))
    ra, dec = wcs.pixel_to_world_values(x, y)
    # The polynomial itself, by hand.
    p, q = x - 50, y - 25
    u_, v_ = p + 2e-5 * p**2 - 1e-5 * p * q - 2e-9 * q**3, q + 1e-5 * q**2 + 3e-9 * p**2 * q
    plane = [-5e-5 * u_ + 1e-6 * v_, 2e-6 * u_ + 5e-5 * v_]
    np.testing.assert_allclose(tangent_plane(ra, dec, 150.0, 2.0), plane, atol=1e-11)
    np.testing.assert_allclose(wcs.world_to_pixel_values(ra, dec), (x, y), atol=1e-6)


def test_sip_cards_without_the_suffix_count_for_tan_and_not_for_tpv():
    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-5, "B_0_2": 1e-5}
    suffixed = FitsWcs(tan_header(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **sip))
    assert FitsWcs(tan_header(**sip)) == suffixed
    tpv = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.0, "PV2_1": 1.0, "PV1_4": 1e-3}
    assert FitsWcs(tan_header(**tpv, **sip)) == FitsWcs(tan_header(**tpv))


@pytest.mark.parametrize(
    ("cards", "frame"),
    [
        ({"RADESYS": "ICRS"}, None),
        ({}, None),
        ({"RADECSYS": "FK5", "EQUINOX": 2000.0}, FK5(equinox="J2000")),
        ({"EQUINOX": 2000.0}, FK5(equinox="J2000")),
        ({"RADESYS": "FK5", "EQUINOX": 2015.5}, FK5(equinox=Time(2015.5, format="jyear"))),
        ({"EQUINOX": 1950.0}, FK4(equinox="B1950")),
        ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, Galactic()),
    ],
)
def test_every_frame_comes_out_as_icrs(cards, frame):
    wcs = FitsWcs(tan_header(**cards))
    x, y = np.array([50.0, 800.0, -900.0]), np.array([25.0, -700.0, 1000.0])
    ra, dec = wcs.pixel_to_world_values(x, y)
    plain = FitsWcs(tan_header()).pixel_to_world_values(x, y)
    expected = SkyCoord(*plain, unit="deg", frame="icrs" if frame is None else frame).icrs
    assert SkyCoord(ra, dec, unit="deg").separation(expected).max() < 1e-9 * u.arcsec
    # FK4's E-terms are inverted by iteration.
    np.testing.assert_allclose(wcs.world_to_pixel_values(ra, dec), (x, y), atol=1e-6)
    if isinstance(frame, FK5 | FK4 | Galactic):
        assert np.hypot(ra - plain[0], dec - plain[1]).min() > 1e-7


def test_axes_in_the_other_order():
    swapped = {
        "CTYPE1": "DEC--TAN",
        "CTYPE2": "RA---TAN",
        "CRVAL1": 2.0,
        "CRVAL2": 150.0,
        "CD1_1": 2e-6,
        "CD1_2": 5e-5,
        "CD2_1": -5e-5,
        "CD2_2": 1e-6,
    }
    plain, other = FitsWcs(tan_header()), FitsWcs(tan_header(**swapped))
    np.testing.assert_allclose(other.pixel_to_world_values(7, 900), plain.pixel_to_world_values(7, 900), atol=1e-11)
    np.testing.assert_allclose(other.world_to_pixel_values(150.01, 2.01), plain.world_to_pixel_values(150.01, 2.01))


def test_a_cube_gives_its_celestial_plane():
    cube = {"NAXIS": 3, "CTYPE3": "FREQ", "CRVAL3": 1e9, "CRPIX3": 1.0, "CD3_3": 1e6, "CUNIT3": "Hz"}
    expected = FitsWcs(tan_header()).pixel_to_world_values(3.0, 4.0)
    np.testing.assert_allclose(FitsWcs(tan_header(**cube)).pixel_to_world_values(3.0, 4.0), expected, atol=1e-12)


def test_headers_that_make_astropy_grumble_pass_in_silence():
    header = fits.Header(tan_header(RADECSYS="FK5", EQUINOX=2000.0, CUNIT1="degree"))
    header["DATE-OBS"], header["MJD-OBS"] = "01/02/99", 51210.0
    header["HIERARCH LONG NAME OF A CARD"] = 1
    header["COMMENT"] = "words"
    FitsWcs(header)


@pytest.mark.parametrize(
    "header",
    [{}, {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, {"CTYPE1": "FREQ", "CRVAL1": 1e9, "CUNIT1": "Hz"}],
    ids=str,
)
def test_no_celestial_wcs_is_named_with_its_place_and_cure(header):
    with pytest.raises(MissingWcsError, match=r"night\.fits\[3\].*no celestial WCS.*Choose the HDU") as caught:
        read_fits_wcs(header, path="night.fits", hdu=3)
    assert (caught.value.path, caught.value.hdu) == ("night.fits", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CD1_1": 0.0, "CD1_2": 0.0}, "cannot be used|singular"),
        ({"RADESYS": "GAPPT"}, "GAPPT"),
        ({"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"}, "ELON"),
        ({"CTYPE2": "RA---TAN"}, "cannot be used|no celestial"),
        ({"CUNIT2": "furlong"}, "cannot be used"),
        ({"CPDIS1": "LOOKUP"}, "CPDIS1.*not supported"),
    ],
    ids=str,
)
def test_a_wcs_that_cannot_be_used_says_why(changes, message):
    with pytest.raises(WcsError, match=message) as caught:
        read_fits_wcs(tan_header(**changes), path="a.fits", hdu="SCI")
    assert str(caught.value).startswith("a.fits[SCI]")
    assert caught.value.fix


def test_ape_14_in_full():
    wcs = FitsWcs(tan_header(), (10, 20))
    assert isinstance(wcs, BaseLowLevelWCS)
    assert (wcs.pixel_n_dim, wcs.world_n_dim) == (2, 2)
    assert list(wcs.world_axis_units) == ["deg", "deg"]
    assert list(wcs.world_axis_physical_types) == ["pos.eq.ra", "pos.eq.dec"]
    assert wcs.axis_correlation_matrix.tolist() == [[True, True], [True, True]]
    assert not wcs.serialized_classes
    high = HighLevelWCSWrapper(wcs)
    position = high.pixel_to_world([60.0, 61.0], [45.0, 46.0])
    assert position.frame.name == "icrs"
    assert position[0].separation(SkyCoord(150.0, 2.0, unit="deg")) < 1e-9 * u.arcsec
    np.testing.assert_allclose(high.world_to_pixel(position), [[60, 61], [45, 46]], atol=1e-8)
    assert [int(i) for i in high.world_to_array_index(position[0])] == [45, 60]
    assert high.array_index_to_world(45, 60).separation(position[0]) < 1e-9 * u.arcsec


def test_shapes_follow_the_inputs():
    wcs = FitsWcs(tan_header())
    ra, dec = wcs.pixel_to_world_values(np.zeros((3, 1)), np.arange(4.0))
    assert ra.shape == dec.shape == (3, 4)
    assert np.ndim(wcs.pixel_to_world_values(1, 2)[0]) == 0
    assert wcs.world_to_pixel_values([], [])[0].shape == (0,)
    index = wcs.world_to_array_index_values([150.0, 330.0], [2.0, -2.0])
    assert (int(index[0][0]), int(index[1][0])) == (25, 50)
    assert index[0][1] == np.iinfo(np.int64).min
    with pytest.raises(ValueError, match="two coordinate arrays"):
        wcs.pixel_to_world_values(1.0)


@pytest.mark.data
@pytest.mark.parametrize(("name", "hdu", "kind"), REAL)
def test_copies_are_equal_to_the_last_bit(data_dir, name, hdu, kind):
    wcs = FitsWcs(load(data_dir, name, hdu), (7, -3))
    for again in (pickle.loads(pickle.dumps(wcs)), copy.deepcopy(wcs)):
        assert again == wcs
        assert hash(again) == hash(wcs)
        assert again.pixel_to_world_values(12.3, 45.6) == wcs.pixel_to_world_values(12.3, 45.6)
    assert wcs != FitsWcs(load(data_dir, name, hdu), (7, -2))
    assert kind in repr(wcs)


def test_one_wcs_serves_several_threads():
    wcs = FitsWcs(tan_header(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_1=1.0, PV2_1=1.0, PV1_4=1e-3))
    x, y = np.random.default_rng(3).uniform(-1000, 1000, (2, 20000))
    expected = wcs.pixel_to_world_values(x, y)
    wrong = []

    def work():
        for _ in range(5):
            sky = wcs.pixel_to_world_values(x, y)
            back = wcs.world_to_pixel_values(*sky)
            if not (np.array_equal(sky, expected) and np.allclose(back, (x, y), atol=1e-6)):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tan_from_numbers():
    cd = [[-4.666666666666667e-05, 0.0], [0.0, 4.666666666666667e-05]]
    wcs = FitsWcs.tan(212.5, 54.29752066115702, crpix=(17999.0, 17999.0), cd=cd)
    np.testing.assert_allclose(wcs.world_to_pixel_values(212.5, 54.29752066115702), (17999, 17999), atol=1e-7)
    ra, dec = wcs.pixel_to_world_values(0.0, 100.0)
    plane = [17999 * 0.168 / 3600, -17899 * 0.168 / 3600]
    np.testing.assert_allclose(tangent_plane(ra, dec, 212.5, 54.29752066115702), plane, atol=1e-12)


@pytest.mark.parametrize("dec", [90.0, -90.0])
def test_tan_at_a_pole_keeps_east_to_the_east(dec):
    wcs = FitsWcs.tan(30.0, dec, crpix=(0.0, 0.0), cd=[[-1e-4, 0.0], [0.0, 1e-4]])
    # One step North of the pole along the meridian of CRVAL1 continues on the other side of the north pole.
    ra, reached = wcs.pixel_to_world_values(0.0, 100.0 if dec < 0 else -100.0)
    assert (float(ra), float(reached)) == pytest.approx((30.0, dec - np.sign(dec) * 0.01), abs=1e-6)
