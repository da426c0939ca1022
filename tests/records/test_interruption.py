"""Signals wait for the end of a step, whatever the step does with what is raised."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
import typer

from skygraft.cli.common import command
from skygraft.records.interruption import Interruption, Terminated


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_a_signal_is_raised_at_the_end_of_a_step(number: int, kind: type[BaseException]) -> None:
    done = []
    with Interruption() as interruption:
        with interruption.step():
            done.append("nothing came")
        with pytest.raises(kind) as caught, interruption.step():
            # Like what Python does where it collects garbage.
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), number)
            done.append("the step was done")
    assert type(caught.value) is kind
    assert getattr(caught.value, "number", signal.SIGINT) == number
    assert done == ["nothing came", "the step was done"]


def test_a_second_signal_does_not_wait() -> None:
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt), interruption.step():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption, interruption.patience():
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.asked == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("error", "code"), [(Terminated(signal.SIGHUP), 129), (Terminated(), 143)])
def test_commands_end_with_the_code_of_their_signal(error: Terminated, code: int) -> None:
    @command
    def interrupted() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        interrupted()
    assert ended.value.exit_code == code
