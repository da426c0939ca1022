"""Ctrl-C and SIGTERM: acted on between two steps, so that nothing is left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruption", "Terminated"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: a batch system's way to say that time is up."""


class Interruption:
    """Hears Ctrl-C and SIGTERM while it is entered; signals are heard in the main thread only.

    Within `patience` the first one only sets `asked`, and the next is raised; a `step` raises it at its end. Outside of
    them each is raised.

    Attributes
    ----------
    asked : int
        Number of the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Let the first signal wait until it is looked for."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Let a signal wait until something is done, and raise it then.

        Raised anywhere, it may be lost: Python throws away what is raised where it collects garbage.
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
        return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
