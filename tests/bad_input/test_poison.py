"""Files that end the process that reads them: each is named, and costs no other image anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from skygraft.errors import CorruptFileError
from skygraft.formats.fits import FitsFormat
from skygraft.processes import careful_map, process_mapper
from skygraft.survey import index_images

pytestmark = pytest.mark.usefixtures("real_children")


class Doubles:
    """Doubles numbers; negative ones kill their process, and 13 is refused."""

    def __call__(self, number: int) -> int:
        if number < 0:
            os.kill(os.getpid(), -number)
        if number == 0:
            return os.getpid()
        if number == 13:
            raise CorruptFileError("no luck", path="thirteen.fits")
        return 2 * number

    def lost(self, number: int, reason: str) -> str:
        return f"{number}: {reason}"

    def prepare(self) -> None:
        pass


def test_an_item_that_ends_its_process_costs_no_other() -> None:
    items = [1, -signal.SIGSEGV, 2, -signal.SIGKILL, -signal.SIGABRT, 3]
    wanted = [2, f"{-signal.SIGSEGV}: SIGSEGV", 4, f"{-signal.SIGKILL}: SIGKILL", f"{-signal.SIGABRT}: SIGABRT", 6]
    assert list(careful_map(Doubles(), items)) == wanted
    with process_mapper(1) as mapper:
        assert list(mapper(Doubles(), items, chunksize=2)) == wanted


def test_errors_come_through_and_the_child_ends() -> None:
    found = careful_map(Doubles(), [0, 13, 2])
    child = next(iter(found))
    assert child != os.getpid()
    with pytest.raises(CorruptFileError, match=r"thirteen\.fits: no luck"):
        list(found)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_plain_function_is_mapped_here() -> None:
    here: list[int] = []
    assert list(careful_map(here.append, [1, 2])) == [None, None]
    assert here == [1, 2]


def killing(good: Callable[..., Any]) -> Callable[..., Any]:
    def killed(self: FitsFormat, path: Any, **options: Any) -> Any:
        if "poison" in Path(path).name:
            os.kill(os.getpid(), signal.SIGSEGV)
        return good(self, path, **options)

    return killed


@pytest.fixture
def poison(night: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file between two sound ones that kills whatever process reads it."""
    for name in ("footprint", "calibration", "read", "open"):
        monkeypatch.setattr(FitsFormat, name, killing(getattr(FitsFormat, name)))
    night.write_image("ccd_1.fits")
    night.write_image("ccd_3.fits", detector=3)
    path: Path = night.write_image("ccd_2_poison.fits", detector=2)
    return path


WORDS = ("ccd_2_poison.fits", "SIGSEGV", "leave it out")


def test_inspect_names_it(night: Any, poison: Path, expect: Any) -> None:
    expect.failed(night.run("inspect", poison), *WORDS)
    assert night.run("inspect", night.folder / "ccd_1.fits").exit_code == 0


def test_index_goes_on(night: Any, poison: Path) -> None:
    result = night.run("index", night.folder / "ccd_*.fits")
    assert result.exit_code == 1
    assert all(word in result.output for word in (*WORDS, "2 images", "ccd_3"))
    index = index_images({"images": "ccd_*.fits"}, night.folder)
    assert len(index) == 2 and [Path(p).name for p in index.meta["failures"]["path"]] == [poison.name]


def test_plan_and_run_go_on(night: Any, poison: Path) -> None:
    config = night.write_campaign()
    planned = night.run("plan", config, "--processes", "1")
    said = " ".join(planned.output.split())
    assert poison.name in said and "SIGSEGV" in said
    ran = night.run("run", config, "--workers", "0")
    assert poison.name in ran.output and ran.exit_code == 1
    assert night.outputs() == ["ccd_1.fits", "ccd_3.fits"]


def test_calibration_that_kills_is_a_finding(night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The footprint can be read, the PSF cannot: the images of one piece are looked at one by one."""
    monkeypatch.setattr(FitsFormat, "calibration", killing(FitsFormat.calibration))
    night.write_image("ccd_1.fits")
    night.write_image("ccd_2_poison.fits", detector=2)
    said = " ".join(night.run("plan", night.write_campaign(), "--processes", "1").output.split())
    assert "unreadable" in said and "SIGSEGV" in said


def test_a_given_mapper_is_used(night: Any) -> None:
    """Who brings an executor decides where images are looked at."""
    night.write_image("ccd_1.fits")
    seen: list[int] = []

    def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        seen.append(os.getpid())
        with ThreadPoolExecutor(1) as pool:
            return list(pool.map(function, items))

    assert len(index_images({"images": "ccd_*.fits"}, night.folder, mapper=mapper)) == 1
    assert seen == [os.getpid()]
