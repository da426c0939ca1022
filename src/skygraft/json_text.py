"""The one way in which JSON is read: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]


def parse_json(text: str | bytes) -> Any:
    """The content of JSON text.

    Parameters
    ----------
    text : str or bytes
        Bytes are UTF-8, UTF-16 or UTF-32.

    Raises
    ------
    ValueError
        If it is not JSON, not text, or is nested deeper than Python's own limit, of which `json.loads` makes a
        RecursionError.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error
