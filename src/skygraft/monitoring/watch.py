"""Show the progress of a campaign live in the terminal: the numbers of the Campaign page, from the ledger."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from skygraft.config.campaign import CampaignConfig
from skygraft.monitoring.follower import Follower
from skygraft.monitoring.overview import PatchTable
from skygraft.monitoring.snapshot import ImageCounts, LedgerSnapshot, SlowImage, Snapshot, state_words
from skygraft.printable import console as printable_console
from skygraft.printable import printable
from skygraft.records.interruption import Interruption, Terminated
from skygraft.wording import count, data_size, duration, rate, share

__all__ = ["line", "sky_strip", "view", "watch"]

_FAILURES_SHOWN = 6
_BAR = 72
_STRIP_ROWS = 12
_STRIP_COLUMNS = 64
_SHADES = "·░▒▓█"
_STYLES = {"active": "bold blue", "good": "bold green", "warning": "bold yellow", "bad": "bold red"}


def watch(
    config: CampaignConfig,
    *,
    interval: float = 2.0,
    as_json: bool = False,
    resume: str = "skygraft run",
    out: IO[str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> LedgerSnapshot:
    """Show the progress of a campaign until it is finished, or until Ctrl-C.

    On a terminal the view is updated in place; elsewhere a line is written at each interval.

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    interval : float
        Time between two updates, seconds.
    as_json : bool
        Write one line of JSON at each interval instead: a `LedgerSnapshot`.
    resume : str
        The command that runs the campaign, for advice.
    out : file, optional
        Where to write; standard output by default.
    sleep : callable
        Waits for some seconds.

    Returns
    -------
    LedgerSnapshot
        The last state shown.

    Raises
    ------
    CampaignError
        If there is no plan.
    """
    out = sys.stdout if out is None else out
    follower = Follower(config, resume=resume)
    shot = follower.snapshot()
    console = printable_console(file=out, highlight=False)
    in_place = console.is_terminal and not as_json
    live = Live(console=console, auto_refresh=False, vertical_overflow="crop") if in_place else None
    with Interruption() as interruption:
        try:
            with live or contextlib.nullcontext():
                while True:
                    with interruption.step():
                        if live is not None:
                            live.update(view(shot, follower.progress.patches), refresh=True)
                        else:
                            out.write((json.dumps(shot, allow_nan=False) if as_json else printable(line(shot))) + "\n")
                            out.flush()
                    if shot["state"] == "finished":
                        return shot
                    sleep(interval)
                    with interruption.step():
                        follower.update()
                        shot = follower.snapshot()
        except Terminated:
            raise
        except KeyboardInterrupt:
            return shot


def line(shot: LedgerSnapshot) -> str:
    """Return the most important numbers in one line."""
    images, eta = shot["images"], shot["eta"]
    clock = datetime.fromisoformat(shot["updated"]).strftime("%H:%M:%S")
    done = f"{images['done']} of {images['total']} images done ({share(images['done'], images['total'])})"
    parts = [f"{clock} {shot['campaign']} {state_words(shot)[0]}: {done}"]
    parts += [f"{images['failed']} failed", f"{images['left']} left"]
    if shot["state"] == "running":
        parts.append(rate(shot["rates"]["1min"]["images_per_second"], "images"))
        parts += [] if eta is None else [f"{duration(eta['seconds'])} to go"]
    parts += [shot["advice"]] if shot["advice"] else []
    return ", ".join(parts)


def view(shot: LedgerSnapshot, patches: PatchTable) -> RenderableType:
    """Return the view for a terminal, of the progress of the run and the same by patch."""
    word, severity = state_words(shot)
    title = Text.assemble((shot["campaign"], "bold"), "  ", (word, _STYLES[severity]), f"  {shot['output']}")
    parts: list[RenderableType | None] = [title]
    if shot["advice"]:
        parts.append(Text(shot["advice"], style="bold red" if shot["state"] == "dead" else "yellow"))
    bands, shares = shot["closure"]["bands"].items(), shot["stages"]["share"]
    tries = [(row, row["n_failed_attempts"]) for row in shot["hosts"] if row["n_failed_attempts"]]
    parts += [
        _bar(shot["images"]),
        _numbers(shot),
        sky_strip(patches),
        _words(
            "closure (mmag)",
            [f"{band} {c['median_mmag']:+.2f} ± {c['sigma_mmag']:.2f} ({count(c['n'])})" for band, c in bands],
        ),
        _words("time goes to", [f"{name} {share(part, 1.0)}" for name, part in Counter(shares).most_common()]),
        _failures(shot),
        _words("failed tries by machine", [f"{row['host']} {n} of {n + row['n_images']}" for row, n in tries[:3]]),
        _words("slowest", [_slow(row) for row in shot["slowest"][:3]]),
        Text("Ctrl-C ends this view, not the campaign.", style="dim"),
    ]
    return Group(*(part for part in parts if part is not None))


def _words(title: str, words: Sequence[str]) -> Text | None:
    """Return words in one line under a title; None without any."""
    return Text.assemble((f"{title}  ", "dim"), ", ".join(words)) if words else None


def _slow(row: SlowImage) -> str:
    stage = max(row["stages"], key=row["stages"].__getitem__, default="")
    return f"{row['image']} {row['wall_seconds']:.1f} s" + (f" ({stage} {row['stages'][stage]:.1f} s)" if stage else "")


def _bar(images: ImageCounts) -> Text:
    ends = [round(_BAR * n / max(1, images["total"])) for n in (images["done"], images["done"] + images["failed"])]
    return Text.assemble(("━" * ends[0], "blue"), ("━" * (ends[1] - ends[0]), "red"), ("─" * (_BAR - ends[1]), "dim"))


def _numbers(shot: LedgerSnapshot) -> RenderableType:
    images, last, eta, silent = shot["images"], shot["rates"]["1min"], shot["eta"], shot["silent_seconds"]
    left = "-" if eta is None else duration(eta["seconds"])
    if eta is not None and eta["seconds"] > 0:
        left += f" ({duration(eta['low_seconds'])} to {duration(eta['high_seconds'])})"
    failed = Text(count(images["failed"]), style="bold red" if images["failed"] else "")
    numbers: list[tuple[str, str | Text]] = [
        ("done", f"{count(images['done'])} of {count(images['total'])} ({share(images['done'], images['total'])})"),
        ("failed", failed),
        ("left", count(images["left"])),
        ("images, last min", rate(last["images_per_second"])),
        ("whole run", rate(shot["rates"]["run"]["images_per_second"])),
        ("time left", left),
        ("sources, last min", rate(last["sources_per_second"])),
        ("drawn", count(shot["sources"]["drawn"])),
        ("running for", duration(shot["elapsed_seconds"])),
        ("written", data_size(shot["bytes_written"])),
        ("busy workers", f"{last['busy_workers']:.1f}"),
        ("last event", "-" if silent is None else f"{duration(silent)} ago"),
    ]
    grid = Table.grid(padding=(0, 2))
    for _ in range(3):
        grid.add_column(style="dim")
        grid.add_column(no_wrap=True)
    for row in itertools.batched(numbers, 3):
        grid.add_row(*itertools.chain(*row))
    return grid


def sky_strip(patches: PatchTable) -> Text:
    """Return a map of the patches in characters: right ascension grows to the left, declination upwards.

    The more of the images are done, the darker the character; red where some have failed.
    """
    if not len(patches):
        return Text("")
    (east, middle), dec = patches.east(), patches.dec
    x, y = -east * np.cos(np.radians((dec.min() + dec.max()) / 2)), -dec
    # A character is twice as high as wide. A few patches need only a few.
    side = int(np.ceil(np.sqrt(len(patches))))
    n_rows, n_columns = min(_STRIP_ROWS, 2 * side), min(_STRIP_COLUMNS, 4 * side)
    size = max(np.ptp(x) / max(1, n_columns - 1), np.ptp(y) / max(1, 2 * (n_rows - 1)), 1e-6)
    column, row = ((x - x.min()) / size).round().astype(int), ((y - y.min()) / (2 * size)).round().astype(int)
    shape = (row.max() + 1, column.max() + 1)
    total, done, failed = (np.zeros(shape) for _ in range(3))
    for grid, values in ((total, patches.n_images), (done, patches.n_done), (failed, patches.n_failed)):
        np.add.at(grid, (row, column), values)
    text = Text()
    for cells in zip(total, done, failed, strict=True):
        for has_failed, some in itertools.groupby(zip(*cells, strict=True), key=lambda cell: cell[2] > 0):
            # The darkest shade means that every image is done.
            shades = [" " if n == 0 else _SHADES[int((len(_SHADES) - 1) * n_done / n)] for n, n_done, _ in some]
            text.append("".join(shades), style="red" if has_failed else "blue")
        text.append("\n")
    text.append(f"{middle:.1f} {dec.mean():+.1f} deg in the middle, east to the left", style="dim")
    return text


def _failures(shot: Snapshot) -> RenderableType | None:
    last, by_error = shot["failures"]["last"][:_FAILURES_SHOWN], shot["failures"]["by_error"]
    if not last:
        return None
    title = f"failures: {', '.join(f'{escape(name)} × {n}' for name, n in by_error.items())}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("image", header_style="dim", overflow="ellipsis")
    table.add_column("reason", header_style="dim", overflow="fold")
    for row in last:
        where = f" on {row['host']}" if row["host"] else ""
        reason = printable(f"{row['error']}: {row['message']}"[:200] + where)
        table.add_row(escape(printable(row["image"])), escape(reason))
    return table
