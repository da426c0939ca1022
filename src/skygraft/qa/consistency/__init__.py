"""Coadds against visits: the light of a catalogue in a coadd, and in the visits that the coadd was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.qa.consistency.check import Consistency, check_consistency
    from skygraft.qa.consistency.settings import ConsistencySettings
    from skygraft.qa.consistency.summary import ConsistencySummary

__all__ = ["Consistency", "ConsistencySettings", "ConsistencySummary", "check_consistency"]

if not TYPE_CHECKING:  # the settings need nothing that draws
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.qa.consistency.check": ("Consistency", "check_consistency"),
            "skygraft.qa.consistency.settings": ("ConsistencySettings",),
            "skygraft.qa.consistency.summary": ("ConsistencySummary",),
        },
    )
