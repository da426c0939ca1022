"""Errors of stores: which may pass, and what is said of those that do not."""

from __future__ import annotations

import contextlib
import time
from email.utils import parsedate_to_datetime

from skygraft.errors import PlaceError, PlaceNotFoundError
from skygraft.place_names import redacted
from skygraft.places.urls import scheme_of, split_url

__all__ = ["CutOffError", "RefusedError", "asked_to_wait", "is_denied", "may_pass", "named", "reason_of"]

_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, ImportError)
_OF_NETWORKS = ("aiohttp", "botocore", "aiobotocore", "urllib3", "gcsfs", "google", "requests")
_WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound",
                        "DefaultCredentialsError", "RefreshError")  # fmt: skip
_LONGEST_ASKED = 60.0
_DENIED = "permission denied"
# Words of codes and messages of stores, in small letters.
_EXPIRED = ("expiredtoken", "token has expired", "requestexpired", "tokenrefreshrequired", "token expired")
_OF_REGION = ("authorizationheadermalformed", "permanentredirect", "illegallocationconstraint", "configured region",
              "addressed using the specified endpoint")  # fmt: skip
_OF_CLOCK = ("requesttimetooskewed", "current time is too large")


class CutOffError(ConnectionError):
    """What arrived is not what was sent."""


class RefusedError(Exception):
    """A request that a store refused, with the status of its answer."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def reason_of(error: Exception) -> Exception:
    """Return the error itself, or what it hides: of HTTP, fsspec calls everything a missing file."""
    cause = error.__cause__
    hides = isinstance(error, FileNotFoundError) and isinstance(cause, Exception)
    return cause if hides and type(cause).__module__.split(".")[0] == "aiohttp" else error  # type: ignore[return-value]


def _of_network(error: Exception) -> bool:
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in _OF_NETWORKS


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def asked_to_wait(error: Exception) -> float:
    """Return the seconds after which a server asks to be asked again (Retry-After), at most a minute; else 0."""
    asked = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    with contextlib.suppress(ValueError):
        return min(max(float(asked), 0.0), _LONGEST_ASKED)
    with contextlib.suppress(ValueError, TypeError):
        return min(max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0), _LONGEST_ASKED)
    return 0.0


def is_denied(error: PlaceError) -> bool:
    """True if a store has refused a request for want of a right."""
    return _DENIED in error.message


def may_pass(error: Exception) -> bool:
    """Return whether a request that ended with this error may succeed when it is made again."""
    if isinstance(error, _PERMANENT) or _says(error, _OF_REGION) or type(error).__name__ in _WITHOUT_CREDENTIALS:
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 425, 429)
    if _of_network(error):
        return True
    # s3fs makes an OSError of what it does not know; those of this machine (full disk, permissions) have other numbers.
    return isinstance(error, OSError) and error.errno in (None, 5, 16) and not isinstance(error, ImportError)


def named(error: Exception, what: str, url: str, *, endpoint_url: str, anon: bool, tries: int) -> Exception:
    """Return skygraft's error for one of a backend; its text holds no credentials.

    Parameters
    ----------
    error : Exception
        See `reason_of`.
    what : str
        What was done: read, written, listed, removed.
    url : str
        To which file.
    endpoint_url, anon
        Of the `Storage`.
    tries : int
        How often an error that may pass was answered by another attempt.

    Returns
    -------
    Exception
        A `PlaceError`; an error of this machine, such as a full disk, is returned as it is.
    """
    text, status = _text_of(error), getattr(error, "status", None)
    place, low = redacted(url), text.lower()
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        if "bucket" in low and "exist" in low:
            host = split_url(url)[1]
            at = f" at {redacted(endpoint_url)}" if endpoint_url else ""
            return PlaceNotFoundError(
                f"there is no bucket {host!r}{at}", path=place, fix="Check its name, storage.endpoint_url and region"
            )
        return PlaceNotFoundError("there is no such file", path=place, fix="Check the name (large and small letters)")
    if type(error).__name__ in _WITHOUT_CREDENTIALS:
        return PlaceError(
            "no credentials were found in the environment",
            path=place,
            fix="Set them (such as AWS_ACCESS_KEY_ID or AWS_PROFILE), or storage: {anon: true} for public data",
        )
    for words, problem, fix in (
        (_EXPIRED, "the credentials have expired", "Renew them and run again: what is done stays done"),
        (_OF_REGION, "the bucket is in another region", "Set storage.region to the region of the bucket"),
        (_OF_CLOCK, "this machine's clock is wrong", "Set the clock"),
    ):
        if _says(error, words):
            return PlaceError(f"it cannot be {what}: {problem} ({text[:300]})", path=place, fix=fix)
    if isinstance(error, PermissionError) or status in (401, 403):
        return _denied(text, what, place, anon)
    if isinstance(error, OSError) and error.errno not in (None, 5, 16) and not _of_network(error):
        return error  # of this machine
    attempts = f" after {tries} attempts" if may_pass(error) else ""
    return PlaceError(
        f"it cannot be {what}{attempts} ({text[:300]})",
        path=place,
        fix="Check the connection and the store, and run again",
    )


def _text_of(error: Exception) -> str:
    """What an error says, without credentials; with its kind, unless it is one of skygraft's."""
    text = redacted(str(error).strip().rstrip(".")) or type(error).__name__
    kind = type(error)
    if kind.__name__ == "TooManyRedirects":
        return "the server sends from one address to the next without end"
    if kind.__name__ == "ClientResponseError":  # aiohttp's, whose text is for programmers
        return f"the server answered {getattr(error, 'status', '')} {getattr(error, 'message', '')}".strip()
    own = kind.__module__ in ("builtins", __name__) and not isinstance(error, ValueError | TypeError)
    return text if own or kind.__name__ == text else f"{kind.__name__}: {text}"


def _denied(text: str, what: str, place: str, anon: bool) -> PlaceError:
    said = "" if _DENIED in text.lower() else f" ({text[:300]})"
    if scheme_of(place) in ("http", "https"):
        return PlaceError(
            f"it must not be {what}: {_DENIED}{said}",
            path=place,
            fix="Check the URL; servers that want a login or a signature cannot be read",
        )
    as_whom = "without credentials (storage.anon)" if anon else "with these credentials"
    also = {
        "looked at": ". Stores say so of files that are not there, too, to those who may not list them (s3:ListBucket)",
        "listed": ". Outputs need the right to list; images without it are named one by one, or by an index",
    }.get(what, "")
    return PlaceError(
        f"it must not be {what} {as_whom}: {_DENIED}{said}",
        path=place,
        fix=f"Check the name, the credentials of the environment and their rights, and storage.anon{also}",
    )
