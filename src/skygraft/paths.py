"""Check and expand paths given by users."""

from __future__ import annotations

import os
from pathlib import Path

from skygraft.errors import ConfigError

__all__ = ["home_expanded"]

_MAX_NAME, _MAX_PATH = 255, 4096


def home_expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` replaced by the home folder.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Path

    Raises
    ------
    ConfigError
        If there is no such home folder, or the path is not valid.
    """
    given = Path(path)
    text = repr(str(given) if len(str(given)) < 60 else f"{str(given)[:60]}...")
    try:
        too_long = len(os.fsencode(given)) > _MAX_PATH or any(len(os.fsencode(p)) > _MAX_NAME for p in given.parts)
    except UnicodeEncodeError:
        raise ConfigError(f"{text} is not a valid path: it is not Unicode", fix="Correct the path") from None
    if too_long:
        raise ConfigError(
            f"{text} is longer than a path can be ({_MAX_NAME} bytes a name, {_MAX_PATH} in all)",
            fix="Correct the path",
        )
    if "\0" in str(given):
        raise ConfigError(f"{text} contains a NUL character, which no path does", fix="Correct the path")
    try:
        return given.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text}: there is no such home folder ({error})", fix="Write the path in full") from error
