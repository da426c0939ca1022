"""TNX, ZPX and plate solutions: against direct sums of their terms, Newton-free, and against AST."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from starlink import Ast

from kits.wcs_kit import (
    PLATE,
    RA0,
    SCALE,
    Surface,
    cards,
    cd_cards,
    gnomonic,
    header,
    iraf_cards,
    on_the_sky,
    pixels,
    plane,
    plate_sky,
    raw_header,
    zenithal,
)
from skygraft.errors import WcsError
from skygraft.wcs import FitsWcs

RADIAL = "projp0=0. projp1=1. projp2=0. projp3=337.74 "
ORDERS = [(1, 1), (2, 2), (4, 4), (3, 5), (5, 3), (1, 4), (4, 1), (10, 10)]


def expected_sky(lngcor: Surface | None, latcor: Surface | None, points: np.ndarray, code: str = "TNX") -> np.ndarray:
    xi, eta = plane(points)
    x = xi if lngcor is None else xi + lngcor(xi, eta)
    y = eta if latcor is None else eta + latcor(xi, eta)
    return gnomonic(x, y) if code == "TNX" else zenithal(x, y, (0, 1, 0, 337.74))


def agrees(found: FitsWcs, expected: np.ndarray, points: np.ndarray) -> None:
    assert on_the_sky(np.array(found.pixel_to_world_values(*points)), expected) < 1e-9
    np.testing.assert_allclose(found.world_to_pixel_values(*expected), points, rtol=0, atol=1e-6)


@pytest.mark.parametrize("code", ["TNX", "ZPX"])
@pytest.mark.parametrize("cross", [0, 1, 2], ids=["none", "full", "half"])
@pytest.mark.parametrize("kind", [1, 2, 3], ids=["chebyshev", "legendre", "powers"])
def test_surfaces_of_every_kind(kind: int, cross: int, code: str) -> None:
    points = pixels(40)
    for seed, orders in enumerate(ORDERS):
        lngcor, latcor = Surface(kind, orders, cross, seed), Surface(kind, orders, cross, 100 + seed)
        found = FitsWcs(header(iraf_cards(code, lngcor, latcor, RADIAL if code == "ZPX" else "")))
        agrees(found, expected_sky(lngcor, latcor, points, code), points)


def test_a_distortion_of_five_per_cent_is_not_left_out() -> None:
    """It was drawn as TAN; 60 pixels from the reference that is 3 px."""
    lngcor = Surface(3, (2, 2), 2, 1)
    lngcor.terms = [(0, 0, 0.0), (1, 0, 0.05), (0, 1, 0.0)]
    latcor = Surface(3, (2, 2), 2, 1)
    latcor.terms = [(0, 0, 0.0), (1, 0, 0.0), (0, 1, 0.05)]
    found = FitsWcs(header(iraf_cards("TNX", lngcor, latcor)))
    star = np.array([[999.0 + 60], [899.0]])
    agrees(found, expected_sky(lngcor, latcor, star), star)
    plain = FitsWcs(header(cards(**cd_cards())))
    assert on_the_sky(np.array(found.pixel_to_world_values(*star)), np.array(plain.pixel_to_world_values(*star))) > (
        2.9 * SCALE
    )


@pytest.mark.parametrize("code", ["TNX", "ZPX"])
def test_declination_first(code: str) -> None:
    points, lngcor, latcor = pixels(40), Surface(1, (4, 3), 2, 1), Surface(2, (3, 4), 1, 2)
    found = FitsWcs(header(iraf_cards(code, lngcor, latcor, RADIAL if code == "ZPX" else "", axes=(2, 1))))
    agrees(found, expected_sky(lngcor, latcor, points, code), points)


@pytest.mark.parametrize("dec", [90.0, -90.0])
def test_at_the_poles(dec: float) -> None:
    """IRAF's native pole is at 180 degrees everywhere; the FITS standard turns it at the north pole."""
    points, lngcor, latcor = pixels(40), Surface(3, (3, 3), 2, 1), Surface(3, (3, 3), 2, 2)
    xi, eta = plane(points)
    expected = gnomonic(xi + lngcor(xi, eta), eta + latcor(xi, eta), RA0, dec)
    agrees(FitsWcs(iraf_cards("TNX", lngcor, latcor) | {"CRVAL2": dec}), expected, points)


def test_one_correction_alone_and_a_zpx_without_any() -> None:
    points, latcor = pixels(40), Surface(1, (3, 3), 2, 1)
    made = iraf_cards("TNX", latcor, latcor)
    for key in [key for key in made if key.startswith("WAT1_")]:
        del made[key]
    agrees(FitsWcs(made | {"WAT1_001": "wtype=tnx axtype=ra"}), expected_sky(None, latcor, points), points)
    radial = "projp1=1.0 projp3=337.74"
    plain = cards(CTYPE1="RA---ZPX", CTYPE2="DEC--ZPX", **cd_cards())
    plain |= {"WAT1_001": f"wtype=zpx axtype=ra {radial}", "WAT2_001": f"wtype=zpx axtype=dec {radial}"}
    agrees(FitsWcs(plain), expected_sky(None, None, points, "ZPX"), points)


def test_the_radial_polynomial_of_zpx_may_be_in_pv_cards() -> None:
    points, lngcor, latcor = pixels(40), Surface(3, (3, 3), 2, 1), Surface(3, (3, 3), 2, 2)
    made = iraf_cards("ZPX", lngcor, latcor) | {"PV2_1": 1.0, "PV2_3": 337.74}
    agrees(FitsWcs(made), expected_sky(lngcor, latcor, points, "ZPX"), points)


@settings(max_examples=25)
@given(width=st.integers(20, 68))
def test_texts_are_cut_anywhere(width: int) -> None:
    """As they are in a file: a blank at the end of a card counts."""
    lngcor, latcor = Surface(3, (3, 3), 2, 1), Surface(3, (3, 3), 2, 2)
    made = iraf_cards("TNX", lngcor, latcor)
    lines = [str(card) for card in header(made).cards if not card.keyword.startswith("WAT")]
    for axis, name, surface in ((1, "ra", lngcor), (2, "dec", latcor)):
        text = f'wtype=tnx axtype={name} {"lng" if axis == 1 else "lat"}cor = "{surface.text()}"'
        pieces = [text[i : i + width] for i in range(0, len(text), width)]
        lines += [f"WAT{axis}_{i:03}= '{piece}'" for i, piece in enumerate(pieces, 1)]
    points = pixels(10)
    found = FitsWcs(raw_header(*lines))
    agrees(found, expected_sky(lngcor, latcor, points), points)
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_mosaic_camera_as_ast_reads_it() -> None:
    """The example of the TNX document (ct4m, 1999), with cubic powers, by another library."""
    lines = [str(card) for card in header(cards(CTYPE1="RA---TNX", CTYPE2="DEC--TNX")).cards]
    lines = [line for line in lines if not line.startswith("CR")]
    lines += [
        "CRVAL1  =   310.08145293602507",
        "CRVAL2  =   20.663666538998399",
        "CRPIX1  =            4268.3258",
        "CRPIX2  =            2256.2481",
        "CD1_1   =       -6.8295807e-08",
        "CD2_1   =        7.3313414e-05",
        "CD1_2   =         7.374228e-05",
        "CD2_2   =       -1.1927219e-06",
        "EQUINOX =               2000.0",
    ]
    rng = np.random.default_rng(5)
    for axis, name in ((1, "ra"), (2, "dec")):
        terms = rng.normal(0, 1, 10) * [3e-4, 8e-4, 1e-3, 1e-3, 8e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]
        numbers = " ".join(f"{v:.14g}" for v in (3, 4, 4, 2, -0.317, -0.015, -0.313, -0.151, *terms))
        text = f'wtype=tnx axtype={name} {"lng" if axis == 1 else "lat"}cor = "{numbers}"'
        lines += [f"WAT{axis}_{i + 1:03}= '{text[j : j + 68]}'" for i, j in enumerate(range(0, len(text), 68))]
    channel = Ast.FitsChan([line.ljust(80) for line in lines], None, "Encoding=FITS-IRAF")
    frames = channel.read()
    assert frames is not None
    points = np.array([[1.0, 2000.0, 1.0, 700.0], [1.0, 4000.0, 4000.0, 123.0]])
    ast = np.degrees(frames.tran(points, True))
    place = SkyCoord(*ast, unit="deg", frame="fk5").icrs
    found = np.array(FitsWcs(raw_header(*lines)).pixel_to_world_values(*(points - 1)))
    assert on_the_sky(found, np.array([place.ra.deg, place.dec.deg])) < 1e-9


@pytest.mark.parametrize("beside", [{}, cards(**cd_cards()), {"CTYPE1": "RA---DSS", "CTYPE2": "DEC--DSS"}])
def test_plate_solutions_go_before_what_else_the_header_says(beside: dict[str, Any]) -> None:
    points = pixels(40) / 5
    made = {"NAXIS": 2, "NAXIS1": 400, "NAXIS2": 400} | beside | PLATE
    agrees(FitsWcs(header(made)), plate_sky(points), points)


@pytest.mark.parametrize("key", ["PLTRAH", "CNPIX1", "PPO3", "XPIXELSZ", "AMDX1"])
def test_a_plate_solution_that_lacks_a_part_is_refused(key: str) -> None:
    made = cards(**cd_cards()) | {name: value for name, value in PLATE.items() if name != key}
    with pytest.raises(WcsError, match=rf"Digitized Sky Survey .*{key} is missing") as caught:
        FitsWcs(header(made), path="plate.fits")
    assert caught.value.key == key


@pytest.mark.parametrize("size", [-1e300, 1e300, 1e-300, 0.05])
def test_a_plate_of_impossible_pixels_is_refused(size: float) -> None:
    with pytest.raises(WcsError, match=r"YPIXELSZ is .*micrometres") as caught:
        FitsWcs(header(cards(**cd_cards()) | PLATE | {"YPIXELSZ": size}), path="plate.fits")
    assert caught.value.key == "YPIXELSZ"


@pytest.mark.parametrize("key", ["AMDX14", "AMDY20"])
def test_plate_terms_that_depend_on_more_than_the_place_are_refused(key: str) -> None:
    """wcslib ends the process on them."""
    with pytest.raises(WcsError, match=f"{key} = 0.1") as caught:
        FitsWcs(PLATE | {key: 0.1})
    assert caught.value.key == key


GOOD = iraf_cards("TNX", Surface(3, (3, 3), 2, 1), Surface(3, (3, 3), 2, 2))


def changed(old: str, new: str) -> dict[str, Any]:
    text = "".join(str(GOOD[key]).ljust(68) for key in sorted(GOOD) if key.startswith("WAT1_"))
    made = {key: value for key, value in GOOD.items() if not key.startswith("WAT1_")}
    assert old in text
    text = text.replace(old, new, 1)
    return made | {f"WAT1_{i + 1:03}": text[j : j + 68] for i, j in enumerate(range(0, len(text), 68))}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({k: v for k, v in GOOD.items() if not k.startswith("WAT1")}, "no WAT1_001"),
        ({k: v for k, v in GOOD.items() if not k.startswith("WAT")}, "no WAT1_001"),
        ({k: v for k, v in GOOD.items() if k != "WAT2_002"}, "is invalid"),
        (changed("3. 3. 3. 2.", "4. 3. 3. 2."), "kind, orders and cross-terms are 4"),
        (changed("3. 3. 3. 2.", "3. 3. 3. 5."), "cross-terms are 3, 3, 3 and 5"),
        (changed("3. 3. 3. 2.", "3. 4. 3. 2."), "need 9 coefficients, and 6"),
        (changed("3. 3. 3. 2.", "3. 0. 3. 2."), "orders"),
        (changed("-0.081 0.077", "0.077 -0.081"), "range is empty"),
        (changed("-0.081 0.077", "INDEF 0.077"), "INDEF"),
        (changed("-0.081 0.077", "nan 0.077"), "not all finite"),
        (changed("wtype=tnx", "wtype=tnx longpole=90."), "longpole = 90"),
        (changed("wtype=tnx", "wtype=zpx"), "wtype = zpx"),
        (GOOD | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}, "CTYPE says TAN, and the WAT cards give .* tnx"),
        (GOOD | {"CTYPE2": "DEC--TAN"}, "RA---TNX and DEC--TAN"),
        (GOOD | {"PV1_1": 1.0, "PV2_5": 0.1}, r"PV cards \(PV1_1\) beside another"),
        (cards(**cd_cards(), **PLATE, PV2_5=0.1), r"PV cards \(PV2_5\) beside another"),
        (GOOD | {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6}, r"SIP cards \(A_2_0\) beside another"),
        (
            iraf_cards("ZPX", Surface(3, (2, 2), 2, 1), Surface(3, (2, 2), 2, 2), RADIAL) | {"PV2_3": 42.0},
            "projp3 is 337.74 .* 42.0",
        ),
        (iraf_cards("ZPX", Surface(3, (2, 2), 2, 1), Surface(3, (2, 2), 2, 2), "projp1=one "), "projp1 .* 'one'"),
    ],
    ids=itertools.count(),
)
def test_corrections_that_make_no_sense_are_refused(made: dict[str, Any], words: str) -> None:
    with pytest.raises(WcsError, match=words) as caught:
        FitsWcs(header(made), path="a.fits", hdu=1)
    assert str(caught.value).startswith("a.fits[1], key ") and caught.value.fix


def test_wat_cards_that_name_no_distortion_do_no_harm() -> None:
    points = pixels(10)
    plain = cards(
        **cd_cards(), WAT0_001="system=image", WAT1_001="wtype=tan axtype=ra", WAT2_001="wtype=tan axtype=dec"
    )
    agrees(FitsWcs(header(plain)), gnomonic(*plane(points)), points)


def test_positions_far_away_have_no_pixel_on_the_image() -> None:
    found = FitsWcs(header(GOOD))
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 2000), np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    far = np.hypot((ra - RA0 + 180) % 360 - 180, dec - 2.0) > 1
    x, y = found.world_to_pixel_values(ra[far], dec[far])
    assert not ((x > 0) & (x < 2000) & (y > 0) & (y < 2000)).any()


def test_a_plate_without_its_polynomials_is_what_ctype_says() -> None:
    points = pixels(10)
    left = {key: value for key, value in PLATE.items() if not key.startswith("AMD")}
    agrees(FitsWcs(header(cards(**cd_cards()) | left)), gnomonic(*plane(points)), points)
    with pytest.raises(WcsError, match="AMDX1 is missing"):
        FitsWcs(header(cards(**cd_cards()) | left | {"AMDX2": 0.1}))
