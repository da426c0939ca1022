"""Fixtures shared by every room's tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kits.children import InThisProcess
from kits.forked_workers import fork_workers, forking, warm
from kits.grouping import group
from kits.quick_libraries import look_up_once
from skygraft import processes

# Modules and collected tests are millions of objects that stay. Looked at by the garbage collector again and again, and
# in each forked process, they are a tenth of the processor time of all tests.
gc.disable()


def pytest_collection_finish() -> None:
    """Leave to the garbage collector only what tests make."""
    gc.freeze()
    gc.enable()


# Before anything imports NumPy: of two threads that share a small product, one waits for the other at full speed. Where
# as many processes as processors run tests, that takes up to twenty times the processor time of one thread.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Tests write tens of thousands of files and wait for each to be on disk. In memory, where there is some, those of
# campaigns take half the time and four fifths of the processor time.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# Machines that run tests are shared: how long an example takes says nothing.
settings.register_profile("skygraft", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("skygraft")


# Started with nohup, or in the background of a script, tests of these signals would see none.
for _number, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


# Seconds that a test takes by its marker, roughly: what takes long begins first, and nobody waits for it at the end.
_SECONDS = {"cluster": 30.0, "slow": 8.0, "dask": 2.0}

_CHILD = processes._Child
_FORKS = {"forked_processes"}
"""Fixtures of tests whose processes are forked."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a file to one process, in place of xdist's own groups."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from kits.grouping import schedule

    return schedule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the reference data, so that ``-m "not data"`` leaves it out; the longest groups come first."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group(item.nodeid), []).append(item)
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("data")

    def seconds(item: pytest.Item) -> float:
        return next((long for name, long in _SECONDS.items() if item.get_closest_marker(name)), 0.2)

    items[:] = [item for group in sorted(groups.values(), key=lambda some: -sum(map(seconds, some))) for item in group]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Fork the server of forked processes while there are no threads and this process has all imported anyway."""
    if any(
        item.get_closest_marker("dask") or _FORKS & set(getattr(item, "fixturenames", ())) for item in session.items
    ):
        warm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_Child", InThisProcess)
        look_up_once(patch)
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the workers of Dask clusters the quick way."""
    if item.get_closest_marker("dask"):
        fork_workers()


@pytest.fixture
def real_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of `skygraft.processes.careful_map` may crash: they are in a process of their own, as outside of tests."""
    monkeypatch.setattr(processes, "_Child", _CHILD)


@pytest.fixture
def forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes of one command start the quick way."""
    monkeypatch.setattr("skygraft.processes.multiprocessing", forking())


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real reference data; the test is skipped where it is absent."""
    root = os.environ.get("SKYGRAFT_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(root)
    if not root.is_dir():
        pytest.skip(f"reference data not found at {root}; set SKYGRAFT_DATA to its folder")
    return root
