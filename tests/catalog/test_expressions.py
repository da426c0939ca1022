"""Expressions that select rows: what they mean, by Python's own rules, and what is refused, with its place."""

from __future__ import annotations

import contextlib
import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.catalog import normalize_catalog
from skygraft.catalog.expressions import parse
from skygraft.catalog.io import to_arrow
from skygraft.catalog.row_choice import ImageFacts, RowChoice
from skygraft.errors import CatalogError

NAN = math.nan
BIG = 2**53 + 1
ROWS = {
    "injection_id": [1, 2, 3, 4],
    "ra": [150.0, 150.1, 150.2, 150.3],
    "dec": [2.0, -2.0, 0.0, 1.0],
    "source_type": ["Star", "Sersic", "Star", "Sersic"],
    "mag_g": [20.0, 21.0, NAN, 23.0],
    "mag_r": [19.0, 21.5, 22.0, 22.5],
    "n": [NAN, 1.0, NAN, 4.0],
    "half_light_radius": [NAN, 0.5, NAN, 2.0],
    "object_id": [BIG, BIG - 1, 7, 2**63 - 1],
    "survey": ["deep", "wide", "deep", ""],
    "good": [True, False, True, True],
    "a b": [1, 2, 3, 4],
}
TABLE = normalize_catalog(ROWS)


def chosen(text, table=TABLE):
    choice = RowChoice(text)
    stored = to_arrow(table)
    keep = choice.mask(choice.columns_of(table), len(table))
    # Tables as they are stored in partitions give the same.
    assert choice.mask(choice.columns_of(stored), len(table)).tolist() == keep.tolist()
    assert choice.filter(table)["injection_id"].tolist() == table["injection_id"][keep].tolist()
    return table["injection_id"][keep].tolist()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("mag_r < 22", [1, 2]),
        ("mag_r <= 22 and mag_r >= 21.5", [2, 3]),
        ("mag_r > 22 or mag_r < 20", [1, 4]),
        ("21 < mag_r <= 22", [2, 3]),
        ("mag_r between 21.5 and 22", [2, 3]),
        ("not mag_r between 21.5 and 22", [1, 4]),
        ("mag_r not between 21.5 and 22 and dec > 1.5", [1]),
        ("mag_g - mag_r > 0.4", [1, 4]),
        ("mag_g - mag_r * 2 + 20 > 1 - 1", [1]),
        ("-dec > 1", [2]),
        ("- - dec > 1.5", [1]),
        ("(mag_g + mag_r) / 2 < 20", [1]),
        ("isnan(mag_g)", [3]),
        ("not isnan(mag_g) and not isfinite(n)", [1]),
        ("mag_g < 99", [1, 2, 4]),
        ("mag_g != 20", [2, 3, 4]),
        ("not (mag_g > 20)", [1, 3]),
        ("abs(dec) = 2", [1, 2]),
        ("sqrt(abs(dec)) < 1.2 and log10(half_light_radius) > 0", [4]),
        ("dec / 0 > 5", [1, 4]),
        ('source_type == "Star"', [1, 3]),
        ("source_type != 'Star'", [2, 4]),
        ("source_type in ['Star', \"Moffat\"]", [1, 3]),
        ("survey not in ('deep', '')", [2]),
        ("injection_id in [2, -1, 4.0]", [2, 4]),
        (f"object_id == {BIG}", [1]),
        (f"object_id in [{BIG - 1}]", [2]),
        (f"object_id > {2**63 - 2}", [4]),
        ("good", [1, 3, 4]),
        ("good == false", [2]),
        ("NOT good OR injection_id = 1", [1, 2]),
        ("`a b` > 2", [3, 4]),
        ("true", [1, 2, 3, 4]),
        ("visit == -1 and isnan(trunc) and light_curve == ''", [1, 2, 3, 4]),
        ("1 < 2", [1, 2, 3, 4]),
        ("1e3 > 999 and .5 < 1. and mag_r<2.2e1", [1, 2]),
        ("true or true and false", [1, 2, 3, 4]),
        ("", [1, 2, 3, 4]),
    ],
)
def test_what_expressions_mean(text, ids):
    assert chosen(text) == ids


numbers = st.one_of(st.integers(-9, 9), st.floats(-9, 9, allow_nan=False).map(lambda x: round(x, 3)))
terms = st.recursive(
    st.one_of(numbers.map(lambda x: f"({x})" if x < 0 else str(x)), st.sampled_from(["mag_r", "dec", "injection_id"])),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=5,
)
compared = st.tuples(terms, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), terms).map(" ".join)
conditions = st.recursive(
    compared,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(lambda t: f"({t[0]}){t[1]}({t[2]})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(conditions)
def test_numbers_and_conditions_are_as_in_python(text):
    """Where both grammars agree, Python decides row by row what is right."""
    wanted = []
    for row in range(4):
        known = {name: float(ROWS[name][row]) for name in ("mag_r", "dec", "injection_id")}
        if eval(text, {"__builtins__": {}}, known):
            wanted.append(row + 1)
    assert chosen(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mag_r <", "it ends, and a value is needed (at its end"),
        ("mag_r << 2", "there is '<', and a value is needed (at character 8"),
        ("mag_z < 22", "there is no column 'mag_z' (at character 1"),
        ("mag_r < 22 and colour > 2", "there is no column 'colour' (at character 16"),
        ("mag_r", "it is not a condition"),
        ("mag_r + 1", "it is not a condition"),
        ("mag_r and true", "'and' joins conditions, and this is a number (at character 1"),
        ("not mag_r", "'not' turns one, and this is a number (at character 5"),
        ("source_type < 3", "< needs numbers, and this is a text"),
        ("source_type == Star", "there is no column 'Star'"),
        ("source_type == 3", "a text is compared with a number"),
        ("mag_r in ['a']", "a number is compared with a text"),
        ("mag_r in [1, 'a']", "the list has both numbers and texts"),
        ("mag_r in 3", "a list of values"),
        ("mag_r in []", "a number or a text in quotes"),
        ("mag_r in [1", "there is|it ends"),
        ("isnan(source_type)", "isnan needs a number, and this is a text"),
        ("exec('rm')", "there is no function 'exec'"),
        ("(lambda: 1)()", "':' has no meaning here"),
        ("mag_r.real > 1", "names have no dots"),
        ("[x for x in 1]", "a value is needed"),
        ("mag_r > 1 & mag_g > 2", "write 'and'"),
        ("mag_r % 2 == 0", "there is + - * /"),
        ("survey == 'deep", "the quotes are not closed"),
        ("mag_r between 1", "'and' between the two ends"),
        ("mag_r not 3", "'in' or 'between' is needed"),
        ("(mag_r < 3", "for the bracket at character 1"),
        ("mag_r < 3)", "an operator, such as 'and', is needed"),
        ("and", "a value is needed"),
        ("1 +* 2 > 0", "a value is needed"),
        ("\u0000", "has no meaning here"),
    ],
)
def test_what_is_refused_with_its_place(text, message):
    with pytest.raises(CatalogError) as caught:
        chosen(text)
    error = str(caught.value)
    assert any(part in error for part in message.split("|")), error
    assert "key select" in error
    assert str(pickle.loads(pickle.dumps(caught.value))) == error


def test_the_nearest_column_is_named():
    with pytest.raises(CatalogError, match=r"Did you mean 'mag_[rg]' or 'mag_[rg]'\?"):
        chosen("mag_z < 22")
    with pytest.raises(CatalogError, match="Did you mean 'survey'"):
        chosen("Servey == 'deep'")
    with pytest.raises(CatalogError, match="Did you mean 'sqrt'"):
        chosen("sqr(mag_r) < 2")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "true" + ")" * 4000,
        "(" * 900 + "true" + ")" * 900,
        "-" * 1500 + "1 > 0",
        "not " * 1500 + "true",
        "abs(" * 900 + "1" + ")" * 900 + "> 0",
        "1 + " * 900 + "1 > 0",
        "1 / " * 900 + "1 > 0",
        " < ".join("1" * 900),
        "true or " * 1800 + "true",
        "x" * 20_000,
    ],
    ids=lambda text: text[:8],
)
def test_deep_and_long_expressions_never_crash(text):
    try:
        parse(text)
    except CatalogError as error:
        assert len(str(error)) < 400
    else:
        assert RowChoice(text).mask({}, 3).size == 3


words = [*"()[],<>=+-*/!'\"", "and", "or", "not", "in", "1", "mag_r", "between", "isnan", " "]


@settings(max_examples=60)
@given(st.text(max_size=40) | st.lists(st.sampled_from(words), max_size=25).map(" ".join))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(CatalogError):
        chosen(text)


def test_of_an_image():
    image = ImageFacts(visit=1002, band="r", detector="012", mjd=60000.5)

    def drawn(text, image=image):
        choice = RowChoice(text, of_image=True)
        return TABLE["injection_id"][choice.mask(choice.columns_of(TABLE), 4, image)].tolist()

    assert drawn("mag < 22") == [1, 2]
    assert drawn("mag < 22", ImageFacts(band="g")) == [1, 2]
    assert drawn("isnan(mag)", ImageFacts(band="z")) == [1, 2, 3, 4]
    assert drawn("band in ['r', 'i'] and mjd between 60000 and 60001 and visit == 1002") == [1, 2, 3, 4]
    assert drawn("band == 'g' or injection_id > 3") == [4]
    # Surveys name detectors by numbers or words.
    assert drawn("detector == 12") == drawn("detector in [11, 12]") == drawn("detector == '012'") == [1, 2, 3, 4]
    assert drawn("detector < 12") == drawn("detector == '12'") == []
    assert drawn("detector < 99", ImageFacts(detector="S12")) == []
    assert drawn("detector == 'S12'", ImageFacts(detector="S12")) == [1, 2, 3, 4]
    # A coadd without a visit, and an image without a time.
    assert drawn("visit == -1 and isnan(mjd) and not mjd > 0", ImageFacts()) == [1, 2, 3, 4]
    # Without an image these names are columns, or nothing.
    with pytest.raises(CatalogError, match="no column 'band'"):
        chosen("band == 'r'")
    assert chosen("visit == -1") == [1, 2, 3, 4]


def test_several_images_at_once_are_as_one_by_one():
    choice = RowChoice("mag < 22 and mjd > 5 or injection_id == 4", of_image=True)
    columns = choice.columns_of(TABLE)
    images = [ImageFacts(1, "g", "1", 9.0), ImageFacts(2, "r", "1", 3.0), ImageFacts(3, "r", None, 6.0), ImageFacts()]
    offsets, rows = np.array([0, 3, 4, 4, 8]), np.array([0, 1, 3, 3, 0, 1, 2, 3])
    kept, chosen_rows = choice.keep(offsets, rows, columns, images)
    for i, image in enumerate(images):
        mine = rows[offsets[i] : offsets[i + 1]]
        one = choice.rows(to_arrow(TABLE), mine, image)
        assert chosen_rows[kept[i] : kept[i + 1]].tolist() == one.tolist()
    assert kept.tolist() == [0, 3, 4, 4, 5]


def test_columns_of_odd_types():
    table = pa.table(
        {
            "injection_id": [1, 2, 3], "ra": [1.0, 2, 3], "dec": [0.0] * 3, "source_type": ["Star"] * 3,
            "word": pa.array(["a", None, "b"]).dictionary_encode(), "some": pa.array([1, None, 3]),
            "list": [[1], [2, 3], []],
        }
    )  # fmt: skip
    choice = RowChoice("word == 'a' or some == 3")
    assert choice.mask(choice.columns_of(table), 3).tolist() == [True, False, True]
    choice = RowChoice("not some > 0")
    assert choice.mask(choice.columns_of(table), 3).tolist() == [False, True, False]
    with pytest.raises(CatalogError, match="no column 'list'"):
        RowChoice("list > 1").columns_of(table)
