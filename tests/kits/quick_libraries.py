"""What libraries look up or rebuild at every call, and tests do once in a process, since nothing changes it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from astropy.config import ConfigItem
from typer.main import get_command


def look_up_once(patch: pytest.MonkeyPatch) -> None:
    """Keep the commands of command lines, and the settings of astropy.

    Building all our commands takes longer than many tests of one command. Astropy looks its settings up for every card
    of a header, and checks them each time: a fifteenth of the time of tests of FITS files.
    """
    patch.setattr("typer.testing._get_command", functools.cache(get_command))
    known: dict[ConfigItem, Any] = {}
    ask, change = ConfigItem.__call__, ConfigItem.set

    def value(item: ConfigItem) -> Any:
        if item not in known:
            known[item] = ask(item)
        return known[item]

    def changed(item: ConfigItem, value: Any) -> None:
        known.pop(item, None)
        change(item, value)

    patch.setattr(ConfigItem, "__call__", value)
    patch.setattr(ConfigItem, "set", changed)
