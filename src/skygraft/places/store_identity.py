"""What tells one version of a file in a store from another: size, time and tags, as fsspec gives them."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from skygraft.disk import FileIdentity

__all__ = ["fraction_of", "identity_of", "md5_file", "md5_of", "tag_of"]


def identity_of(info: Mapping[str, Any]) -> FileIdentity:
    """Return what tells one version of a file in a store from another, the same on all machines.

    Parameters
    ----------
    info : mapping
        What fsspec says of the file.

    Returns
    -------
    FileIdentity
        Size, and time of last change. Where the store gives a tag of the content (ETag, MD5, CRC), the fraction of the
        second is made from the tag: another content has another time. A size that is not known is -1.
    """
    tag = next((str(info[key]) for key in ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "crc32c", "generation")
                if info.get(key)), "")  # fmt: skip
    tag = tag.removeprefix("W/").strip('"')
    time_ns = _time_ns(info)
    if tag:
        time_ns = time_ns // 10**9 * 10**9 + fraction_of(tag)
    size = info.get("size")
    return FileIdentity(-1 if size is None else int(size), time_ns)


def fraction_of(tag: str) -> int:
    """Return the nanoseconds, below a second, that stand for a tag of a file's content."""
    # Whole units of 100 ns, which every file system keeps that keeps fractions at all.
    return int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8]) % 10**7 * 100


def _time_ns(info: Mapping[str, Any]) -> int:
    for key in ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "modified", "created"):
        value = info.get(key)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError, TypeError):
                value = parsedate_to_datetime(value)
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
            return int(value.timestamp()) * 10**9 + value.microsecond * 1000
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value * 1e7) * 100
    return 0


def tag_of(info: Mapping[str, Any]) -> str:
    """Return the tag that a store gives to the content of a file; empty if it gives none."""
    return str(info.get("ETag") or "").strip('"')


def md5_of(info: Mapping[str, Any]) -> str:
    """Return the MD5 of a file's content, where the store's tag is one; empty where it is not."""
    tag = tag_of(info)
    return tag if re.fullmatch(r"[0-9a-f]{32}", tag) else ""


def md5_file(path: Path) -> str:
    """Return the MD5 of a file, as stores give it."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
