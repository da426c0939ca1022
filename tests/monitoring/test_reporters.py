"""Lines in a log, the bar on a terminal, and a terminal that is closed during a run."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from rich.console import Console

from skygraft.monitoring.overview import Overview, PatchTable
from skygraft.monitoring.reporters import RichReporter
from skygraft.records.image_summary import ImageSummary


def overview(n_images: int, n_done: int = 0) -> Overview:
    patches = PatchTable.of(tract=[1], patch=[2], ra=[3.0], dec=[4.0], n_images=[n_images], n_done=[n_done])
    return Overview("c", "/out", patches, image_cost=np.zeros(1))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(number: int, status: str = "done") -> ImageSummary:
    return ImageSummary(f"image-{number}", status)  # type: ignore[arg-type]


def test_a_log_gets_a_line_a_minute() -> None:
    out, clock = io.StringIO(), Clock()
    with RichReporter(Console(file=out, width=60), now=clock) as reporter:
        reporter.start(overview(1300, n_done=100))
        for number in range(1200):
            clock.now += 1.0
            reporter.images([made(number, "failed" if number == 30 else "done")])
    lines = out.getvalue().splitlines()
    assert len(lines) == 21
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    assert lines[0].endswith("100 of 1\u202f300 images done (7.7 %)")
    # Ten minutes after the first, which came at the start: 599 of 600 images were made, one failed.
    wanted = "699 of 1\u202f300 images done (53.8 %), 1 failed, 59.9 images/min, about 10 min to go"
    assert lines[10].endswith(wanted)


def test_a_terminal_gets_its_bar_and_no_such_lines() -> None:
    out = io.StringIO()
    with RichReporter(Console(file=out, force_terminal=True, width=100), every=0.0) as reporter:
        reporter.start(overview(3))
        reporter.images([made(0)])
        reporter.say("a message [/bold] with [brackets] and \x1b[2J")
    assert "images done" not in out.getvalue()
    assert "a message [/bold] with [brackets] and \\x1b[2J" in out.getvalue()


def test_a_terminal_that_has_gone_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    for options in ({}, {"force_terminal": True}):
        gone: Any = Gone()
        with RichReporter(Console(file=gone, **options), every=0.0) as reporter:
            reporter.start(overview(2))
            reporter.images([made(0)])
            reporter.say("nobody hears this")
