"""The live view in the terminal, against ledgers that the writer wrote, event by event."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kits.plan_kit import add_images
from skygraft.campaign import Campaign, ImageSummary
from skygraft.monitoring.follower import Follower
from skygraft.monitoring.overview import PatchTable
from skygraft.monitoring.watch import line, sky_strip, view, watch
from skygraft.records.events import Event, ImageEvent, RunEnded, RunStarted, TablesStarted, event_line
from skygraft.records.ledger import Ledger
from skygraft.records.plan_file import PlannedImage, PlanWriter
from skygraft.wording import verdict

START = datetime(2026, 3, 1, 2, 0, 0, tzinfo=UTC).timestamp()
N = 12
"""Images, three in each of four patches."""


def planned(k: int) -> PlannedImage:
    return PlannedImage(
        image_id=f"i{k}",
        stem=f"i{k}",
        path=f"i{k}.fits",
        hdu="",
        format="fits",
        instrument="cam",
        visit=1,
        detector=str(k),
        band="r",
        mjd=60000.0,
        exposure_time=30.0,
        nx=10,
        ny=10,
        ra=150.0 + 0.2 * ((k // 3) % 2),
        dec=2.0 + 0.2 * (k // 6),
        polygon=((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)),
        pixel_scale=0.2,
        n_bytes=100,
        options="{}",
        tract=9,
        patch=k // 3,
        reads=((9, k // 3),),
        n_sources=10,
        cost_seconds=2.0,
        output=f"i{k}.fits",
        catalog_key=f"key{k}",
    )


class Book:
    """A campaign with a plan of `N` images and a ledger whose events are dated by hand."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign, self.layout, self.now = campaign, campaign.layout, START
        self.layout.root.mkdir(parents=True, exist_ok=True)
        with PlanWriter(self.layout.plan) as plan:
            add_images(plan, [planned(k) for k in range(N)])
            plan.metadata.update({"unusable": [{"path": "x", "error": "E", "reason": "r"}]})

    def write(self, text: str) -> None:
        with self.layout.ledger.open("a") as handle:
            handle.write(text)

    def append(self, event: Event, *, after: float = 1.0) -> None:
        self.now += after
        at = datetime.fromtimestamp(self.now, UTC).isoformat(timespec="milliseconds")
        with Ledger(self.layout.ledger) as ledger:
            ledger.append([dataclasses.replace(event, time=at)])

    def begin(self, waiting: int = N, *, after: float = 1.0, redo: bool = False) -> None:
        self.append(RunStarted(images=N, waiting=waiting, redo=redo), after=after)

    def end(self, **content: Any) -> None:
        self.append(RunEnded(n_images=N, **content))

    def done(self, *numbers: int, **content: Any) -> None:
        for k in numbers:
            summary = ImageSummary(f"i{k}", "done", n_sources=10, n_bytes=1000, wall_seconds=1.5, **content)
            self.append(ImageEvent.of(summary))

    def failed(self, *numbers: int, **content: Any) -> None:
        for k in numbers:
            summary = ImageSummary(f"i{k}", "failed", error="OSError", message="no [disk]", host="bad", **content)
            self.append(ImageEvent.of(summary))

    def held_by(self, text: str) -> None:
        self.layout.lock.write_text(text)

    def follow(self) -> Follower:
        return Follower(self.campaign.config, now=lambda: self.now)


@pytest.fixture
def book(make_campaign: Callable[..., Campaign]) -> Book:
    return Book(make_campaign())


def numbers(follower: Follower) -> tuple[int, int, int]:
    images = follower.snapshot()["images"]
    return images["done"], images["failed"], images["left"]


def test_nothing_has_run_yet(book: Book) -> None:
    follower = book.follow()
    assert follower.snapshot()["state"] == "not started" and "start with skygraft run" in follower.snapshot()["advice"]
    assert numbers(follower) == (0, 0, 12) and follower.snapshot()["images"]["unusable"] == 1
    book.begin()
    book.done(0)
    follower.update()
    assert numbers(follower) == (1, 0, 11)


def test_runs_before_the_last_one_count_for_what_was_done(book: Book) -> None:
    book.begin()
    book.done(0, 1, 2)
    book.failed(3, 4)
    book.end(interrupted=2)
    book.begin(9, after=3600)
    follower = book.follow()
    assert numbers(follower) == (3, 2, 7)
    book.done(5, 3)  # 3 had failed in the run before
    book.failed(4, 6)
    book.done(6)
    book.failed(7)
    for _ in range(2):  # read on, and read from the beginning
        follower.update()
        assert numbers(follower) == (6, 2, 4)
        shot = follower.snapshot()
        assert (shot["images"]["made"], shot["images"]["recovered"]) == (3, 1)
        assert shot["failures"]["by_error"] == {"OSError": 2}
        assert shot["sources"]["drawn"] == 30 and shot["elapsed_seconds"] == 6
        patches = follower.progress.patches
        assert (patches.n_done.tolist(), patches.n_failed.tolist()) == ([3, 2, 1, 0], [0, 1, 1, 0])
        follower = book.follow()


def test_images_made_again_are_not_counted_twice(book: Book) -> None:
    book.begin()
    book.done(*range(N))
    book.end()
    book.begin(2, redo=True)
    book.done(4)
    book.failed(5)
    assert numbers(book.follow()) == (11, 1, 0)


def test_half_a_line_waits_for_its_other_half(book: Book) -> None:
    book.begin()
    follower = book.follow()
    text = event_line(ImageEvent("i1", "done"), "2026-03-01T02:00:05.000+00:00").decode().rstrip()
    book.write(text[:40])
    follower.update()
    assert numbers(follower) == (0, 0, 12)
    book.write(text[40:] + "\n" + "{broken\n")
    book.done(2)
    book.append(ImageEvent("not in the plan", "done"))
    follower.update()
    assert numbers(follower) == (2, 0, 10)


def test_a_rebuilt_ledger_is_read_from_the_beginning(book: Book) -> None:
    book.begin()
    book.done(0, 1, 2, 3)
    follower = book.follow()
    other = book.layout.ledger.with_name("new")
    other.write_text("".join(book.layout.ledger.read_text().splitlines(keepends=True)[:3]))
    other.replace(book.layout.ledger)
    follower.update()
    assert numbers(follower) == (2, 0, 10)


def test_whether_the_driver_is_alive(book: Book) -> None:
    book.begin()
    book.done(0)
    follower = book.follow()
    with book.layout.locked():
        shot = follower.snapshot()
        assert shot["state"] == "running" and shot["driver"] == f"process {os.getpid()} on {os.uname().nodename}"
    # The lock of this machine is free: whoever held it is dead.
    shot = follower.snapshot()
    assert shot["state"] == "dead" and "Resume with skygraft run" in shot["advice"] and shot["eta"] is None
    # That of another may not be seen here: its ledger grows as long as it lives.
    book.held_by("process 1 on elsewhere")
    book.now += 60
    assert follower.snapshot()["state"] == "running"
    book.now += 100
    assert follower.snapshot()["state"] == "dead" and follower.snapshot()["silent_seconds"] == 160
    book.end(interrupted=15)
    follower.update()
    assert follower.snapshot()["state"] == "stopped"
    book.begin()
    book.done(*range(1, N))
    book.end()
    follower.update()
    assert follower.snapshot()["state"] == "finished" and follower.snapshot()["advice"] == ""


def test_lines_and_json_until_it_is_finished(book: Book) -> None:
    book.begin()
    book.done(0, 1)

    def work(seconds: float) -> None:
        assert seconds == 7.0
        if numbers(book.follow())[0] == 2:
            book.done(2, 3, 4, 5)
            book.failed(6)
        else:
            book.done(*range(7, N))
            book.end()

    for as_json in (False, True):
        out = io.StringIO()
        copy = book.layout.ledger.read_text()
        last = watch(book.campaign.config, interval=7.0, as_json=as_json, out=out, sleep=work)
        lines = out.getvalue().splitlines()
        assert len(lines) == 3 and last["state"] == "finished"
        if as_json:
            assert [json.loads(text)["images"]["done"] for text in lines] == [2, 6, 11]
            assert json.loads(lines[2])["version"] == 1
        else:
            assert "2 of 12 images done (16.7 %), 0 failed, 10 left" in lines[0]
            assert "11 of 12 images done (91.7 %), 1 failed, 0 left, images failed" in lines[2]
        book.layout.ledger.write_text(copy)


def test_finished_with_failures_is_not_green(book: Book) -> None:
    book.begin()
    book.done(*range(N - 2))
    book.failed(N - 2, N - 1)
    book.end(n_failed=2)
    follower = book.follow()
    shot = follower.snapshot()
    assert shot["state"] == "finished"
    assert "finished, but 2 images failed, 1 cannot be used" in line(shot)
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system="standard")
    console.print(view(shot, follower.progress.patches))
    title = console.file.getvalue().splitlines()[0]
    assert "\x1b[1;33mfinished, but" in title and "\x1b[1;32m" not in title
    assert verdict("finished", "", n_failed=0, n_unusable=0) == ("finished", "good")


def test_the_tables_are_part_of_the_run(book: Book) -> None:
    book.begin()
    book.done(*range(N))
    book.append(TablesStarted())
    with book.layout.locked():
        assert "running: making the tables: 12 of 12 images done" in line(book.follow().snapshot())


def test_interrupting_it_is_no_error(book: Book) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    assert watch(book.campaign.config, out=io.StringIO(), sleep=interrupt)["images"]["total"] == N


def test_the_view_has_the_important_numbers(book: Book) -> None:
    book.begin()
    book.done(*range(8), closure_mag=0.0005, band="r", stages={"read": 0.5, "inject": 1.0}, host="good")
    book.failed(8)
    follower = book.follow()
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    console.print(view(follower.snapshot(), follower.progress.patches))
    text = console.file.getvalue()
    for words in (
        "8 of 12 (66.7 %)",
        "test  dead",
        "Resume with skygraft run",
        "OSError × 1",
        "i8",
        "OSError: no [disk] on bad",
        "bad 1 of 1",
        "r +0.5",
        "inject 66.7 %",
    ):
        assert words in text, text
    assert "8 of 12" in line(follower.snapshot())


def test_the_map_in_characters_has_east_on_the_left() -> None:
    places = {"tract": [1] * 4, "patch": range(4), "ra": [10.0, 10.2, 10.0, 10.2], "dec": [0.0, 0.0, 0.2, 0.2]}
    # North-west is done, south-east has begun, the others have not.
    text = sky_strip(PatchTable.of(**places, n_images=[4] * 4, n_done=[0, 1, 4, 0], n_failed=[0, 0, 0, 2]))
    rows = [row for row in text.plain.splitlines()[:-1] if row.strip()]
    assert rows[0].strip()[0] == "·" and rows[0].strip()[-1] == "█"
    assert rows[-1].strip()[0] == "░" and rows[-1].strip()[-1] == "·"
    red = [text.plain[span.start : span.end] for span in text.spans if span.style == "red"]
    assert red == ["·"]
    assert sky_strip(PatchTable.of(tract=[], patch=[], ra=[], dec=[], n_images=[])).plain == ""


def test_in_a_terminal(book: Book, survey: Path) -> None:
    book.now = time.time() - 60
    book.begin()
    book.done(0, 1)
    book.held_by("process 1 on elsewhere")
    shown = b""

    def read() -> bytes:
        try:
            return os.read(main, 65536) if select.select([main], [], [], 0.1)[0] else b""
        except OSError:  # the other end is closed
            return b""

    main, other = pty.openpty()
    code = "from skygraft.cli import main; main()"
    options = ["status", str(survey / "campaign.yaml"), "--watch", "--interval", "0.1"]
    command = [sys.executable, "-c", code, *options]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "50"}
    process = subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True, close_fds=True
    )
    os.close(other)

    def wait_for(words: bytes, seconds: float = 40.0) -> None:
        nonlocal shown
        end = time.monotonic() + seconds
        while words not in shown:
            assert time.monotonic() < end, shown[-3000:].decode(errors="replace")
            shown += read()

    try:
        wait_for(b"2 of 12 (16.7 %)")
        book.done(2, 3, 4)
        book.failed(5)
        wait_for(b"5 of 12 (41.7 %)")
        wait_for(b"no [disk]")
        process.send_signal(2)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            shown += read()
        # 1: an image failed, as without --watch. Not 130, and no traceback.
        assert process.poll() == 1
        assert b"Traceback" not in shown and b"error:" not in shown
        assert b"\x1b[?25h" in shown[-200:]  # the cursor is back
    finally:
        process.kill()
        process.wait()
        os.close(main)
