"""Tests of a file run in one process, which makes what they share once."""

from __future__ import annotations

import pytest

ran: list[int] = []


@pytest.mark.parametrize("number", range(6))
def test_those_before_ran_here(number: int, request: pytest.FixtureRequest) -> None:
    chosen = [item.callspec.params["number"] for item in request.session.items if item.path == request.path]
    ran.append(number)
    assert ran == chosen[: chosen.index(number) + 1]
