"""Errors of stores: which may pass, and what is said of those that do not."""

from __future__ import annotations

from skygraft.errors import PlaceError, PlaceNotFoundError
from skygraft.place_names import redacted
from skygraft.places.urls import split_url

__all__ = ["CutOffError", "may_pass", "named", "reason_of"]

_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, ImportError)
_OF_NETWORKS = ("aiohttp", "botocore", "aiobotocore", "urllib3", "gcsfs", "google", "requests")
_WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound",
                        "DefaultCredentialsError", "RefreshError")  # fmt: skip


class CutOffError(ConnectionError):
    """What arrived is not what was sent."""


def reason_of(error: Exception) -> Exception:
    """Return the error itself, or what it hides: of HTTP, fsspec calls everything a missing file."""
    cause = error.__cause__
    hides = isinstance(error, FileNotFoundError) and isinstance(cause, Exception)
    return cause if hides and type(cause).__module__.split(".")[0] == "aiohttp" else error  # type: ignore[return-value]


def _of_network(error: Exception) -> bool:
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in _OF_NETWORKS


def may_pass(error: Exception) -> bool:
    """Return whether a request that ended with this error may succeed when it is made again."""
    if isinstance(error, _PERMANENT) or type(error).__name__ in _WITHOUT_CREDENTIALS:
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
    text = redacted(str(error).strip().rstrip(".")) or type(error).__name__
    status = getattr(error, "status", None)
    place = redacted(url)
    low = text.lower()
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
    if isinstance(error, PermissionError) or status in (401, 403):
        return PlaceError(
            f"it must not be {what} with these credentials: permission denied" + (" (anonymous)" * anon),
            path=place,
            fix="Check the credentials of the environment and the rights that they have, and storage.anon",
        )
    if isinstance(error, OSError) and error.errno not in (None, 5, 16) and not _of_network(error):
        return error  # of this machine
    attempts = f" after {tries} attempts" if may_pass(error) else ""
    return PlaceError(
        f"it cannot be {what}{attempts} ({type(error).__name__}: {text[:300]})",
        path=place,
        fix="Check the connection and the store, and run again",
    )
