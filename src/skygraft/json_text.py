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
    json.JSONDecodeError
        If it is not JSON, or nested deeper than Python's own limit, where `json.loads` raises a RecursionError.
    UnicodeDecodeError
        If it is not text. Both are kinds of ValueError.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("brackets are nested too deep", "", 0) from error
