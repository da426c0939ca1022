"""Every way to write a WCS: the same as astropy's own of the whole header, and as each other."""

from __future__ import annotations

import logging
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.wcs_kit import CD, SCALE, SCAMP, SIP, cards, cd_cards, gnomonic, header, on_the_sky, pixels, plane, raw_header
from skygraft.errors import WcsError
from skygraft.wcs import FitsWcs

COS, SIN = np.cos(np.radians(30)), np.sin(np.radians(30))
STEPS = {"CDELT1": -SCALE, "CDELT2": SCALE}
SWAPPED = {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.0, "CRVAL2": 150.0}


def projection(code: str, **more: Any) -> dict[str, Any]:
    return cards(CTYPE1=f"RA---{code}", CTYPE2=f"DEC--{code}", **cd_cards()) | more


def in_units(unit: str, per_degree: float, **more: Any) -> dict[str, Any]:
    scaled = {key: value * per_degree for key, value in cd_cards().items()}
    values = {"CRVAL1": 150.0 * per_degree, "CRVAL2": 2.0 * per_degree}
    return cards(**scaled, **values, CUNIT1=unit, CUNIT2=unit) | more


FORMS: dict[str, dict[str, Any]] = {
    "CD": cards(**cd_cards()),
    "CD and stale CDELT": cards(**cd_cards(), CDELT1=1.0, CDELT2=1.0),
    "CD, the old way": cards(**{key.replace("_", "00").replace("CD", "CD00"): v for key, v in cd_cards().items()}),
    "CDELT": cards(**STEPS),
    "PC": cards(**STEPS, PC1_1=COS, PC1_2=-SIN, PC2_1=SIN, PC2_2=COS),
    "PC, the old way": cards(**STEPS, PC001001=COS, PC001002=-SIN, PC002001=SIN, PC002002=COS),
    "PC holds the scale": cards(**{key.replace("CD", "PC"): value for key, value in cd_cards().items()}),
    "CROTA2": cards(**STEPS, CROTA2=30.0),
    "CROTA1 and CROTA2": cards(**STEPS, CROTA1=30.0, CROTA2=30.0),
    "LTV and LTM": cards(**cd_cards(), LTV1=-100.0, LTV2=-50.0, LTM1_1=1.0, LTM2_2=1.0),
    "SIP": cards(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **cd_cards(), **SIP),
    "SIP without the suffix": cards(**cd_cards(), **SIP),
    "SIP with one suffix": cards(CTYPE1="RA---TAN-SIP", **cd_cards(), **SIP),
    "the suffix without SIP": cards(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **cd_cards()),
    "SIP and PV, with the suffix": cards(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **cd_cards(), **SIP, **SCAMP),
    "SIP and PV, without": cards(**cd_cards(), **SIP, **SCAMP),
    "PV of SCAMP with TAN": cards(**cd_cards(), **SCAMP),
    "TPV": projection("TPV", **SCAMP),
    "TPV and SIP": projection("TPV", **SCAMP, **SIP),
    "ZPN by PV": projection("ZPN", PV2_1=1.0, PV2_3=42.0),
    "ZPN by PROJP": projection("ZPN", PROJP1=1.0, PROJP3=42.0),
    "ZPN by both": projection("ZPN", PROJP1=1.0, PROJP3=42.0, PV2_1=1.0, PV2_3=42.0),
    "ZPN and SIP": projection("ZPN", PV2_1=1.0, PV2_3=42.0, **SIP),
    "slant SIN": projection("SIN", PV2_1=0.1, PV2_2=0.05),
    "conic": projection("COE", PV2_1=30.0),
    "LONPOLE and LATPOLE": cards(**cd_cards(), LONPOLE=170.0, LATPOLE=10.0),
    "declination first": cards(**SWAPPED, **cd_cards(CD[::-1])),
    "declination first, SIP": cards(**SWAPPED, **cd_cards(CD[::-1]), **SIP),
    "an axis of one plane": cards(**cd_cards(), NAXIS=3, NAXIS3=1),
    "an axis of frequency": cards(
        **cd_cards(), NAXIS=3, NAXIS3=1, CTYPE3="FREQ", CRVAL3=1e9, CRPIX3=1.0, CD3_3=1e6, CUNIT3="Hz", CD1_3=1e-3
    ),
    "more WCS axes than the image's": cards(
        **cd_cards(), WCSAXES=3, CTYPE3="FREQ", CRVAL3=1e9, CRPIX3=1.0, CD3_3=1e6, CUNIT3="Hz"
    ),
    "degrees as DEG": in_units("DEG", 1.0),
    "degrees as degree": in_units("degree", 1.0),
    "degrees as Degrees": in_units("Degrees", 1.0),
    "arcsec": in_units("arcsec", 3600.0),
    "arcsec as ARCSEC": in_units("ARCSEC", 3600.0),
    "arcmin": in_units("arcmin", 60.0),
    "radians": in_units("rad", np.pi / 180),
    "mas": in_units("mas", 3.6e6),
    "an alternate too": cards(**cd_cards(), CTYPE1A="RA---SIN", CTYPE2A="DEC--SIN", CRVAL1A=10.0, CD1_1A=1.0),
    "FK5": cards(**cd_cards(), RADESYS="FK5", EQUINOX=2015.5),
    "FK4": cards(**cd_cards(), RADESYS="FK4", EQUINOX=1950.0),
    "FK4 by EPOCH": cards(**cd_cards(), EPOCH=1950.0),
    "FK5 by EQUINOX, not EPOCH": cards(**cd_cards(), EPOCH=1950.0, EQUINOX=2000.0),
    "the year of observation as EPOCH": cards(**cd_cards(), EPOCH=2014.9, EQUINOX=2000.0, RADESYS="FK5"),
    "RADECSYS": cards(**cd_cards(), RADECSYS="FK4", EQUINOX=1950.0),
    "galactic": cards(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN", **cd_cards()),
    "at the pole": cards(CRVAL1=0.0, CRVAL2=90.0, **cd_cards(), **SIP),
    "near the south pole": projection("TPV", CRVAL1=359.9999, CRVAL2=-89.999, **SCAMP),
    "across right ascension 0": projection("TPV", CRVAL1=0.0, CRVAL2=30.0, **SCAMP),
    "a negative right ascension": cards(CRVAL1=-10.0, **cd_cards()),
} | {
    code: projection(code)
    for code in (
        "SIN",
        "STG",
        "ARC",
        "ZEA",
        "AIT",
        "CAR",
        "MOL",
        "CEA",
        "MER",
        "SFL",
        "PAR",
        "AZP",
        "CYP",
        "GLS",
        "AIR",
    )
}


# What wcslib's own formulas keep of double precision, in pixels.
ROUND_TRIP = {"slant SIN": 1e-5, "AIR": 1e-5}


def of_astropy(made: fits.Header, points: np.ndarray) -> np.ndarray:
    """ICRS positions by astropy's own WCS of the whole header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(made)
    world = wcs.all_pix2world(*points, *(np.zeros(len(points[0])) for _ in range(wcs.naxis - 2)), 0)
    place = SkyCoord(world[wcs.wcs.lng], world[wcs.wcs.lat], unit="deg", frame=wcs_to_celestial_frame(wcs)).icrs
    return np.array([place.ra.deg, place.dec.deg])


def agrees(found: FitsWcs, expected: np.ndarray, points: np.ndarray, pixel: float = 1e-6) -> None:
    sky = np.array(found.pixel_to_world_values(*points))
    assert on_the_sky(sky, expected) < 1e-9
    np.testing.assert_allclose(found.world_to_pixel_values(*expected), points, rtol=0, atol=pixel)


@pytest.mark.parametrize("name", FORMS)
def test_positions_are_astropys_of_the_whole_header(name: str, caplog: pytest.LogCaptureFixture) -> None:
    made, points = header(FORMS[name]), pixels()
    before = str(made)
    found = FitsWcs(made)
    assert not [r for r in caplog.records if r.levelno >= logging.INFO]
    assert str(made) == before
    agrees(found, of_astropy(made, points), points, ROUND_TRIP.get(name, 1e-6))
    again = pickle.loads(pickle.dumps(found))
    assert again == found and hash(again) == hash(found)
    assert np.array_equal(again.pixel_to_world_values(*points), found.pixel_to_world_values(*points))


@pytest.mark.parametrize("spelling", ["PC", "PC, the old way", "CROTA2"])
def test_a_rotation_of_30_degrees(spelling: str) -> None:
    """By the gnomonic formula: with PC001001 a star at (60, -40) px from CRPIX was 37 px off."""
    star = np.array([[60.0], [-40.0]])
    turn = np.array([[COS, -SIN], [SIN, COS]])
    matrix = turn @ np.diag([-SCALE, SCALE]) if spelling == "CROTA2" else np.diag([-SCALE, SCALE]) @ turn
    points = star + np.array([[999.0], [899.0]])
    agrees(FitsWcs(header(FORMS[spelling])), gnomonic(*(matrix @ star)), points)


@settings(max_examples=60)
@given(
    angle=st.floats(-180, 180),
    scale=st.floats(0.02, 10.0),
    stretch=st.floats(0.8, 1.25),
    mirrored=st.booleans(),
    ra0=st.floats(0, 360, exclude_max=True),
    dec0=st.floats(-90, 90),
)
def test_all_spellings_of_one_matrix_give_the_same_positions(
    angle: float, scale: float, stretch: float, mirrored: bool, ra0: float, dec0: float
) -> None:
    steps = np.array([-scale, scale * stretch]) / 3600 * np.array([-1 if mirrored else 1, 1])
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    # What CROTA2 means: the steps are along the pixels' axes.
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag(steps)
    pc = np.diag(1 / steps) @ matrix
    base = cards(CRVAL1=ra0, CRVAL2=dec0, LONPOLE=180.0)
    of_steps = {"CDELT1": float(steps[0]), "CDELT2": float(steps[1])}
    spelt = {f"PC{i + 1}_{j + 1}": float(pc[i, j]) for i in range(2) for j in range(2)}
    old = {f"PC00{i + 1}00{j + 1}": float(pc[i, j]) for i in range(2) for j in range(2)}
    points = np.array([[0.0, 1999.0, 300.5], [0.0, 1500.0, 1800.0]])
    expected = gnomonic(*plane(points, matrix), ra0, dec0)
    for form in (cd_cards(matrix), of_steps | spelt, of_steps | old, of_steps | {"CROTA2": angle}):
        found = FitsWcs(base | form)
        assert on_the_sky(np.array(found.pixel_to_world_values(*points)), expected) < 1e-10
        np.testing.assert_allclose(found.world_to_pixel_values(*expected), points, rtol=0, atol=1e-6)


def test_a_suffix_without_coefficients_does_not_take_the_place_of_a_distortion() -> None:
    """astropy refuses it; the PV cards are the only distortion that there is."""
    suffixed = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 0, "B_ORDER": 0}
    assert FitsWcs(header(cards(**cd_cards(), **SCAMP) | suffixed)) == FitsWcs(header(FORMS["TPV"]))


def test_sip_of_the_first_order_is_applied() -> None:
    """astropy leaves it out in silence."""
    made = cards(**cd_cards(), A_ORDER=1, B_ORDER=1, A_1_0=1e-3, A_0_1=-2e-3, B_1_0=5e-4)
    points = pixels()
    u, v = points + 1 - np.array([[1000.0], [900.0]])
    shifted = points + np.array([1e-3 * u - 2e-3 * v, 5e-4 * u])
    agrees(FitsWcs(header(made)), gnomonic(*plane(shifted)), points)


@pytest.mark.parametrize("case", ["ctype", "keywords"])
def test_lower_case_is_read(case: str) -> None:
    points = pixels()
    if case == "ctype":
        found = FitsWcs(header(cards(CTYPE1="ra---tan", CTYPE2="dec--tan", **cd_cards())))
    else:
        found = FitsWcs({key.lower(): value for key, value in FORMS["CD"].items()})
    agrees(found, gnomonic(*plane(points)), points)


def test_cards_that_are_no_wcs_may_be_anything() -> None:
    lines = [str(card) for card in header(FORMS["CD"]).cards]
    odd = [
        "AIRMASS =                  NaN",
        "SEEING  = nan",
        "SKY     = 1,5 / comma",
        "BLANKED =",
        "FOCUS   =  INF / oh",
    ]
    odd += [
        "HIERARCH A LONG NAME = NaN",
        "LONGTEXT= 'so long&'",
        "CONTINUE  'and more'",
        "COMMENT words",
        "TURN    = T",
    ]
    points = pixels()
    made = raw_header(*odd, *lines, *odd[:3])
    agrees(FitsWcs(made), gnomonic(*plane(points)), points)
    with pytest.raises(fits.VerifyError):
        made["AIRMASS"]


@pytest.mark.parametrize("key", ["SPECSYS", "VELREF", "OBSGEO-X", "DATE-OBS", "WCSNAME", "CRVAL1B", "ANYTHING"])
@pytest.mark.parametrize("before", ["CRVAL1", "CRPIX2", "CD1_1", "CTYPE1"])
def test_a_blank_card_takes_no_other_with_it(key: str, before: str) -> None:
    """wcslib loses the card behind it: without CRVAL1 the image would lie at right ascension 0."""
    lines = [str(card) for card in header(FORMS["CD"]).cards]
    at = next(i for i, line in enumerate(lines) if line.startswith(before))
    points = pixels(10)
    agrees(FitsWcs(raw_header(*lines[:at], f"{key:8}=", *lines[at:])), gnomonic(*plane(points)), points)


def test_control_characters_stop_nothing_where_they_do_not_matter() -> None:
    lines = [str(card) for card in header(FORMS["CD"]).cards]
    points = pixels(10)
    agrees(FitsWcs(raw_header("OBJECT  = \x7f", *lines, "OBSERVER= 'a\x01b'")), gnomonic(*plane(points)), points)
    with pytest.raises(WcsError, match="CD1_2 is 'unreadable'; a finite number"):
        FitsWcs(raw_header(*(line for line in lines if "CD1_2" not in line), "CD1_2   = \x7f"))


def test_wcs_cards_without_a_value_are_as_if_they_were_not_there_where_they_may_be() -> None:
    lines = [str(card) for card in header(FORMS["CD"]).cards]
    blank = ["LONPOLE =", "LATPOLE =   / not set", "EQUINOX =", "CUNIT1  = '        '", "RADESYS = ''", "CUNIT2  ="]
    points = pixels()
    agrees(FitsWcs(raw_header(*lines, *blank)), gnomonic(*plane(points)), points)


@pytest.mark.parametrize(("text", "frame"), [("J2000", "fk5"), ("2000.0", "fk5"), ("B1950", "fk4"), ("j2000.0", "fk5")])
def test_an_equinox_in_words(text: str, frame: str) -> None:
    points = pixels()
    place = SkyCoord(*gnomonic(*plane(points)), unit="deg", frame=frame).icrs
    agrees(FitsWcs(header(cards(**cd_cards(), EQUINOX=text))), np.array([place.ra.deg, place.dec.deg]), points)


def test_old_exponents_and_free_format() -> None:
    lines = [str(card) for card in header(cards()).cards]
    matrix = [
        "CD1_1   = -5.0D-05",
        "CD1_2   =                            1.d-6",
        "CD2_1   = +2e-06",
        "CD2_2   = 5.E-5 / x",
    ]
    points = pixels()
    agrees(FitsWcs(raw_header(*lines, *matrix)), gnomonic(*plane(points)), points)


def test_all_digits_of_numbers_count() -> None:
    """A card that astropy writes holds 16 of them at most, and fewer of small numbers."""
    matrix = np.array(
        [[-1.2345678901234567e-05, 9.876543210987654e-07], [9.876543210987654e-07, 1.2345678901234567e-05]]
    )
    points = np.array([[1e7], [-1e7]]) * 1e-3
    expected = gnomonic(*plane(points, matrix))
    found = np.array(FitsWcs(cards(**cd_cards(matrix))).pixel_to_world_values(*points))
    assert on_the_sky(found, expected) < 1e-13


@pytest.mark.data
def test_every_image_of_the_reference_data(data_dir: Any) -> None:
    """Corners and centre by astropy's own WCS of the whole header."""
    n = 0
    for path in sorted(p for p in data_dir.rglob("*") if p.name.endswith((".fits", ".fz", ".fits.gz"))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hdus = fits.open(path)
        with hdus:
            for hdu in hdus:
                if not hdu.is_image or len(hdu.shape) != 2 or "CTYPE1" not in hdu.header:
                    continue
                ny, nx = hdu.shape
                points = np.array([[0.0, nx - 1, nx - 1, 0, nx / 2], [0.0, 0, ny - 1, ny - 1, ny / 2]])
                agrees(FitsWcs(hdu.header), of_astropy(hdu.header, points), points)
                n += 1
    assert n > 50
