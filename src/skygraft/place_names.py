"""Names of files that lie in a store, such as ``s3://bucket/a.fits``, and of their copies on this machine.

A copy lies in a folder whose name tells where it comes from::

    SCRATCH/.skygraft-places/TAG/KIND/SCHEME/HOST/PATH

``TAG`` stands for the options of the store, ``KIND`` is ``stubs`` (a file with the size and time of the one in the
store and with headers at most), ``files`` (the whole file) or ``work`` (outputs before they are in the store). So each
of these names gives the URL, without a table; and errors, records and tables name URLs instead of copies.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeGuard

__all__ = [
    "FILES_KIND",
    "MARK",
    "STUBS_KIND",
    "WORK_KIND",
    "as_kind",
    "base_of",
    "is_copy",
    "is_url",
    "path_parts",
    "redacted",
    "shown_place",
    "url_of",
    "with_urls",
]

MARK = ".skygraft-places"
"""Folder in the scratch folder that all copies lie in."""
STUBS_KIND, FILES_KIND, WORK_KIND = "stubs", "files", "work"
_ODD = "%~"
"""Before the hexadecimal bytes of a part of a path that is no name of a file, such as ``..`` in an object's key."""
_ODD_PART = re.compile(rf"(?:(?<=/)|^){_ODD}((?:[0-9a-f]{{2}})*)(?![0-9a-f])")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_COPY = re.compile(
    rf"/{re.escape(MARK)}/([0-9a-f]+)/({STUBS_KIND}|{FILES_KIND}|{WORK_KIND})/([a-z0-9+.-]+)(/[^\s'\",;]*)?"
)
_IN_TEXT = re.compile(rf"(?<![^\s'\"(\[=:,])/[^\s'\"]*?{_COPY.pattern}")
# Names of users may have an @, and a URL a slash less or more; but in file:///a:b@c that is part of a path.
_USER = re.compile(r"""(?<=:)(?<!file:)(?<!memory:)(/+)[^/\s'"]*:[^/\s'"]*@|(?<=:)(//)[^/\s'"]*:[^/\s'"]*@""")
_QUERY = re.compile(
    r"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|signature|sig|se|sp|sv|sr|token|access_token|key|"
    r"api_?key|password|secret|policy|credential|expires)=)[^&\s'\"]*"
)


def is_url(text: object) -> TypeGuard[str]:
    """True for text such as ``s3://bucket/a.fits``."""
    return isinstance(text, str) and _URL.match(text) is not None


def redacted(text: str) -> str:
    """Return text in which user names with passwords, and signatures and keys in URLs, are replaced by dots."""
    if ":/" not in text and "=" not in text:
        return text
    return _QUERY.sub(r"\1...", _USER.sub(lambda found: f"{found[1] or found[2]}...@", text))


def path_parts(path: str) -> list[str]:
    """Return the names of folders and file that stand for the path of a URL."""
    return [_ODD + part.encode().hex() if part in ("", ".", "..") or part.startswith(_ODD) else part
            for part in path.split("/")]  # fmt: skip


def _path_of(parts: str) -> str:
    """The path that names of folders and file stand for."""
    return _ODD_PART.sub(lambda match: bytes.fromhex(match[1]).decode(), parts) if _ODD in parts else parts


def _url(scheme: str, rest: str) -> str:
    path = _path_of(rest)
    return f"{scheme}://{path.lstrip('/') if scheme == 'memory' else path}"


def is_copy(path: str | os.PathLike[str]) -> bool:
    """True if a path is that of the copy of a file in a store, or of a folder of such."""
    return f"/{MARK}/" in os.fspath(path)


def _split(path: str | os.PathLike[str]) -> tuple[str, str, str, str, str] | None:
    """Scratch folder, tag, kind, scheme, and host with path; None for other paths."""
    before, mark, after = os.fspath(path).partition(f"/{MARK}/")
    parts = after.split("/", 3)
    if not mark or len(parts) < 3 or parts[1] not in (STUBS_KIND, FILES_KIND, WORK_KIND):
        return None
    return before, parts[0], parts[1], parts[2], parts[3] if len(parts) == 4 else ""


def url_of(path: str | os.PathLike[str]) -> str | None:
    """Return the URL that a path on this machine is the copy of; None if it is none."""
    found = _split(path)
    return None if found is None else _url(*found[3:])


def shown_place(path: str | os.PathLike[str]) -> str:
    """Return how a path is shown and recorded: the URL of a copy, any other path as it is."""
    return url_of(path) or os.fspath(path)


def base_of(path: str | os.PathLike[str]) -> str:
    """Return the folder of all copies with the same options of the store as a copy; empty for other paths."""
    found = _split(path)
    return "" if found is None else f"{found[0]}/{MARK}/{found[1]}"


def as_kind(path: str | os.PathLike[str], kind: str) -> Path:
    """Return the copy of another kind of the same file; any other path as it is."""
    found = _split(path)
    if found is None or found[2] == kind:
        return Path(path)
    before, tag, _, scheme, rest = found
    return Path(f"{before}/{MARK}/{tag}/{kind}/{scheme}/{rest}")


def with_urls(text: str) -> str:
    """Return text in which names of copies are replaced by their URLs, and secrets in URLs by dots."""
    if f"/{MARK}/" in text:
        text = _IN_TEXT.sub(lambda match: _url(match[3], (match[4] or "/")[1:]), text)
    return redacted(text)
