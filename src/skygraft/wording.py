"""Numbers and states in words: the same on the page, in the terminal and in summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["count", "counts", "data_size", "duration", "number", "phase_words", "rate", "share", "shorten", "verdict"]

type Severity = Literal["good", "active", "warning", "bad"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(number: float) -> str:
    """Return a count with its thousands separated: ``1 234 567``."""
    return f"{number:,.0f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Return a length of time in at most two units: ``42 s``, ``5 min``, ``3 h 07 min``, ``2 d 04 h``."""
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
    """Return a rate per second, or per minute or hour if it is a small one: ``2.5 images/s``, ``2.5 /h``."""
    name, factor = "s", 1
    if 0 < per_second < 1:
        name, factor = ("min", _MINUTE) if per_second * _MINUTE >= 1 else ("h", _HOUR)
    value = per_second * factor
    number = count(value) if value >= 100 else f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"
    return f"{number} {unit}/{name}" if unit else f"{number} /{name}"


def data_size(n_bytes: float) -> str:
    """Return a number of bytes in powers of a thousand: ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} PB"


def share(part: float, whole: float) -> str:
    """Return a share in per cent; 0 and 100 % are only written where they are exact."""
    if whole <= 0:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def number(n: int, what: str) -> str:
    """Return a number with its noun: ``1 run``, ``2 runs``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def counts(numbers: Mapping[str, int]) -> str:
    """Numbers by name, sorted by name: ``g: 1,200, r: 3``; empty without any."""
    return ", ".join(f"{name}: {n:,}" for name, n in sorted(numbers.items()))


def phase_words(phase: str) -> str:
    """Return what a run that is running does in its present phase."""
    words = {"starting": "starting", "results": "collecting results", "tables": "making the tables"}
    return f"running: {words[phase]}" if phase in words else "running"


def verdict(state: str, phase: str, *, n_failed: int, n_unusable: int) -> tuple[str, Severity]:
    """Return the state of a campaign in a few words, and how good it is: a run may finish with images that failed.

    Parameters
    ----------
    state, phase : str
        As in `skygraft.monitoring.snapshot.LedgerSnapshot`, or ``lost`` where the driver has left the cluster.
    n_failed, n_unusable : int
        Images that failed, and images of the survey that could not be planned.

    Returns
    -------
    words : str
        Such as ``running: making the tables``.
    severity : {"good", "active", "warning", "bad"}
        ``active`` for a run that is running or waits to be started.
    """
    if state == "running":
        return phase_words(phase), "active"
    if state == "finished":
        bad = [number(n_failed, "image") + " failed"] if n_failed else []
        bad += [f"{n_unusable:,} cannot be used"] if n_unusable else []
        return (f"finished, but {', '.join(bad)}", "warning") if bad else ("finished", "good")
    words = {"crashed": "stopped by an error", "lost": "driver lost"}.get(state, state)
    return words, "warning" if state == "stopped" else "bad" if state in ("dead", "crashed", "lost") else "active"


def shorten(value: Any, length: int = 60) -> str:
    """Format a value for an error message, in at most `length` characters."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
