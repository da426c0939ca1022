"""JSON that nobody wrote by hand: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import pytest

from skygraft.json_text import parse_json


@pytest.mark.parametrize(
    "text", ["", "{", "[1,", b"\xff\xfe\x00", "[" * 100_000, '{"a":' * 50_000, "[" * 50_000 + "]" * 50_000]
)
def test_damaged(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_sound() -> None:
    assert parse_json('{"a": [1, 2.5, null, "x"]}') == {"a": [1, 2.5, None, "x"]}
    assert parse_json(b"[]") == []
