"""S3 by obstore: requests at a tenth of the processor time of s3fs, which takes most of a second only to start.

Only what it certainly does as s3fs does: `open_bucket` gives None for a bucket or a configuration that it is not sure
of, and odd keys are left to s3fs too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skygraft.errors import ConfigError
from skygraft.place_names import redacted
from skygraft.places.store_errors import RefusedError
from skygraft.places.urls import split_url

__all__ = ["Objects", "is_ordinary", "open_bucket"]

_PART, _PARTS_FROM = 50 << 20, 100 << 20
"""Size of the parts of an upload, and of files that are uploaded in parts; as s3fs does, so that tags are the same."""
_PIECE = 4 << 20
_THREADS = 16
_CREDENTIALS_FOR = timedelta(minutes=5)
_UNUSUAL = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
_UNUSUAL_IN_PROFILE = ("s3", "services", "ca_bundle", "use_fips_endpoint", "use_dualstack_endpoint")
_OTHER_PARTITIONS = ("cn-", "us-iso", "eu-isoe", "us-gov")
"""Regions whose addresses do not end in amazonaws.com, or that other regions know nothing of."""
_NO_STORE = "the answer is not that of an S3 server: check storage.endpoint_url and its port"
_STATUS = re.compile(r"status code: (\d{3})")
_SERVER = re.compile(r"uri: Some\(\s*(https?://[^/\s]+)")
_REASON = re.compile(r"(?:message|error): \"(.*?)\"|(?:InvalidCertificate\(\s*\w+)")
_MESSAGE = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)


def is_ordinary(key: str) -> bool:
    """True for keys that obstore has names for: it knows no empty parts, nor ``.`` and ``..``."""
    return not key or not {"", ".", ".."} & {*key.removesuffix("/").split("/")}


class Objects:
    """The objects of a bucket, as `skygraft.places.stores` asks a filesystem for them.

    Every request has a limit of its own, ``timeout`` in seconds. Errors are those of files: `FileNotFoundError`,
    `PermissionError`, `FileExistsError`, `TimeoutError`, and `ConnectionError` for what may pass.

    Parameters
    ----------
    bucket : str
        Its name.
    options : dict
        Options of ``obstore.store.S3Store``.
    spare : callable
        Gives the filesystem that lists buckets with odd keys.
    """

    def __init__(self, bucket: str, options: dict[str, Any], spare: Callable[[], Any]) -> None:
        self.bucket, self._options, self._spare = bucket, options, spare
        self._with_tls = not options.get("endpoint", "").startswith("http://")
        bundle = os.environ.get("AWS_CA_BUNDLE") if self._with_tls else None
        self._certificates = {"root_certificate": Path(bundle).read_bytes()} if bundle else {}
        self._by_timeout: dict[float, Any] = {}

    def _client(self, timeout: float) -> Any:
        client = self._by_timeout.get(timeout)
        if client is None:
            from obstore.store import S3Store

            options: Any = {
                "timeout": timedelta(seconds=timeout),
                "connect_timeout": timedelta(seconds=min(timeout, 60.0)),
                "allow_http": True,
                **self._certificates,
            }
            client = S3Store(self.bucket, **self._options, client_options=options, retry_config={"max_retries": 0})
            self._by_timeout[timeout] = client
        return client

    def info(self, url: str, *, timeout: float) -> dict[str, Any]:
        """Return what the store says of an object; of a folder, that it is one."""
        import obstore

        key = _key(url)
        if key:
            try:
                with _named_errors(url):
                    meta = obstore.head(self._client(timeout), key)
                return self._described(meta)
            except FileNotFoundError:
                with contextlib.suppress(PermissionError):
                    if self._has_any(url, timeout):
                        return {"name": f"{self.bucket}/{key}", "size": 0, "type": "directory"}
                raise
            except (PermissionError, RefusedError) as error:
                if getattr(error, "status", 403) in (400, 403):
                    # Answers to HEAD have no body that says why; the first byte is refused for the same reason.
                    with _named_errors(url):
                        obstore.get_range(self._client(timeout), key, start=0, length=1)
                raise
        return {"name": f"{self.bucket}/{key}".rstrip("/"), "size": 0, "type": "directory"}

    def _has_any(self, folder: str, timeout: float) -> bool:
        import obstore

        with _named_errors(folder):
            for some in obstore.list(self._client(timeout), _key(folder), chunk_size=1):
                return bool(some)
        return False

    def _described(self, meta: Any) -> dict[str, Any]:
        if meta["e_tag"] is None and meta["last_modified"].timestamp() == 0:
            raise RefusedError(_NO_STORE, 200)
        return {
            "name": f"{self.bucket}/{meta['path']}",
            "size": meta["size"],
            "type": "file",
            "ETag": meta["e_tag"] or "",
            "LastModified": meta["last_modified"],
        }

    def exists(self, url: str, *, timeout: float) -> bool:
        """True if there is such an object or folder."""
        with contextlib.suppress(FileNotFoundError):
            self.info(url, timeout=timeout)
            return True
        return False

    def cat_file(self, url: str, start: int | None = None, end: int | None = None, *, timeout: float) -> bytes:
        """Return the bytes of an object, or some of them."""
        import obstore

        with _named_errors(url):
            if start is None and end is None:
                return bytes(obstore.get(self._client(timeout), _key(url)).bytes())
            if end is None:
                wanted: Any = {"range": {"offset": start or 0}}
                return bytes(obstore.get(self._client(timeout), _key(url), options=wanted).bytes())
            return bytes(obstore.get_range(self._client(timeout), _key(url), start=start or 0, end=end))

    def cat_ranges(
        self, urls: Sequence[str], starts: Any, ends: Any, *, on_error: str = "raise", timeout: float
    ) -> list[bytes]:
        """Return ranges of bytes of objects, or whole objects, several at a time."""
        del on_error  # the first is raised
        starts, ends = starts or [None] * len(urls), ends or [None] * len(urls)

        def one(at: int) -> bytes:
            return self.cat_file(urls[at], starts[at], ends[at], timeout=timeout)

        if len(urls) == 1:
            return [one(0)]
        with ThreadPoolExecutor(min(_THREADS, len(urls))) as pool:
            return [*pool.map(one, range(len(urls)))]

    def get_file(self, url: str, target: str, *, timeout: float) -> tuple[dict[str, Any], str]:
        """Copy an object to this machine.

        Returns
        -------
        (dict, str)
            What the store says of the object that it gave, and the MD5 of what arrived; that is empty with TLS, which
            lets no changed byte pass.
        """
        import obstore

        md5 = None if self._with_tls else hashlib.md5(usedforsecurity=False)
        with Path(target).open("wb") as file:
            with _named_errors(url):
                found: Any = obstore.get(self._client(timeout), _key(url))
                pieces = iter(found.stream(_PIECE))
            while True:
                with _named_errors(url):
                    piece = next(pieces, None)
                if piece is None:
                    return self._described(found.meta), "" if md5 is None else md5.hexdigest()
                if md5 is not None:
                    md5.update(piece)
                file.write(piece)

    def put_file(self, source: str, url: str, *, timeout: float) -> str:
        """Write a file of this machine to an object; returns its tag, see `pipe_file`."""
        import mimetypes

        kind = mimetypes.guess_type(source)[0]
        size = Path(source).stat().st_size
        return self._put(url, Path(source), size, timeout, {"Content-Type": kind} if kind else None)

    def pipe_file(self, url: str, content: bytes, mode: str = "overwrite", *, timeout: float) -> str:
        """Write an object; with the mode ``create``, only if there is none.

        Returns
        -------
        str
            The tag that the store gave to what it wrote. Empty where nothing tells that it wrote what was sent: with
            TLS no changed byte passes, and else the store compares the SHA-256 that is part of the signature.
        """
        return self._put(url, content, len(content), timeout, None, mode=mode)

    def _put(
        self, url: str, content: Any, n_bytes: int, timeout: float, attributes: Any, *, mode: str = "overwrite"
    ) -> str:
        import obstore

        with _named_errors(url):
            written = obstore.put(
                self._client(timeout),
                _key(url),
                content,
                attributes=attributes,
                # Without a mode, since what is written in parts cannot have one.
                mode="create" if mode == "create" else None,
                use_multipart=n_bytes >= _PARTS_FROM,
                chunk_size=_PART,
            )
        is_safe = self._with_tls or not self._options.get("skip_signature")
        return written["e_tag"] or "" if is_safe else ""

    def rm_file(self, url: str, *, timeout: float) -> None:
        """Remove an object, if there is one."""
        import obstore

        with _named_errors(url):
            obstore.delete(self._client(timeout), _key(url))

    def find(self, folder: str, *, detail: bool = True, timeout: float) -> dict[str, Any]:
        """Return all objects of a folder and of those in it, by bucket and key."""
        import obstore

        del detail
        from obstore.exceptions import InvalidPathError

        found: dict[str, Any] = {}
        try:
            with _named_errors(folder):
                for some in obstore.list(self._client(timeout), _key(folder) or None, chunk_size=1000):
                    for meta in some:
                        one = self._described(meta)
                        found[one["name"]] = one
        except InvalidPathError:
            listed: dict[str, Any] = self._spare().find(folder, detail=True, timeout=timeout)
            return listed
        return _without_marks(found, f"{self.bucket}/{_key(folder)}")

    def ls(self, folder: str, *, detail: bool = True, timeout: float) -> list[dict[str, Any]]:
        """Return the objects of a folder, without those of folders in it."""
        import obstore

        del detail
        from obstore.exceptions import InvalidPathError

        try:
            with _named_errors(folder):
                listed = obstore.list_with_delimiter(self._client(timeout), _key(folder) or None)
        except InvalidPathError:
            odd: list[dict[str, Any]] = self._spare().ls(folder, detail=True, timeout=timeout)
            return odd
        inner = {f"{self.bucket}/{name.rstrip('/')}" for name in listed["common_prefixes"]}
        files = [self._described(meta) for meta in listed["objects"]]
        files = [one for one in files if one["size"] or one["name"] not in {*inner, f"{self.bucket}/{_key(folder)}"}]
        return files + [{"name": name, "size": 0, "type": "directory"} for name in sorted(inner)]

    def check(self, folder: str, *, timeout: float) -> None:
        """Raise if what listed nothing is no S3 server, such as a page for people at another port."""
        import obstore

        with contextlib.suppress(FileNotFoundError, PermissionError), _named_errors(folder):
            self._described(obstore.head(self._client(timeout), f"{_key(folder)}/.none".lstrip("/")))

    def invalidate_cache(self, path: str | None = None) -> None:
        """Nothing is kept."""


def _without_marks(found: dict[str, Any], top: str) -> dict[str, Any]:
    """Leave out empty objects that stand for folders: keys that end in a slash, which obstore does not show."""
    folders = {top, *(name[:at] for name in found for at in _slashes(name))}
    return {name: one for name, one in found.items() if one["size"] or name not in folders}


def _slashes(name: str) -> Iterator[int]:
    at = name.find("/")
    while at >= 0:
        yield at
        at = name.find("/", at + 1)


def _key(url: str) -> str:
    return split_url(url)[2].rstrip("/")


@contextlib.contextmanager
def _named_errors(url: str) -> Iterator[None]:
    """Make errors of files of those of obstore, without the requests that their texts show."""
    from obstore.exceptions import BaseError, InvalidPathError

    try:
        yield
    except InvalidPathError:
        raise
    except (BaseError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise  # of this machine
        found = _error_of(error, url)
        raise found from None


def _error_of(error: Exception, url: str) -> Exception:
    text, name = str(error), type(error).__name__
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    said = f"{found[2].rstrip('.')} ({found[1]})" if (found := _MESSAGE.search(text)) else ""
    if "NoSuchBucket" in text:
        return FileNotFoundError("the specified bucket does not exist")
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(url)
    if name == "AlreadyExistsError":
        return FileExistsError(url)
    if name in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        return PermissionError(said or "permission denied")
    if "kind: Timeout" in text or "TimedOut" in text:
        return TimeoutError("it was not answered in time")
    if status:
        return RefusedError(said or f"the store answered with status {status}", status)
    if "kind: Connect" in text:
        server = f" to {found[1]}" if (found := _SERVER.search(text)) else ""
        why = [found[1] for found in _REASON.finditer(text)] or ["it does not speak TLS"] * (
            "InvalidContentType" in text
        )
        return ConnectionError(f"no connection{server}" + (f": {why[-1]}" if why else ""))
    if "ETag Header missing" in text:
        return RefusedError(_NO_STORE, 200)
    short = text.partition("\n")[0].rpartition(" - ")[2]
    return ConnectionError(short or name)


# -- which buckets


_lock = threading.Lock()
_open: dict[object, Objects | None] = {}
_process: list[int] = []
"""The process whose threads make the requests."""


def open_bucket(storage: Any, bucket: str, spare: Callable[[], Any]) -> Objects | None:
    """Return the objects of a bucket; None where they are left to s3fs.

    Parameters
    ----------
    storage : Storage
        Options of the store.
    bucket : str
        Its name.
    spare : callable
        Gives s3fs's filesystem.
    """
    # A child that was forked has none of the threads that requests are made by.
    if _process and os.getpid() != _process[0]:
        return None
    own = {name: os.environ[name] for name in os.environ if name.startswith(("AWS_", "FSSPEC_S3"))}
    known = (storage, bucket, tuple(sorted(own.items())))
    with _lock:
        _process[:] = [os.getpid()]
        if known not in _open:
            options = _options(storage, bucket, own)
            _open[known] = None if options is None else Objects(bucket, options, spare)
        return _open[known]


def _options(storage: Any, bucket: str, own: dict[str, str]) -> dict[str, Any] | None:
    """Options of obstore; None where it might do something else than s3fs."""
    if any(own.get(name) for name in _UNUSUAL) or any(name.startswith("FSSPEC_S3") for name in own):
        return None
    if bucket.startswith("arn:") or bucket.endswith("--x-s3"):
        return None
    try:
        import obstore  # noqa: F401
    except ImportError:
        return None
    region, endpoint = storage.region or own.get("AWS_REGION") or own.get("AWS_DEFAULT_REGION", ""), ""
    options: dict[str, Any] = {}
    with_keys = bool(own.get("AWS_ACCESS_KEY_ID") and own.get("AWS_SECRET_ACCESS_KEY"))
    if _has_profiles(own) or not (with_keys or storage.anon):
        session = _session()
        if session is None or any(session.get_scoped_config().get(name) for name in _UNUSUAL_IN_PROFILE):
            return None
        endpoint = session.get_scoped_config().get("endpoint_url", "")
        region = region or session.get_config_variable("region") or ""
        if not with_keys and not storage.anon:
            provider = _provider(session)
            if provider is None:
                return None  # s3fs says so
            options["credential_provider"] = provider
    endpoint = storage.endpoint_url or own.get("AWS_ENDPOINT_URL_S3") or own.get("AWS_ENDPOINT_URL") or endpoint
    if endpoint and not re.match(r"https?://[^/\s]", endpoint):
        raise ConfigError(
            f"{redacted(endpoint)!r} is not the address of a server",
            key="storage.endpoint_url",
            fix="Give it like https://minio.example.org, here, in AWS_ENDPOINT_URL or in the profile",
        )
    if not endpoint:
        region = storage.region or _region_of(bucket)
        if not region or region.startswith(_OTHER_PARTITIONS):
            return None
    else:
        options["endpoint"] = endpoint.rstrip("/")
        # Else the payload is signed, as it must be where nothing else protects it.
    options["unsigned_payload"] = not endpoint.startswith("http://")
    if storage.anon:
        options["skip_signature"] = True
    if storage.requester_pays:
        options["request_payer"] = True
    return options | {"region": region or "us-east-1"}


def _has_profiles(own: dict[str, str]) -> bool:
    if own.get("AWS_PROFILE") or own.get("AWS_DEFAULT_PROFILE"):
        return True
    files = (own.get("AWS_CONFIG_FILE", "~/.aws/config"), own.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    return any(Path(name).expanduser().exists() for name in files)


def _session() -> Any:
    try:
        import botocore.session  # type: ignore[import-untyped]
    except ImportError:
        return None
    return botocore.session.Session()


def _provider(session: Any) -> Callable[[], dict[str, Any]] | None:
    """What gives the credentials that botocore finds: of profiles, files, roles of the machine."""
    try:
        credentials = session.get_credentials()
    except Exception:
        return None  # whatever it is, s3fs meets it too and says so
    if credentials is None:
        return None

    def provide() -> dict[str, Any]:
        now = credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }

    return provide


def _region_of(bucket: str) -> str:
    """The region of a bucket at Amazon, which tells it to everybody; empty if it cannot be asked."""
    import http.client
    import ssl

    if "." in bucket:
        return ""  # whose certificate is for names without dots
    with contextlib.suppress(OSError, http.client.HTTPException):
        context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
        connection = http.client.HTTPSConnection(f"{bucket}.s3.amazonaws.com", timeout=20, context=context)
        try:
            connection.request("HEAD", "/")
            return connection.getresponse().getheader("x-amz-bucket-region") or ""
        finally:
            connection.close()
    return ""
