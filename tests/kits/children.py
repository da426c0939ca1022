"""What stands for the child process of `careful_map` in tests: this process."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any


class InThisProcess:
    """Call the function here; what would go through a pipe is pickled as there.

    To fork a process that has imported all tests takes a twentieth of a second of processor time, and every plan of a
    campaign does so. Tests of crashes have the fixture `real_children`.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def ask(self, item: Any) -> tuple[Any, BaseException | None]:
        """Return the result for an item, or None and the error that the function raised."""
        answer: tuple[Any, BaseException | None]
        try:
            answer = self._function(_piped(item)), None
        except Exception as error:
            answer = None, error
        return _piped(answer)

    def end(self) -> str:
        """Return how the child ended."""
        return "exit code 0"


def _piped[T](value: T) -> T:
    piped: T = ForkingPickler.loads(ForkingPickler.dumps(value))
    return piped
