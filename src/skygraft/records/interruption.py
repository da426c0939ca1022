"""Ctrl-C, SIGTERM and SIGHUP: acted on between two steps, so that nothing is left half done."""

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
        SIGTERM: a batch system's way to say that time is up. SIGHUP: the terminal has gone.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(f"signal {int(number)}")
        self.number = int(number)


class Interruption:
    """Hears Ctrl-C, SIGTERM and SIGHUP while it is entered; signals are heard in the main thread only.

    SIGHUP is left alone where it is ignored, as under ``nohup``.

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
        return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
