"""Compiled loops work where nothing can be written, too."""

from __future__ import annotations

import numba
import pytest

from skygraft.jit import compiled


def test_a_node_without_a_writable_folder_still_compiles(monkeypatch):
    real = numba.njit

    def refusing(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return real(*args, **options)

    monkeypatch.setattr(numba, "njit", refusing)

    @compiled
    def double(x):
        return 2 * x

    assert double(21) == 42


def test_other_errors_are_not_swallowed(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr(numba, "njit", broken)
    with pytest.raises(RuntimeError, match="something else"):
        compiled(lambda x: x)
