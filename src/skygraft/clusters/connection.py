"""Connections to a Dask scheduler: calls that are repeated if one breaks, and what happens if the scheduler is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from distributed import Client

from skygraft.errors import CampaignError

__all__ = ["hide_connection_tracebacks", "insist", "is_lost", "scheduler_lost"]

_LOG = logging.getLogger(__name__)
_TRIES = 5
_FIRST_PAUSE = 0.1


def insist[Answer](
    call: Callable[[], Answer],
    *,
    tries: int = _TRIES,
    pause: float = _FIRST_PAUSE,
    hopeless: Callable[[], bool] = bool,
) -> Answer:
    """Call a function that talks to a scheduler or its workers, and repeat the call if the connection breaks.

    If a scheduler forwards a call to a worker that has just joined or is about to leave, the connection to that worker
    breaks at times, with encryption often. The next call then succeeds.

    Parameters
    ----------
    call : callable
        Function without arguments; it must be safe to call twice.
    tries : int
        Largest number of calls.
    pause : float
        Time before the second call, seconds; doubled after each failure.
    hopeless : callable
        Returns True if another call is of no use, because the scheduler itself is lost.

    Returns
    -------
    object
        What `call` returned.

    Raises
    ------
    OSError
        What the last call raised. A time-out is raised at once: time has been spent on it already.
    """
    for left in reversed(range(tries)):
        try:
            return call()
        except TimeoutError:
            raise
        except OSError as error:
            # BrokenPipeError, ConnectionError, and CommClosedError of Dask.
            if not left or hopeless():
                raise
            _LOG.info("a connection broke (%s: %s); trying again", type(error).__name__, error)
        time.sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")


def is_lost(client: Client | None) -> bool:
    """Return True if a client has lost its scheduler, even if it may reconnect: the tasks there are gone."""
    return client is not None and client.status in ("connecting", "closing", "closed")


def scheduler_lost(client: Client) -> CampaignError:
    """Return the error for a client that has lost its scheduler."""
    address = getattr(client.scheduler, "address", "") or "unknown address"
    return CampaignError(
        f"the connection to the Dask scheduler at {address} was lost",
        fix="See whether the scheduler is still running; finished images are kept, so run the campaign again",
    )


def _is_no_connection_error(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    # Whatever a broken connection raises is an OSError, CommClosedError of Dask included.
    return kind is None or not issubclass(kind, (asyncio.CancelledError, OSError))


def hide_connection_tracebacks() -> None:
    """Keep Dask's client and its event loop from logging tracebacks of broken connections.

    A callback of the event loop may fail before anything notices that the scheduler is lost, so this is called before
    the first connection. The error that ends the run explains what happened. Calling it again has no effect.
    """
    for name in ("distributed.client", "tornado.application"):
        logging.getLogger(name).addFilter(_is_no_connection_error)
