"""Handling of Ctrl-C, SIGTERM and SIGHUP between two steps, so that nothing is left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruption", "Terminated"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal other than that of Ctrl-C, as an exception.

    Parameters
    ----------
    number : int
        SIGTERM, which batch systems send when the time is up; or SIGHUP, when the terminal was closed.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(f"signal {int(number)}")
        self.number = int(number)


class Interruption:
    """Handles Ctrl-C, SIGTERM and SIGHUP within a ``with`` statement of the main thread.

    Within `patience` the first signal only sets `asked`, and the next is raised as an exception; a `step` raises the
    first at its end. Elsewhere each is raised at once. SIGHUP stays ignored where it is, as under ``nohup``.

    Attributes
    ----------
    asked : int
        Number of the signal that was received; 0 for none.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Only note the first signal, for whoever looks at `asked`."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Raise a signal only at the end of the block.

        Raised anywhere it may be lost: Python discards exceptions that are raised during garbage collection.
        """
        with self.patience():
            yield
        if self.asked:
            raise self._error(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._patient and not self.asked:
            self.asked = number
            return
        raise self._error(number)

    @staticmethod
    def _error(number: int) -> KeyboardInterrupt:
        return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
