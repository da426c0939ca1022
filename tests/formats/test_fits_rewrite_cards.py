"""Header cards: what is put in comes out of astropy, and all other cards are the bytes that they were."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import assume, given
from hypothesis import strategies as st

from skygraft.errors import OutputError
from skygraft.fitsfile.cards import checksum_cards, datasum, edit_cards, header_of, join_cards

CARDS = [
    fits.Card("SIMPLE", True).image.encode(),
    fits.Card("BITPIX", 8).image.encode(),
    b"ODD     =   3.0E0  / kept as it is, spaces    and all".ljust(80),
    b"HIERARCH LONG-NAME = 4 / x".ljust(80),
    b"COMMENT one".ljust(80),
]
KEYS = st.one_of(
    st.from_regex(r"[A-Z][A-Z0-9_-]{0,7}", fullmatch=True).filter(lambda k: k not in ("END", "CONTINUE", "COMMENT")),
    st.from_regex(r"MP_[A-Z][A-Z_]{6,20}[A-Z]", fullmatch=True),
).filter(lambda k: k not in ("HISTORY", "SIMPLE", "BITPIX", "ODD", "HIERARCH"))
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda v: v == 0 or 1e-99 < abs(v) < 1e99),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
)


def astropy_reads(text: str) -> bool:
    """Whether astropy reads what it wrote itself: a quote before a slash is the end of a string to it."""
    return bool(fits.Header.fromstring(fits.Header([("TEXT", text)]).tostring())["TEXT"] == text)


@given(KEYS, VALUES.filter(lambda v: not isinstance(v, str) or astropy_reads(v)), TEXT)
def test_values_come_back_and_others_stay(key: str, value: object, comment: str) -> None:
    out = edit_cards(CARDS, {key: (value, comment)})
    assert all(len(card) == 80 for card in out)
    assert out[: len(CARDS)] == CARDS
    assert header_of(out)[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
    again = edit_cards(out, {key: (1, "")})
    assert header_of(again)[key] == 1
    assert edit_cards(again, {key: None}) == CARDS


@given(TEXT.filter(lambda t: "&" not in t))
def test_long_strings_continue(text: str) -> None:
    text = text.rstrip()
    assume(astropy_reads(text))
    out = edit_cards(CARDS, {"TEXT": (text, "a comment")})
    assert header_of(out)["TEXT"] == text
    assert edit_cards(edit_cards(out, {"TEXT": (3, "")}), {"TEXT": None}) == CARDS


def test_comment_that_is_too_long_is_cut() -> None:
    card = edit_cards([], {"MP_INJECTED_CORE": (13, "x" * 200)})[0]
    assert card.startswith(b"HIERARCH MP_INJECTED_CORE = 13 / xxx")
    assert len(card) == 80


def test_room_reserved_by_blank_cards_is_used() -> None:
    blank = b" " * 80
    out = edit_cards([*CARDS, blank, blank], {"NEW": (1, "")})
    assert len(out) == len(CARDS) + 2
    assert out[-1] == blank


def test_commentary_is_added_in_lines() -> None:
    out = edit_cards(CARDS, {"HISTORY": ("y" * 100, "")})
    assert [len(str(line)) for line in header_of(out)["HISTORY"]] == [72, 28]


@pytest.mark.parametrize("value", [np.inf, np.nan, object(), "ünïcode", [1]])
def test_values_that_no_card_can_hold(value: object) -> None:
    with pytest.raises(OutputError) as caught:
        edit_cards(CARDS, {"X": (value, "")}, path="a.fits", hdu=2)
    assert (caught.value.path, caught.value.hdu, caught.value.key) == ("a.fits", 2, "X")


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_datasum_of_parts_is_that_of_the_whole(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    words = np.frombuffer(whole + bytes(-len(whole) % 4), ">u4").astype(object)
    total = int(words.sum()) if len(words) else 0
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    assert datasum(parts) == total


@given(st.binary(max_size=100), st.integers(0, 10**6))
def test_checksum_makes_the_hdu_sum_to_all_ones(data: bytes, number: int) -> None:
    data = data.ljust(2880, b"\0")
    cards = edit_cards(CARDS, {"N": (number, ""), "CHECKSUM": ("0" * 16, "c"), "DATASUM": ("0", "d")})
    done = checksum_cards(cards, [data])
    assert datasum([join_cards(done), data]) == 0xFFFFFFFF
    assert int(header_of(done)["DATASUM"]) == datasum([data])
    assert checksum_cards(CARDS, [data]) == CARDS
