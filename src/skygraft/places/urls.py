"""URLs of files in stores: which are allowed, and how they are joined and compared."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl

from skygraft.errors import ConfigError
from skygraft.place_names import is_url, redacted

__all__ = [
    "checked_url",
    "common_folder",
    "constant_part",
    "lost_slash",
    "pattern_expression",
    "scheme_of",
    "split_url",
]

_SAME = {"s3a": "s3", "gcs": "gs", "local": "file"}
"""Second names of kinds of stores."""
_SECRET = re.compile(
    r"(?i)^(x-amz-.*|x-goog-.*|awsaccesskeyid|signature|sig|se|sp|sv|sr|token|access_token|key|api_?key|password|secret|"
    r"policy|credential|expires)$"
)
_MAGIC = re.compile(r"[*?\[]")
_USUAL = ("s3", "gs", "https", "http", "file", "memory")
"""Those that fsspec need not be asked for, which takes a tenth of a second at first."""
_EXTRAS = {"s3": "s3", "gs": "gcs"}


def scheme_of(url: str) -> str:
    """Return the kind of store of a URL, such as ``s3``."""
    scheme = url.partition("://")[0].lower()
    return _SAME.get(scheme, scheme)


def split_url(url: str) -> tuple[str, str, str]:
    """Return scheme, host (or bucket) and path, without the slash between them.

    The host of ``file:///a`` and of ``memory://a/b`` is empty, and the path of the latter ``a/b``.
    """
    scheme, rest = scheme_of(url), url.partition("://")[2]
    if scheme in ("memory", "file"):
        return scheme, "", rest.lstrip("/")
    host, _, path = rest.partition("/")
    return scheme, host, path


def checked_url(url: str, key: str | None = None) -> str:
    """Return a URL in its usual form, after checking that it can be that of a file in a store.

    Parameters
    ----------
    url : str
        The URL.
    key : str, optional
        Key of the configuration, for errors.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If its scheme is unknown, it is a chain of several, or it holds a password, a key or a signature.
    """
    shown = redacted(url)
    if not url.isprintable() and (odd := re.search(r"[\0\ud800-\udfff]", url)):
        what = "a NUL character" if odd[0] == "\0" else f"bytes that are no text ({odd[0]!a})"
        raise ConfigError(f"{shown!a} contains {what}", key=key)
    if re.match(r"[^/]*://[^/]*:[^/]*@|(?!file:|memory:)[^/]*:/+[^/]*:[^/]*@", url):
        raise ConfigError(
            f"{shown!r} holds a password, which would be written into the campaign's files",
            key=key,
            fix="Leave it out; credentials come from the environment (such as AWS_ACCESS_KEY_ID, or a profile)",
        )
    secret = [name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True) if _SECRET.match(name)]
    if secret or shown != url:
        raise ConfigError(
            f"{shown!r} is signed ({', '.join(secret) or 'a key in it'}): the signature would be written into the "
            "campaign's files, and expires",
            key=key,
            fix="Give the URL of the object itself; credentials come from the environment",
        )
    if "::" in url.partition("://")[0] or "::" in url.partition("://")[2].partition("/")[0]:
        raise ConfigError(f"{shown!r} is a chain of stores; one is needed, such as s3://bucket/folder", key=key)
    scheme, host, path = split_url(url)
    if scheme not in _USUAL and scheme not in _known():
        import difflib

        near = difflib.get_close_matches(scheme, _known(), n=1)
        raise ConfigError(
            f"{scheme!r} is not a kind of store that fsspec knows",
            key=key,
            fix=f"Did you mean {near[0]}://?" if near else "Use s3://, gs://, https:// or a path",
        )
    if scheme in ("http", "https") and "#" in path:
        raise ConfigError(
            f"{shown!r} has a #, after which nothing is part of the file's name in a URL",
            key=key,
            fix="Write %23 for it",
        )
    if scheme == "s3" and host and not re.fullmatch(r"[\w.-]+|arn:\S+", host, re.ASCII):
        raise ConfigError(f"{shown!r}: {host!r} cannot be the name of a bucket", key=key, fix="Write s3://BUCKET/...")
    if scheme not in ("memory", "file") and (not host or re.search(r"[\s*?#]", host)):
        raise ConfigError(f"{shown!r} names no bucket or host", key=key, fix=f"Write {scheme}://NAME/...")
    return f"{scheme}://{host}/{path}" if host or scheme == "file" else f"{scheme}://{path}"


def _known() -> list[str]:
    from fsspec import available_protocols

    return [*available_protocols()]


def extra_of(scheme: str) -> str:
    """Return what to install for a kind of store, such as ``skygraft[s3]``."""
    return f"skygraft[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else f"the fsspec backend of {scheme}://"


def lost_slash(path: str | os.PathLike[str]) -> str | None:
    """Return the URL that was given as a `Path`, which makes one slash of two; None for real paths."""
    text = os.fspath(path)
    if ":/" not in text or not isinstance(path, Path) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]", text):
        return None
    scheme, _, rest = text.partition(":/")
    if scheme == "file":
        return f"file:///{rest}"
    # Of a scheme that is not known, too: that is what is wrong, unless there is a folder of that name.
    known = scheme.lower() in (*_SAME, "s3", "gs", "http", "https", "memory", "abfs")
    return f"{scheme}://{rest}" if known or not Path(f"{scheme}:").exists() else None


def constant_part(pattern: str) -> str:
    """Return the folder of a pattern before its first part with ``*``, ``?`` or ``[``; of a file its folder."""
    scheme, rest = pattern.partition("://")[::2]
    kept: list[str] = []
    parts = rest.split("/")
    for part in parts[:-1]:
        if _MAGIC.search(part):
            break
        kept.append(part)
    return f"{scheme}://{'/'.join(kept)}"


def common_folder(images: list[str], root: object = None) -> tuple[str, list[str]]:
    """Return the folder that URLs have in common, and their names in it.

    Parameters
    ----------
    images : list of str
        URLs, also patterns.
    root : object, optional
        The folder, if it is given.

    Raises
    ------
    ConfigError
        If they are not all URLs, of one store and bucket, in that folder.
    """
    local = [image for image in images if not is_url(image)]
    if local:
        raise ConfigError(f"images has URLs and {local[0]!r}; give URLs only, or a root that is a URL", key="images")
    urls = [checked_url(image, "images") for image in images]
    if root is not None:
        top = checked_url(root, "root").rstrip("/") if isinstance(root, str) and is_url(root) else str(root)
        outside = [url for url in urls if not url.startswith(f"{top}/")]
        if outside:
            raise ConfigError(
                f"{redacted(outside[0])!r} is not in the root {redacted(top)!r}", key="images", fix="Leave root out"
            )
    else:
        folders = [constant_part(url).split("/") for url in urls]
        same = [len({*parts}) == 1 for parts in zip(*folders, strict=False)]
        shared = folders[0][: [*same, False].index(False)]
        if len(shared) < 3:
            raise ConfigError(
                "images are of several stores or buckets",
                key="images",
                fix="Make a campaign for each, or list an index",
            )
        top = "/".join(shared)
    return top, [url[len(top) + 1 :] for url in urls]


def pattern_expression(pattern: str) -> str:
    """Return the regular expression of a pattern of names with ``*``, ``?``, ``[...]`` and ``**``, as glob has it."""
    parts, text = pattern.split("/"), ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            text += "(?:(?!\\.)[^/]+/)*" + ("(?!\\.)[^/]*" if last else "")
            continue
        text += ("" if part.startswith(".") else "(?!\\.)") + _of_name(part) + ("" if last else "/")
    return text


def _of_name(part: str) -> str:
    text, i = "", 0
    while i < len(part):
        end = part.find("]", i + 2) if part[i] == "[" else -1
        if part[i] == "*":
            text += "[^/]*"
        elif part[i] == "?":
            text += "[^/]"
        elif end > 0:
            inner = part[i + 1 : end].replace("\\", "\\\\")
            text += f"[{'^' + inner[1:] if inner[0] == '!' else inner}]"
            i = end
        else:
            text += re.escape(part[i])
        i += 1
    return text
