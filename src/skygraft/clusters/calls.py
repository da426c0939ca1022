"""Calls to a cluster that are made once more where a connection breaks under them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

__all__ = ["hush_reconnecting", "insist"]

_LOG = logging.getLogger(__name__)
_TRIES = 5
_FIRST_PAUSE = 0.1


def insist[Answer](
    call: Callable[[], Answer], *, tries: int = _TRIES, pause: float = _FIRST_PAUSE, broken: Callable[[], bool] = bool
) -> Answer:
    """Call something that speaks to a scheduler or its workers, and again where the connection broke.

    A scheduler that passes a call on to a worker which has just arrived, or is just leaving, finds the connection to
    it broken at times; with encryption that is common. The next call goes through.

    Parameters
    ----------
    call : callable
        Called without arguments; it must be safe to call twice.
    tries : int
        How often, at most.
    pause : float
        Before the second try, seconds; doubled each time.
    broken : callable
        Whether there is no use in another try, since the scheduler itself is lost.

    Raises
    ------
    OSError
        What the last try raised. A time-out is raised at once: it has been waited for.
    """
    for left in reversed(range(tries)):
        try:
            return call()
        except TimeoutError:
            raise
        except OSError as error:
            # BrokenPipeError, ConnectionError, and CommClosedError of Dask.
            if not left or broken():
                raise
            _LOG.info("a connection broke (%s: %s); trying again", type(error).__name__, error)
        time.sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")


def _is_of_use(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    # CommClosedError of Dask is an OSError, as all that a broken connection raises.
    return kind is None or not issubclass(kind, (asyncio.CancelledError, OSError))


def hush_reconnecting() -> None:
    """Keep Dask's client, and the loop that it runs in, from printing tracebacks where the scheduler is lost.

    The error that ends the run says what is the matter, and comes after.
    """
    for name in ("distributed.client", "tornado.application"):
        logging.getLogger(name).addFilter(_is_of_use)
