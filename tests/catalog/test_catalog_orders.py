"""Orders of rows, groups of texts and reading ahead, compared with NumPy and plain Python."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.catalog.orders import Kinds, ahead, integer_order

LARGE = 2**63 - 1
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([-LARGE - 1, -LARGE, 0, LARGE]), st.integers(-(2**40), 2**40))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=40), st.booleans())
def test_the_order_is_that_of_lexsort(rows, narrow):
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    columns = columns % 7 if narrow else columns
    np.testing.assert_array_equal(integer_order(*columns), np.lexsort(columns[::-1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["Star", "Sersic", "", "star", "S", "Gaußian"]), max_size=30))
def test_kinds_are_the_distinct_texts(texts):
    kinds = Kinds(np.array(texts, dtype=np.str_))
    assert [kinds.names[code] for code in kinds.codes] == texts
    assert sorted(kinds.names) == sorted(set(texts))
    for wanted in (("Star",), ("Sersic", ""), (), tuple(set(texts))):
        assert kinds.among(wanted).tolist() == [text in wanted for text in texts]
        assert kinds.any(wanted) == any(text in wanted for text in texts)


def test_many_kinds():
    texts = np.array([f"k{i % 50}" for i in range(500)])
    kinds = Kinds(texts)
    assert np.array(kinds.names)[kinds.codes].tolist() == texts.tolist() and len(kinds.names) == 50


def test_the_next_item_is_made_in_another_thread():
    made = []

    def items():
        for i in range(4):
            made.append(threading.get_ident())
            yield i
        raise ValueError("the last")

    seen = []
    with pytest.raises(ValueError, match="the last"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == [0, 1, 2, 3]
    assert threading.get_ident() not in made


def test_reading_ahead_can_be_left_early():
    closed = []

    def items():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    for item in ahead(items()):
        if item == 2:
            break
    assert closed == [True]
    assert list(ahead([])) == []
