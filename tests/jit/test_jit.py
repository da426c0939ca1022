"""Compiled loops work where nothing can be written, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import skygraft.jit
from skygraft.jit import compiled, fma, scratch

_SIZE = 40


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


def test_what_is_on_disk_goes_when_another_file_changes(tmp_path):
    """A function has the code of those that it calls in it, also where they are in files of their own."""
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jit.py").write_text(Path(skygraft.jit.__file__).read_text())
    (package / "outer.py").write_text(
        "from pack.inner import inner\n"
        "from pack.jit import compiled\n\n\n"
        "@compiled\ndef outer(x):\n    return inner(x)\n"
    )

    def run(factor):
        (package / "inner.py").write_text(
            f"from pack.jit import compiled\n\n\n@compiled\ndef inner(x):\n    return {factor} * x\n"
        )
        code = "from pack.outer import outer; print(outer(2), sum(outer.stats.cache_hits.values()))"
        environment = {"PATH": os.environ["PATH"], "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-B", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run(3) == ["6", "0"]
    assert run(3) == ["6", "1"]
    assert run(5) == ["10", "0"]


def test_a_long_cold_start_says_what_it_is(monkeypatch, caplog):
    def fresh():
        names = {"compiled": compiled}
        exec("@compiled\ndef twice(x):\n    return 2 * x", names)  # of no file, so it is on no disk
        return names["twice"]

    notice = skygraft.jit._notice
    monkeypatch.setattr(notice, "_told", False)
    monkeypatch.setattr(notice, "spent", 0.0)
    assert fresh()(4) == 8
    assert notice.spent > 0
    assert not caplog.records
    monkeypatch.setattr(notice, "spent", 60.0)
    assert fresh()(4) == fresh()(4) == 8
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "skygraft compiles its loops for this machine"
    ]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_joined_product_and_sum_is_rounded_once(kind):
    @numba.njit
    def joined(a, b, c):
        return fma(a, b, c)

    small = kind(2.0 ** -(np.finfo(kind).nmant // 2 + 1))
    a, b = kind(1) + small, -(kind(1) + 2 * small)
    # (1 + s)^2 = 1 + 2 s + s^2, of which rounding in between loses the last
    assert a * a + b == 0
    assert joined(a, a, b) == small * small


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint32, np.uint64])
def test_arrays_on_the_stack_are_arrays_like_others(kind):
    def turn(n):
        first, second = scratch(_SIZE, kind), scratch(_SIZE, kind)
        for i in range(n):
            first[i] = i
        for i in range(n):
            second[n - 1 - i] = first[i]
        return first.size, second[:n].copy(), first[:n].copy()

    size, turned, straight = compiled(turn)(33)
    assert size == _SIZE
    assert turned.dtype == kind
    np.testing.assert_array_equal(straight, np.arange(33))
    np.testing.assert_array_equal(turned, np.arange(33)[::-1])
