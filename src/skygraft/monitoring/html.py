"""The words, tables and bars of the Campaign page as HTML.

Everything that comes from outside (names, messages of errors, hosts) passes through `_text`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from skygraft.monitoring.feed import Board
from skygraft.wording import count, data_size, duration, rate, share

__all__ = [
    "BAND_COLOURS",
    "CSS",
    "DONE",
    "FAILED",
    "LEFT",
    "NARROW",
    "STACKED",
    "closure_table",
    "failure_table",
    "header",
    "host_table",
    "slowest_table",
    "stage_bar",
]

# Colours that people with any kind of colour vision tell apart: Okabe & Ito (2008), Color Universal Design.
DONE, FAILED, LEFT = "#0072b2", "#d55e00", "#e3e7ec"
BAND_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#999999", "#000000")
_STAGE_COLOURS = {
    "read": "#56b4e9",
    "select": "#cc79a7",
    "inject": "#0072b2",
    "closure": "#f0e442",
    "write": "#009e73",
    "checksum": "#e69f00",
}
_OTHER_COLOUR = "#b4bac2"
_DARK_TEXT = ("#56b4e9", "#f0e442", "#e69f00", "#b4bac2", "#cc79a7")
_WARNED = "#8a6100"
_STATES = {
    "running": ("running", DONE),
    "finished": ("finished", "#007a5a"),
    "stopped": ("stopped", _WARNED),
    "crashed": ("stopped by an error", FAILED),
    "lost": ("driver lost", FAILED),
}
_SILENT = 20.0

CSS = """
:host { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
        font-size: 13px; color: #1f2933; }
.bk-clearfix { width: 100%; }
h2 { font-size: 13px; font-weight: 600; margin: 0 0 6px; }
h2 small { font-weight: 400; color: #5c6773; margin-left: 6px; font-size: 12px; }
.top { display: flex; align-items: baseline; gap: 12px; flex-wrap: wrap; }
.title { font-size: 20px; font-weight: 650; }
.state { color: #fff; border-radius: 10px; padding: 1px 10px; font-size: 12px; font-weight: 600; }
.where { color: #5c6773; font-size: 12px; overflow-wrap: anywhere; }
.where a { color: #0072b2; }
.bar { display: flex; height: 14px; border-radius: 7px; overflow: hidden; background: #e3e7ec; margin: 8px 0 10px; }
.bar i { display: block; height: 100%; }
.tiles { display: flex; gap: 10px; flex-wrap: wrap; }
.tile { flex: 1 1 118px; background: #f5f7f9; border-radius: 6px; padding: 7px 12px; min-width: 112px; }
.tile b { display: block; font-size: 20px; font-weight: 650; white-space: nowrap; line-height: 1.25; }
.tile span { color: #5c6773; font-size: 12px; }
.tile .label { display: block; text-transform: none; }
.tile.bad b { color: #b34700; }
.note { background: #fdf1e7; border-left: 4px solid #d55e00; padding: 6px 12px; margin-top: 10px; }
.scroll { overflow: auto; max-height: 290px; border: 1px solid #e3e7ec; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; }
th { text-align: left; font-weight: 600; color: #5c6773; position: sticky; top: 0; background: #f5f7f9; }
th, td { padding: 3px 8px; border-bottom: 1px solid #eceff2; vertical-align: top; white-space: nowrap; }
td.message { white-space: normal; overflow-wrap: anywhere; min-width: 220px; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td .bad { color: #b34700; font-weight: 600; }
.chips { margin-bottom: 6px; }
.chip { display: inline-block; background: #fbe9dc; border-radius: 9px; padding: 1px 9px; margin: 0 6px 4px 0;
        font-size: 12px; }
.empty { color: #5c6773; padding: 6px 0; }
.stages { display: flex; height: 26px; border-radius: 5px; overflow: hidden; }
.stages i { display: flex; align-items: center; justify-content: center; font-style: normal; font-size: 11px;
            overflow: hidden; white-space: nowrap; }
.mini { display: flex; width: 150px; height: 11px; margin-top: 3px; border-radius: 2px; overflow: hidden;
        background: #eceff2; }
.mini i { display: block; }
.legend { margin-top: 5px; font-size: 12px; color: #3e4c59; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 4px 0 0; }
.legend span { margin-right: 12px; white-space: nowrap; }
"""

STACKED = """
@media (max-width: 900px) {
    :host { display: block !important; }
    :host > * { width: auto !important; height: auto !important; margin-bottom: 14px; }
}
"""
"""Of what stands side by side: on a phone one stands below the other."""
NARROW = """
:host { max-width: 100%; min-width: 0; }
@media (max-width: 600px) { :host { margin: 6px 0 12px 0 !important; width: 100% !important; } }
"""
"""Of the whole page, whose margins are wide."""


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _tile(label: str, value: str, more: str = "", *, bad: bool = False) -> str:
    return (
        f'<div class="tile{" bad" if bad else ""}"><span class="label">{_text(label)}</span><b>{_text(value)}</b>'
        f"<span>{_text(more)}</span></div>"
    )


def _clock(iso: str) -> str:
    """A time of day in UTC, with the date."""
    return datetime.fromisoformat(iso).strftime("%d %b %H:%M:%S")


def header(board: Board, now: float, others: Iterable[Board] = (), workers: Mapping[str, int] | None = None) -> str:
    """Name, state and the numbers that are looked at first.

    Parameters
    ----------
    board : Board
        The run.
    now : float
        The scheduler's time, seconds since 1970.
    others : iterable of Board
        Other runs that can be looked at.
    workers : mapping of str to int, optional
        Number of the scheduler's workers by status.
    """
    shot = board.snapshot
    images, rates, eta = shot["images"], shot["rates"], shot["eta"]
    word, colour = _state(board)
    total = images["total"]
    links = ", ".join(
        f'<a href="campaign?run={_text(each.run)}">{_text(each.snapshot["campaign"])}</a> ({_text(_state(each)[0])})'
        for each in others
    )
    top = (
        f'<div class="top"><span class="title">{_text(shot["campaign"])}</span>'
        f'<span class="state" style="background:{colour}">{_text(word)}</span>'
        f'<span class="where">{_text(shot["output"])} · began {_text(_clock(shot["started"]))} UTC'
        f"{' · also here: ' + links if links else ''}</span></div>"
    )
    parts = ((images["done"], DONE), (images["failed"], FAILED))
    bar = "".join(f'<i style="width:{100 * n / max(1, total):.3f}%;background:{c}"></i>' for n, c in parts)
    minute, run = rates["1min"], rates["run"]
    # After the end the last minute says nothing any more.
    now_rate = minute if board.state == "running" else run
    what = "mean of the run" if board.state != "running" or shot["elapsed_seconds"] < 60 else "last minute"
    tiles = [
        _tile("images done", count(images["done"]), f"of {count(total)} ({share(images['done'], total)})"),
        _tile("failed", count(images["failed"]), _failed_words(images), bad=images["failed"] > 0),
        _tile(
            "left", count(images["left"]), f"{count(shot['n_patches_done'])} of {count(shot['n_patches'])} patches full"
        ),
        _tile("images", rate(now_rate["images_per_second"]), what),
        _tile("sources", rate(now_rate["sources_per_second"]), _drawn(shot)),
        _eta_tile(eta, board.state, shot["elapsed_seconds"]),
        _tile("written", data_size(shot["bytes_written"]), f"{data_size(now_rate['bytes_per_second'])}/s"),
        _worker_tile(workers or {}, board.state, f"{now_rate['busy_workers']:.1f} busy, {what}"),
    ]
    note = _note(board, now, workers)
    return f'{top}<div class="bar">{bar}</div><div class="tiles">{"".join(tiles)}</div>{note}'


def _state(board: Board) -> tuple[str, str]:
    """A run's state in words, and its colour: not that of success where images have failed."""
    word, colour = _STATES.get(board.state, (board.state, _OTHER_COLOUR))
    images = board.snapshot["images"]
    if board.state == "running" and images["left"] == 0:
        word = "collecting results"
    elif board.state == "finished" and (images["failed"] or images["unusable"]):
        bad = [f"{count(images['failed'])} images failed"] if images["failed"] else []
        bad += [f"{count(images['unusable'])} cannot be used"] if images["unusable"] else []
        word, colour = f"finished, but {', '.join(bad)}", FAILED if images["failed"] else _WARNED
    return word, colour


def _worker_tile(workers: Mapping[str, int], state: str, busy: str) -> str:
    """How many workers there are while a campaign runs; after it, how many were busy."""
    if state != "running":
        number, _, rest = busy.partition(" busy, ")
        return _tile("busy workers", number, rest)
    idle = ", ".join(f"{count(n)} {name}" for name, n in workers.items() if n and name != "running")
    n_workers = sum(workers.values())
    return _tile("workers", count(n_workers), f"{idle}; {busy}" if idle else busy, bad=not workers.get("running"))


def _drawn(shot: Mapping[str, Any]) -> str:
    return f"{count(shot['sources']['drawn'])} drawn"


def _failed_words(images: Mapping[str, int]) -> str:
    words = [f"{count(images['recovered'])} made when tried again"] if images["recovered"] else []
    words += [f"{count(images['unusable'])} more cannot be used"] if images["unusable"] else []
    return ", ".join(words) or share(images["failed"], images["total"])


def _eta_tile(eta: Mapping[str, Any] | None, state: str, elapsed: float) -> str:
    if state != "running":
        return _tile("took", duration(elapsed))
    if eta is None:
        return _tile("time left", "—", "not known yet")
    if eta["seconds"] == 0:
        return _tile("time left", "0 s", "retries and results")
    low, high = duration(eta["low_seconds"]), duration(eta["high_seconds"])
    span = f"{low} – {high}" if low != high else f"until {_clock(eta['time'])} UTC"
    return _tile("time left", duration(eta["seconds"]), span)


def _note(board: Board, now: float, workers: Mapping[str, int] | None) -> str:
    again = "What is done is kept: run the campaign again to resume."
    if board.state == "lost":
        text = f"The driver has left the cluster without a word, {duration(board.age(now))} ago. {again}"
    elif board.state == "crashed":
        text = f"The driver has stopped because of an error; its terminal or log says which. {again}"
    elif board.state == "stopped":
        text = f"The run was stopped with {count(board.snapshot['images']['left'])} images left. {again}"
    elif board.state == "running" and board.age(now) > _SILENT:
        text = (
            f"Nothing heard of the driver for {duration(board.age(now))}: these numbers are old. If it has died, "
            "what is done is kept: run the campaign again to resume."
        )
    elif board.state == "running" and workers is not None and not workers.get("running") and _left(board):
        paused = workers.get("paused", 0)
        text = (
            f"All {count(paused)} workers are paused at their memory limit: give them more memory."
            if paused
            else "There is no worker: the images that are left wait for one."
        )
    else:
        return ""
    return f'<div class="note">{_text(text)}</div>'


def _left(board: Board) -> int:
    return int(board.snapshot["images"]["left"])


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are HTML already, under heads with their CSS classes."""
    head = "".join(f'<th class="{kind}">{_text(title)}</th>' for title, kind in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{cell}</td>' for cell, (_, kind) in zip(row, heads, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def failure_table(shot: Mapping[str, Any]) -> str:
    """Failures by class of error, and the last ones with their reasons."""
    by_error, last, n = shot["failures"]["by_error"], shot["failures"]["last"], shot["images"]["failed"]
    if not n:
        return '<h2>Failures</h2><div class="empty">No image has failed.</div>'
    before = n - sum(by_error.values())
    chips = "".join(f'<span class="chip">{_text(name)} × {count(k)}</span>' for name, k in by_error.items())
    if before:
        chips += f'<span class="chip">failed in an earlier run × {count(before)}</span>'
    heads = [("image", "name"), ("reason", "message"), ("tries", "number"), ("host", ""), ("time (UTC)", "")]
    rows = [
        (
            _text(row["image"]),
            f"<b>{_text(row['error'])}</b>: {_text(row['message'])}"
            + (f"<br><small>{_text(row['where'])}</small>" if row["where"] else "")
            + (" <small>(left alone: it kills workers)</small>" if row["quarantined"] else ""),
            str(row["tries"]),
            _text(row["host"] or "—"),
            _text(_clock(row["time"])),
        )
        for row in last
    ]
    shown = f"<small>the last {len(last)} of {count(n)}, the newest first</small>"
    return f'<h2>Failures {shown}</h2><div class="chips">{chips}</div>{_table(heads, rows) if rows else ""}'


def host_table(shot: Mapping[str, Any]) -> str:
    """What each machine does: a bad one stands at the top."""
    heads = [
        ("host", "name"),
        ("failed tries", "number"),
        ("images", "number"),
        ("images/min, last 10 min", "number"),
        ("s per image", "number"),
        ("silent for", "number"),
    ]
    rows = [
        (
            _text(row["host"]),
            f'<span class="bad">{count(row["n_failed_attempts"])}</span>' if row["n_failed_attempts"] else "0",
            count(row["n_images"]),
            f"{row['images_per_minute']:.1f}",
            f"{row['mean_wall_seconds']:.2f}",
            duration(row["seconds_since_last"]),
        )
        for row in shot["hosts"]
    ]
    if not rows:
        return '<h2>Machines</h2><div class="empty">None has finished an image yet.</div>'
    n, total = len(rows), shot["n_hosts"]
    shown = f"<small>{n} of {count(total)}, most failures first</small>" if n < total else f"<small>{n}</small>"
    return f"<h2>Machines {shown}</h2>{_table(heads, rows)}"


def _stage_parts(stages: Mapping[str, float]) -> list[tuple[str, float, str]]:
    names = [*_STAGE_COLOURS, *sorted(set(stages) - set(_STAGE_COLOURS))]
    return [(name, stages[name], _STAGE_COLOURS.get(name, _OTHER_COLOUR)) for name in names if stages.get(name)]


def stage_bar(shot: Mapping[str, Any]) -> str:
    """Where the workers' time goes."""
    parts = _stage_parts(shot["stages"]["share"])
    useful = shot["stages"]["inject_io_share"]
    if not parts:
        return '<h2>Where the time goes</h2><div class="empty">No image has been made yet.</div>'
    bar = "".join(
        f'<i style="width:{100 * part:.2f}%;background:{c};color:{"#1f2933" if c in _DARK_TEXT else "#fff"}">'
        f"{_text(name) if part > 0.09 else ''}</i>"
        for name, part, c in parts
    )
    legend = "".join(
        f'<span><i style="background:{c}"></i>{_text(name)} {_text(share(part, 1.0))}</span>' for name, part, c in parts
    )
    words = f"<small>{_text(share(useful, 1.0))} in injecting, reading, writing and checksums</small>"
    return f'<h2>Where the time goes {words}</h2><div class="stages">{bar}</div><div class="legend">{legend}</div>'


def slowest_table(shot: Mapping[str, Any]) -> str:
    """The slowest images, and what they spent their time on."""
    heads = [
        ("image", "name"),
        ("time (s)", "number"),
        ("stages", ""),
        ("sources", "number"),
        ("tract,patch", "number"),
        ("host", ""),
    ]
    rows = []
    for row in shot["slowest"]:
        whole = max(row["wall_seconds"], sum(row["stages"].values())) or 1.0
        title = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["stages"].items())
        bar = "".join(
            f'<i style="width:{100 * seconds / whole:.1f}%;background:{c}"></i>'
            for _, seconds, c in _stage_parts(row["stages"])
        )
        name = _text(row["image"]) + (' <span class="bad">(failed)</span>' if row["status"] == "failed" else "")
        rows.append(
            (
                name,
                f"{row['wall_seconds']:.2f}",
                f'<div class="mini" title="{_text(title)}">{bar}</div>',
                count(row["n_sources"]),
                f"{int(row['tract'])},{int(row['patch'])}",
                _text(row["host"] or "—"),
            )
        )
    if not rows:
        return '<h2>Slowest images</h2><div class="empty">No image has been made yet.</div>'
    return f"<h2>Slowest images</h2>{_table(heads, rows)}"


def closure_table(shot: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """Median and scatter of the closure residuals of each band."""
    closure = shot["closure"]
    parts = []
    for band, content in closure["bands"].items():
        outside = content["n_below"] + content["n_above"]
        beyond = f", {count(outside)} beyond ±{closure['half_width_mmag']:g}" if outside else ""
        parts.append(
            f'<span><i style="background:{colours[band]}"></i>{_text(band)} '
            f"{content['median_mmag']:+.2f} ± {content['sigma_mmag']:.2f} mmag ({count(content['n'])}{beyond})</span>"
        )
    if not parts:
        return '<h2>Closure residuals</h2><div class="empty">None has been measured yet.</div>'
    return f'<div class="legend">median ± scatter: {"".join(parts)}</div>'
