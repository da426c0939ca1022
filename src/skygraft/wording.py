"""Numbers in words for people: the same on the page, in the terminal and in summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["count", "data_size", "duration", "number", "phase_words", "rate", "share", "verdict"]

type Severity = Literal["good", "active", "warning", "bad"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(number: float) -> str:
    """A count, with its thousands apart: ``1 234 567``."""
    return f"{number:,.0f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """A length of time in at most two units: ``42 s``, ``5 min``, ``3 h 07 min``, ``2 d 04 h``."""
    seconds = max(0.0, seconds)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    if minutes < 100:
        return f"{minutes} min"
    if seconds < 2 * _DAY:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / _HOUR)
    return f"{hours // 24} d {hours % 24:02d} h"


def rate(per_second: float, unit: str = "") -> str:
    """Something per second, per minute or per hour, whichever is a number to remember; without a unit, ``2.5 /s``."""
    name, factor = "s", 1
    if 0 < per_second < 1:
        name, factor = ("min", _MINUTE) if per_second * _MINUTE >= 1 else ("h", _HOUR)
    value = per_second * factor
    number = count(value) if value >= 100 else f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"
    return f"{number} {unit}/{name}" if unit else f"{number} /{name}"


def data_size(n_bytes: float) -> str:
    """Bytes in powers of a thousand: ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} PB"


def share(part: float, whole: float) -> str:
    """A part in per cent; neither 0 nor 100 % unless it is exactly that."""
    if whole <= 0:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def number(n: int, what: str) -> str:
    """A number of things: ``1 run``, ``2 runs``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def phase_words(phase: str) -> str:
    """What a run that is at work does, by its phase."""
    return {"starting": "running: starting", "tables": "running: making the tables"}.get(phase, "running")


def verdict(state: str, phase: str, images: Mapping[str, int]) -> tuple[str, Severity]:
    """How a campaign is, in a word or two, and how good that is: a run may have finished, and images failed.

    Parameters
    ----------
    state, phase : str
        As in `skygraft.monitoring.follower.Follower.snapshot`.
    images : mapping
        ``failed`` and ``unusable``, as in `skygraft.monitoring.progress.Progress.snapshot`.
    """
    if state == "running":
        return phase_words(phase), "active"
    if state == "finished":
        bad = [number(images["failed"], "image") + " failed"] if images["failed"] else []
        bad += [f"{images['unusable']:,} cannot be used"] if images["unusable"] else []
        return (f"finished, but {', '.join(bad)}", "warning") if bad else ("finished", "good")
    return state, "warning" if state == "stopped" else "bad" if state in ("dead", "crashed", "lost") else "active"
