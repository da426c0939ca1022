"""The words, tables and bars of the Campaign page, as HTML from the templates beside this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from skygraft.monitoring.published import PublishedRun
from skygraft.monitoring.snapshot import ImageCounts, state_words
from skygraft.wording import count, data_size, duration, rate, share

__all__ = ["CSS", "PIECES", "header", "render"]

PIECES = ("failures", "hosts", "stages", "slowest")
"""Names of the pieces that are drawn from the snapshot alone."""

_STAGES = ("read", "select", "inject", "closure", "write", "checksum")
_SILENT = 20.0
"""Time without a message after which people are warned, seconds."""

CSS = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")


def _clock(iso: str) -> str:
    """Return date and time of day, UTC."""
    return datetime.fromisoformat(iso).strftime("%d %b %H:%M:%S")


def _in_order(stages: Mapping[str, float]) -> list[str]:
    """Return the stages that took any time, in the order in which they happen."""
    known = [name for name in _STAGES if name in stages]
    return [name for name in (*known, *sorted(set(stages) - set(known))) if stages[name] > 0]


# Everything is escaped: names, hosts and messages of errors come from outside.
_TEMPLATES = Environment(
    loader=PackageLoader("skygraft.monitoring"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters |= {each.__name__.strip("_"): each for each in (_clock, _in_order, count, data_size, duration, rate)}
_TEMPLATES.globals["share"] = share
_MACROS = _TEMPLATES.get_template("page.html").module


def render(piece: str, *arguments: Any) -> str:
    """Return a piece of the page: the macro of that name in ``page.html``."""
    return str(getattr(_MACROS, piece)(*arguments)).strip()


def header(
    run: PublishedRun, now: float, others: Iterable[PublishedRun] = (), workers: Mapping[str, int] | None = None
) -> str:
    """Return the name and state of a run and its most important numbers, with links to other runs.

    `now` is the scheduler's time, seconds since 1970; `workers` counts its workers by status.
    """
    shot, is_running = run.snapshot, run.state == "running"
    # After the end, the last minute says nothing.
    means = shot["rates"]["1min" if is_running else "run"]
    window = "last minute" if is_running and shot["elapsed_seconds"] >= 60 else "mean of the run"
    links = [(other, state_words(other.snapshot, other.state)[0]) for other in others]
    words, failed, note = state_words(shot, run.state), _failed_words(shot["images"]), _note(run, now, workers)
    return render("header", run, words, links, means, window, failed, workers or {}, note)


def _failed_words(images: ImageCounts) -> str:
    words = [f"{count(images['recovered'])} made when tried again"] if images["recovered"] else []
    words += [f"{count(images['unusable'])} more cannot be used"] if images["unusable"] else []
    return ", ".join(words) or share(images["failed"], images["total"])


def _note(run: PublishedRun, now: float, workers: Mapping[str, int] | None) -> str:
    """Return what people should know or do; empty for nothing."""
    left, age = run.snapshot["images"]["left"], duration(run.age(now))
    resume = "What is done is kept: run the campaign again to resume."
    match run.state:
        case "lost":
            return f"The driver disconnected {age} ago without ending the run. {resume}"
        case "crashed":
            return f"The driver has stopped because of an error; its terminal or log says which. {resume}"
        case "stopped":
            return f"The run was stopped with {count(left)} images left. {resume}"
        case "running" if run.age(now) > _SILENT:
            return f"No message from the driver for {age}: these numbers are old. If it has died: {resume}"
        case "running" if left and workers is not None and not workers.get("running"):
            if paused := workers.get("paused", 0):
                return f"All {count(paused)} workers are paused at their memory limit: give them more memory."
            return "There is no worker: the images that are left wait for one."
    return ""
