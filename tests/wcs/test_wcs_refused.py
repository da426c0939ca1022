"""Headers whose WCS cannot be meant: refused by the name of the card, never put somewhere by default."""

from __future__ import annotations

from typing import Any

import pytest

from kits.wcs_kit import PLATE, SCALE, SIP, cards, cd_cards, header, raw_header
from skygraft.errors import MissingWcsError, WcsError
from skygraft.wcs import FitsWcs

STEPS = {"CDELT1": -SCALE, "CDELT2": SCALE}
GOOD = cards(**cd_cards())


def lines_with(*more: str, without: tuple[str, ...] = ()) -> Any:
    kept = [str(card) for card in header(GOOD).cards if card.keyword not in without]
    return raw_header(*kept, *more)


@pytest.mark.parametrize("key", ["CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"])
@pytest.mark.parametrize(
    "line",
    [
        "",
        "=",
        "= / to be written",
        "= 'unknown'",
        "= '150.0'",
        "= NaN",
        "= nan",
        "= 1,5",
        "= 10:00:00",
        "= 1E999",
        "= T",
    ],
)
def test_the_reference_is_never_a_default(key: str, line: str) -> None:
    made = lines_with(*([f"{key:8}{line}"] if line else []), without=(key,))
    with pytest.raises(WcsError, match=f"{key} (is|has no value)|no {key}") as caught:
        FitsWcs(made, path="a.fits", hdu=2)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"a.fits[2], key {key}: ")


@pytest.mark.parametrize("key", ["CD1_1", "CD1_2", "CD2_2", "PV1_1", "A_2_0", "A_ORDER", "CROTA2", "PC1_1", "CD001001"])
@pytest.mark.parametrize("line", ["=", "= 'x'", "= NaN", "= -Inf"])
def test_numbers_of_the_solution_are_numbers(key: str, line: str) -> None:
    with pytest.raises(WcsError, match=key) as caught:
        FitsWcs(lines_with(f"{key:8}{line}", without=(key,)))
    assert caught.value.key == key


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no matrix": (cards(), "CDELT1", "neither CDELT nor a CD matrix: its pixels would be of one degree"),
    "one step": (cards(CDELT1=-SCALE), "CDELT2", "no CDELT2"),
    "a rotation without a scale": (cards(PC1_1=0.8, PC1_2=-0.6, PC2_1=0.6, PC2_2=0.8), "CDELT1", "no CDELT1"),
    "a matrix of rank one": (
        cards(CD1_1=1e-5, CD1_2=1e-5, CD2_1=1e-5, CD2_2=1e-5),
        "CD1_1",
        "CD matrix of the WCS is singular",
    ),
    "a row of zeros": (GOOD | {"CD1_1": 0.0, "CD1_2": 0.0}, "CD1_1", "singular"),
    "half a CD matrix": (cards(CD1_1=1e-5), "CD1_1", "singular"),
    "steps of zero": (cards(CDELT1=0.0, CDELT2=SCALE), "CDELT1", "CDELT matrix .* singular"),
    "PC of zeros": (cards(**STEPS, PC1_1=0.0, PC2_2=0.0), "CDELT1", "singular"),
    "CD and PC": (GOOD | {"PC1_1": 1.0, "PC2_2": 1.0}, "CD1_1", "CD cards and the PC cards disagree"),
    "PC and CROTA2": (cards(**STEPS, PC1_1=1.0, CROTA2=30.0), "CROTA2", "CROTA2 = 30.0 and the PC cards disagree"),
    "CROTA1 alone": (cards(**STEPS, CROTA1=30.0), "CROTA1", "CROTA1 is 30.0 and CROTA2, .* is not there"),
    "CROTA1 and another": (cards(**STEPS, CROTA1=30.0, CROTA2=10.0), "CROTA1", "CROTA2, .* is 10.0"),
    "a third axis": (
        GOOD | {"NAXIS": 3, "NAXIS3": 1, "CTYPE3": "FREQ", "CRPIX3": 3.0, "CRVAL3": 1e9, "CD3_3": 1.0, "CD1_3": 1e-5},
        "CD1_3",
        "depend on axis 3",
    ),
    "a table": (GOOD | {"CTYPE1": "RA---TAB", "CTYPE2": "DEC--TAB"}, "CTYPE1", "in a table"),
    "SIP without an order": (GOOD | {"A_2_0": 1e-6}, "A_ORDER", r"SIP cards \(A_2_0\) and no A_ORDER"),
    "SIP of one axis": (GOOD | {"A_ORDER": 2, "A_2_0": 1e-6}, "B_ORDER", "no B_ORDER"),
    "SIP beyond its order": (GOOD | SIP | {"A_3_0": 1e-9}, "A_3_0", "A_3_0 is beyond A_ORDER = 2"),
    "SIP beside a plate solution": (GOOD | SIP | PLATE, "A_2_0", "beside another distortion"),
    "a linear SCAMP solution": (GOOD | {"PV1_1": 1.0, "PV2_1": 1.0}, "PV1_1", "two meanings"),
    "PROJP and PV": (
        cards(CTYPE1="RA---ZPN", CTYPE2="DEC--ZPN", **cd_cards(), PV2_1=1.0, PV2_3=42.0, PROJP3=220.0),
        "PROJP3",
        "PROJP3 is 220.0 and PV2_3, .* is 42.0",
    ),
    "PROJP and TAN": (GOOD | {"PROJP3": 220.0}, "PROJP3", "has no meaning beside RA---TAN"),
    "an equinox of zero": (GOOD | {"EQUINOX": 0.0}, "EQUINOX", "EQUINOX is 0.0; a year"),
    "an equinox in other words": (GOOD | {"EQUINOX": "of date"}, "EQUINOX", "'of date'"),
    "a system of one's own": (GOOD | {"RADESYS": "GAPPT"}, "RADESYS", "'GAPPT' is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(name: str) -> None:
    made, key, words = REFUSED[name]
    with pytest.raises(WcsError, match=words) as caught:
        FitsWcs(header(made), path="a.fits", hdu="SCI")
    assert caught.value.key == key
    assert str(caught.value).startswith(f"a.fits[SCI], key {key}: ") and caught.value.fix


@pytest.mark.parametrize(
    "key", ["CRVAL1", "CRPIX2", "CD1_1", "CTYPE1", "EQUINOX", "LONPOLE", "PV2_1", "A_2_0", "RADESYS", "CUNIT1"]
)
def test_two_cards_of_one_name_that_differ_are_refused(key: str) -> None:
    text = {"CTYPE1": "'DEC--TAN'", "RADESYS": "'FK4'", "CUNIT1": "'arcsec'"}
    first = {"CTYPE1": "'RA---TAN'", "RADESYS": "'FK5'", "CUNIT1": "'deg'"}.get(key, "1.5")
    kept = [str(card) for card in header(GOOD).cards if card.keyword != key]
    made = raw_header(f"{key:8}= {first}", *kept, f"{key:8}= {text.get(key, '1.5000001')}")
    with pytest.raises(WcsError, match=f"{key} is there twice, with different values") as caught:
        FitsWcs(made)
    assert caught.value.key == key
    same = [str(card) for card in header(GOOD).cards]
    assert FitsWcs(raw_header(*same, *same[3:])) == FitsWcs(header(GOOD))


@pytest.mark.parametrize("key", ["CPDIS1", "CPDIS2", "CQDIS1", "D2IMDIS1", "D2IMDIS2"])
@pytest.mark.parametrize("kind", ["Lookup", "Polynomial", "TPD"])
def test_distortions_that_are_not_applied_are_refused(key: str, kind: str) -> None:
    with pytest.raises(WcsError, match=f"{key}.*not supported"):
        FitsWcs(header(GOOD | {key: kind}))


def test_only_alternates_are_named() -> None:
    alternate = {f"{key}B": value for key, value in GOOD.items() if not key.startswith("NAXIS")}
    with pytest.raises(MissingWcsError, match="only those of the alternate description B"):
        FitsWcs(header(alternate))


def test_celestial_axes_that_are_not_those_of_the_image_are_named() -> None:
    made = cards(
        CTYPE2="FREQ", CTYPE3="DEC--TAN", NAXIS=3, CRVAL3=2.0, CRPIX3=1.0, CDELT1=1e-5, CDELT2=1.0, CDELT3=1e-5
    )
    with pytest.raises(MissingWcsError, match="celestial axes are 1 and 3, and those of an image are 1 and 2"):
        FitsWcs(header(made))
