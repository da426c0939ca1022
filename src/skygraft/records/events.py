"""The events of a campaign's ledger: one definition of each, used to write and to read them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from skygraft.errors import CampaignError
from skygraft.records.image_summary import ImageSummary

__all__ = [
    "Event",
    "ImageEvent",
    "ImageReopened",
    "RunEnded",
    "RunEvent",
    "RunStarted",
    "TablesStarted",
    "event_line",
    "image_line",
    "parse_event",
]

_RULES = ConfigDict(strict=True, extra="ignore")
"""No bool counts as a number, no number as text; unknown keys, which a later skygraft may add, are ignored."""


@with_config(_RULES)
@dataclass(frozen=True)
class ImageEvent(ImageSummary):
    """The outcome of an image; ``skipped`` also where a run found it done and the ledger had no event of that.

    Parameters
    ----------
    time : str
        When it was appended, ISO 8601, UTC; set by the ledger.
    """

    event: Literal["image"] = "image"
    time: str = ""

    @classmethod
    def of(cls, summary: ImageSummary) -> ImageEvent:
        """The event for a summary."""
        return cls(**{name: getattr(summary, name) for name in _SUMMARY})


_SUMMARY = tuple(field.name for field in fields(ImageSummary))


@with_config(_RULES)
@dataclass(frozen=True)
class ImageReopened:
    """An image that is done by an earlier event is not done, or not any more: it waits to be made.

    Parameters
    ----------
    image_id : str
        The image.
    time : str
        As in `ImageEvent`.
    """

    image_id: str
    event: Literal["image_reopened"] = "image_reopened"
    time: str = ""


@with_config(_RULES)
@dataclass(frozen=True)
class RunStarted:
    """A run began.

    Parameters
    ----------
    images, waiting : int
        Images of the plan, and those that the run is to make.
    redo : bool
        Whether images are made again that were made from something else.
    time : str
        As in `ImageEvent`.
    """

    images: int = 0
    waiting: int = 0
    redo: bool = False
    event: Literal["run_started"] = "run_started"
    time: str = ""


@with_config(_RULES)
@dataclass(frozen=True)
class TablesStarted:
    """All images of a run were tried, and its tables are being made.

    Parameters
    ----------
    time : str
        As in `ImageEvent`.
    """

    event: Literal["tables_started"] = "tables_started"
    time: str = ""


@with_config(_RULES)
@dataclass(frozen=True)
class RunEnded:
    """A run ended; one that was killed has no such event.

    Parameters
    ----------
    n_images, n_done, n_skipped, n_failed, n_remaining, n_drawn, n_unusable, n_quarantined, wall_seconds
        As in `skygraft.campaign.summaries.RunSummary`.
    interrupted : int
        Number of the signal that ended it early; 0 for none.
    stopped : str
        Why it was ended early for another reason; empty where it was not.
    ok : bool
        Whether every image of the survey is done.
    time : str
        As in `ImageEvent`.
    """

    n_images: int = 0
    n_done: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_remaining: int = 0
    n_drawn: int = 0
    n_unusable: int = 0
    n_quarantined: int = 0
    wall_seconds: float = 0.0
    interrupted: int = 0
    stopped: str = ""
    ok: bool = False
    event: Literal["run_ended"] = "run_ended"
    time: str = ""

    @property
    def early(self) -> bool:
        """True if it was ended early."""
        return bool(self.interrupted or self.stopped)


type RunEvent = RunStarted | TablesStarted | RunEnded
type Event = ImageEvent | ImageReopened | RunEvent

_EVENTS: TypeAdapter[Event] = TypeAdapter(
    Annotated[ImageEvent | ImageReopened | RunStarted | TablesStarted | RunEnded, Field(discriminator="event")]
)


def event_line(event: Event, time: str) -> bytes:
    """The line of the ledger for an event, with `time` as its time unless the event has one."""
    if isinstance(event, ImageEvent):
        content = event.to_dict()
    else:
        content = {field.name: getattr(event, field.name) for field in fields(event)}
    content.pop("event", None)
    named = {"time": content.pop("time", "") or time, "event": event.event}
    return orjson.dumps({**named, **content}, option=orjson.OPT_APPEND_NEWLINE)


def image_line(summary: ImageSummary, time: str) -> bytes:
    """The line of the ledger for the `ImageEvent` of a summary."""
    named = {"time": time, "event": ImageEvent.event}
    return orjson.dumps(named | summary.to_dict(), option=orjson.OPT_APPEND_NEWLINE)


def parse_event(line: bytes, path: Path, place: int) -> Event | None:
    """Read the event in a line of the ledger; None for a line that was cut short.

    Parameters
    ----------
    line : bytes
        The line.
    path : Path
        The ledger, for messages.
    place : int
        Where in the ledger the line begins, bytes.

    Raises
    ------
    CampaignError
        If it is none of the events of this module.
    """
    try:
        return _EVENTS.validate_json(line)
    except ValidationError as error:
        if not _is_json(line):
            return None  # half a line, of a driver that was killed while it wrote
        raise CampaignError(
            f"the ledger has a line that is not understood, at byte {place}: {_problem(error)}",
            path=path,
            fix="It may be of another version of skygraft, or damaged: rebuild it from the records with "
            "`skygraft status --rescan`",
        ) from error


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _problem(error: ValidationError) -> str:
    first: dict[str, Any] = dict(error.errors(include_url=False)[0])
    key = ".".join(str(part) for part in first["loc"])
    return f"{key + ': ' if key else ''}{first['msg']} (found {str(first['input'])[:80]!r})"
