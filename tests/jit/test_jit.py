"""Compiled loops work where nothing can be written, too."""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import inline_closurecall

from skygraft.jit import compiled, fma, numba_side, scratch

_SIZE = 40


def test_a_node_without_a_writable_folder_still_compiles(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    @compiled
    def double(x):
        return 2 * x

    assert double(21) == 42


def test_other_errors_are_not_swallowed(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr(numba, "njit", broken)
    with pytest.raises(RuntimeError, match="something else"):
        compiled(lambda x: x)(1)


class Package:
    """A package with a compiled function that calls one of another file, uses a constant, and has a neighbour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pack"
        self.cache = folder / "cache"
        self.folder.mkdir()
        self.write("__init__", "")
        self.write("jit", "from skygraft.jit import compiled\n")
        self.write("inner", "from pack.jit import compiled\n\n\n@compiled\ndef inner(x):\n    return 3 * x\n")
        self.write("constants", "OFFSET = 0\n")
        self.write("neighbour", "from pack.jit import compiled\n\n\n@compiled\ndef other(x):\n    return x\n")
        self.write(
            "outer",
            "import pack.neighbour\nfrom pack.constants import OFFSET\nfrom pack.inner import inner\n"
            "from pack.jit import compiled\n\n\n@compiled\ndef outer(x):\n    return inner(x) + OFFSET\n",
        )

    def write(self, module: str, text: str) -> None:
        (self.folder / f"{module}.py").write_text(text)

    def start(self, code: str) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "NUMBA_CACHE_DIR": str(self.cache)}
        command = [sys.executable, "-B", "-c", code]
        return subprocess.Popen(command, cwd=self.folder.parent, env=environment, stdout=subprocess.PIPE, text=True)

    def run(self) -> list[str]:
        """What ``outer(2)`` gives, and how often it was found in the cache."""
        process = self.start("from pack.outer import outer; print(outer(2), sum(outer.stats.cache_hits.values()))")
        output, _ = process.communicate()
        assert process.returncode == 0
        return output.split()


@pytest.fixture
def package(tmp_path) -> Package:
    return Package(tmp_path)


def test_the_cache_is_renewed_by_changes_of_what_a_function_uses_and_of_nothing_else(package):
    """The code of a function contains that of those that it calls, also where they are in files of their own."""
    assert package.run() == ["6", "0"]
    package.write("neighbour", "from pack.jit import compiled\n\n\n@compiled\ndef other(x):\n    return x + 1\n")
    package.write("constants", "# A comment.\nOFFSET = 0\nUNUSED = 5\n")
    assert package.run() == ["6", "1"]
    package.write("inner", "from pack.jit import compiled\n\n\n@compiled\ndef inner(x):\n    return 5 * x\n")
    assert package.run() == ["10", "0"]
    package.write("constants", "OFFSET = 1\n")
    assert package.run() == ["11", "0"]


_COMPILE = """
from numba.core import event
class Count(event.Listener):
    n = 0
    def on_start(self, _): self.n += 1
    def on_end(self, _): pass
count = Count()
event.register("numba:compile", count)
from pack.outer import outer
print(outer(2), count.n)
"""


def test_of_processes_that_start_together_one_compiles_and_one_that_dies_stops_no_other(package):
    processes = [package.start(_COMPILE) for _ in range(3)]
    results = [process.communicate()[0].split() for process in processes]
    assert {result[0] for result in results} == {"6"}
    # One compiled both functions; the others loaded one that has the other in it.
    assert sorted(int(result[1]) for result in results) == [0, 0, 2]
    (lock,) = package.cache.glob(f"*/{numba_side._LOCK_NAME}")
    code = (
        f"import fcntl, os; fcntl.flock(open({str(lock)!r}, 'ab'), fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    command = [sys.executable, "-S", "-c", code]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    package.write("constants", "OFFSET = 1\n")
    waiting = package.start(_COMPILE)
    holder.kill()
    holder.communicate()
    assert waiting.communicate()[0].split()[0] == "7"


def test_where_there_are_no_locks_each_process_compiles(monkeypatch, tmp_path):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    lock = numba_side._Lock(tmp_path)
    with lock.while_compiling():
        assert not lock.take()


def test_read_only_arrays_and_constants_are_no_specialisations_of_their_own():
    @compiled(reads=("values",))
    def total(values, n):
        found = 0.0
        for i in range(n):
            found += values[i]
        return found

    @compiled
    def half(values):
        return total(values, 2) + total(values, values.size // 2)

    values = np.arange(4.0)
    assert total(values, 3) == 3.0
    assert half(values) == 2.0
    values.setflags(write=False)
    assert total(values, 4) == 6.0
    assert len(total.overloads) == 1


@compiled
def countdown(n):
    return 0 if n <= 0 else 1 + countdown(n - 1)


def test_a_function_may_call_itself_and_is_pickled_by_its_name():
    assert countdown(5) == 5
    assert pickle.loads(pickle.dumps(countdown)) is countdown


def test_a_function_keeps_its_name_and_text():
    @compiled
    def half(x):
        """Return half of it."""
        return x / 2

    assert (half.__name__, half.__doc__, half.__module__) == ("half", "Return half of it.", __name__)
    assert not hasattr(half, "__array__")
    assert half.py_func(3) == half(3) == 1.5


def test_numba_copies_the_scope_of_blocks_once_and_is_left_as_it_was():
    class Block:
        def __init__(self, scope):
            self.scope, self.body = scope, []

    scope = {"x": 1}
    blocks, copier = [Block(scope), Block(scope)], numba_side._Copier()
    first, second = [copier.deepcopy(block) for block in blocks], [copier.deepcopy(block) for block in blocks]
    assert first[0].scope is first[1].scope == scope
    assert second[0].scope is second[1].scope
    assert first[0].scope is not second[0].scope is not scope
    assert first[0].body is not blocks[0].body
    with numba_side._scopes_copied_once():
        assert isinstance(inline_closurecall.copy, numba_side._Copier)
    assert inline_closurecall.copy is copy


def test_a_long_cold_start_says_what_it_is(monkeypatch, caplog):
    def fresh():
        names = {"compiled": compiled}
        exec("@compiled\ndef twice(x):\n    return 2 * x", names)  # of no file, so it is on no disk
        return names["twice"]

    notice = numba_side._notice
    monkeypatch.setattr(notice, "_reported", False)
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
    @compiled
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
