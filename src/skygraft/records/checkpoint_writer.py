"""Writes checkpoints while a campaign runs, and at its end."""

from __future__ import annotations

import contextlib
import threading

from skygraft.errors import SkygraftError
from skygraft.records.checkpoint import open_checkpoint
from skygraft.records.files import Layout
from skygraft.records.image_states import ImageStates, save_checkpoint
from skygraft.records.known_folders import FolderCensus, are_current, is_worth_it
from skygraft.records.known_packs import known_table
from skygraft.records.ledger import Ledger
from skygraft.records.plan_file import Plan

__all__ = ["CheckpointWriter"]

_EVENTS = 100_000
_SHARE = 10
"""A checkpoint holds all images, so the more there are the fewer are written: after events on a tenth of them."""


class CheckpointWriter:
    """Writes checkpoints of a ledger that grows.

    A checkpoint only saves time later: one that cannot be written ends no run.

    Parameters
    ----------
    plan : Plan
        The plan.
    layout : Layout
        Where the checkpoint lies.
    states : ImageStates
        The states of the images, which the run keeps up to date with the ledger.
    ledger : Ledger
        The ledger.
    """

    def __init__(self, plan: Plan, layout: Layout, states: ImageStates, ledger: Ledger) -> None:
        self._plan, self._layout, self._states, self._ledger = plan, layout, states, ledger
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Start to write a checkpoint, in a thread, if there are enough events that the last one does not include."""
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and self._states.n_unsaved >= max(_EVENTS, len(self._plan) // _SHARE):
            self._thread = threading.Thread(
                target=self._write, args=(self._states.copy(), self._ledger.size), name="checkpoint", daemon=True
            )
            self._states.n_unsaved = 0
            self._thread.start()

    def wait(self) -> None:
        """Wait until a checkpoint is written that was started."""
        if self._thread is not None:
            self._thread.join()

    def save(self) -> None:
        """Write a checkpoint, unless the last one has all events on images, and what is known of packs and folders."""
        self.wait()
        if self._states.n_unsaved or not self._is_current():
            self._states.n_unsaved = 0
            census = FolderCensus(len(self._plan)) if is_worth_it(len(self._plan)) else None
            self._write(self._states, self._ledger.size, census)

    def _is_current(self) -> bool:
        with open_checkpoint(self._plan, self._layout) as saved:
            known = known_table(self._layout)
            if saved is None or saved.header.packs != (known.digest if known is not None else ""):
                return False
            return not is_worth_it(len(self._plan)) or are_current(self._layout, saved.header)

    def _write(self, states: ImageStates, offset: int, census: FolderCensus | None = None) -> None:
        with contextlib.suppress(SkygraftError):
            save_checkpoint(self._plan, self._layout, states, offset, census)
