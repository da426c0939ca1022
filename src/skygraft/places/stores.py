"""Access to stores by fsspec: listing, reading, writing, with retries and with errors that name URL and reason.

Credentials are those that the backend finds in the environment (variables, profiles, roles of the machine). They are
neither taken nor given by anything here.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import inspect
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skygraft.disk import FileIdentity
from skygraft.errors import ConfigError, PlaceError, PlaceNotFoundError, SkygraftError
from skygraft.place_names import redacted
from skygraft.places.objects import Objects, is_ordinary, open_bucket
from skygraft.places.store_errors import CutOffError, asked_to_wait, may_pass, named, reason_of
from skygraft.places.store_identity import fraction_of, identity_of, md5_file, md5_of, tag_of
from skygraft.places.urls import extra_of, scheme_of, split_url

__all__ = ["READ_ONLY", "Storage", "Store"]

READ_ONLY = ("http", "https")
"""Kinds of stores that are only read, and not listed."""
_TRIES, _FIRST_WAIT, _WAIT_GROWS = 5, 0.5, 3.0
_PIECE = 1 << 20
_TOGETHER = 128
_PATIENCE = 300.0
"""Seconds after which a request that is not answered is given up, and made again."""
_SLOWEST = 50_000.0
"""Bytes a second below which a transfer is given up."""
_LONG_LISTING = 100_000_000
"""Listings may take as long as a transfer of this many bytes."""


@dataclass(frozen=True)
class Storage:
    """Options of a store that are no secrets.

    Parameters
    ----------
    endpoint_url : str
        Address of a server that is not the usual one.
    region : str
        Region of the bucket.
    anon : bool
        Whether to read without credentials.
    requester_pays : bool
        Whether this account pays for what it reads.
    """

    endpoint_url: str = ""
    region: str = ""
    anon: bool = False
    requester_pays: bool = False

    def options(self, scheme: str) -> dict[str, Any]:
        """Return the options of the fsspec filesystem of a scheme."""
        options: dict[str, Any] = {}
        if scheme == "s3":
            options = {"use_listings_cache": False}
            if self.endpoint_url:
                options["endpoint_url"] = self.endpoint_url
            if self.region:
                options["client_kwargs"] = {"region_name": self.region}
            options |= {name: True for name in ("anon", "requester_pays") if getattr(self, name)}
        elif scheme == "gs":
            options = {"use_listings_cache": False}
            if self.endpoint_url:
                options["endpoint_url"] = self.endpoint_url
            if self.anon:
                options["token"] = "anon"
            if self.requester_pays:
                options["requester_pays"] = True
        return options


@dataclass(frozen=True)
class Store:
    """A store, opened with some options; nothing is connected before it is used.

    Parameters
    ----------
    storage : Storage
        The options.
    """

    storage: Storage = field(default_factory=Storage)

    def filesystem(self, url: str) -> Any:
        """Return what reads and writes a URL: a filesystem of fsspec, or the objects of a bucket.

        Raises
        ------
        ConfigError
            If its backend is not installed.
        """
        scheme = scheme_of(url)
        if scheme == "s3":
            _, bucket, key = split_url(url)
            if is_ordinary(key) and (objects := open_bucket(self.storage, bucket, self._by_fsspec_s3)) is not None:
                return objects
        return self._by_fsspec(scheme, url)

    def _by_fsspec_s3(self) -> Any:
        return self._by_fsspec("s3", "s3://")

    def _by_fsspec(self, scheme: str, url: str) -> Any:
        import fsspec

        _keep_connections_over_forks()
        try:
            # fsspec keeps filesystems by options, process and thread, and makes new ones after a fork.
            return fsspec.filesystem(scheme, **self.storage.options(scheme))
        except ImportError:
            extra = extra_of(scheme)
            how = f"pip install {extra!r}" if extra.startswith("skygraft") else f"Install {extra}"
            raise ConfigError(f"what reads {scheme}:// is not installed", path=redacted(url), fix=how) from None

    def _call(self, what: str, url: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of a filesystem, again after errors that may pass; errors name URL and reason."""
        wait, failure = _FIRST_WAIT, None
        for tries_left in reversed(range(_TRIES)):
            try:
                return function(*args, **options)
            except SkygraftError:
                raise
            except Exception as problem:
                error = reason_of(problem)
                if not tries_left or not may_pass(error):
                    failure = named(
                        error, what, url, endpoint_url=self.storage.endpoint_url, anon=self.storage.anon, tries=_TRIES
                    )
            if failure is not None:
                # Here, where it has no context: that of the backend may hold requests with their credentials.
                raise failure
            time.sleep(max(wait * random.uniform(0.7, 1.3), asked_to_wait(error)))
            wait *= _WAIT_GROWS
        raise AssertionError

    # -- reading

    def identity(self, url: str) -> FileIdentity:
        """Return size and time of last change of a file, as `identity_of` gives them.

        Raises
        ------
        PlaceNotFoundError
            If there is no such file.
        PlaceError
            If the store cannot be asked.
        """
        fs = self.filesystem(url)

        def ask() -> Any:
            with contextlib.suppress(AttributeError):
                fs.invalidate_cache(fs._parent(url))
            return _limited(fs.info)(url)

        info = self._call("looked at", url, ask)
        if info.get("type") == "directory":
            raise PlaceNotFoundError("this is a folder, and a file is needed", path=url, fix="Name a file in it")
        return identity_of(info)

    def find(self, url: str) -> FileIdentity | None:
        """Return the identity of a file; None if there is none."""
        try:
            return self.identity(url)
        except PlaceNotFoundError:
            return None

    def listing(self, folder: str, *, deep: bool = False) -> dict[str, FileIdentity]:
        """Return the files of a folder by URL.

        Parameters
        ----------
        folder : str
            URL of the folder.
        deep : bool
            Whether to list the folders in it too.

        Raises
        ------
        PlaceNotFoundError
            If there is no such bucket. (A folder without files does not exist in a store: it gives nothing.)
        PlaceError
            If it cannot be listed, as with HTTP.
        """
        scheme = scheme_of(folder)
        if scheme in READ_ONLY:
            raise PlaceError(
                f"{scheme}:// cannot be listed", path=folder, fix="List the URLs of the files, or an index of them"
            )
        fs = self.filesystem(folder)

        def ask() -> dict[str, Any]:
            fs.invalidate_cache()
            try:
                if deep:
                    found: dict[str, Any] = _limited(fs.find, _LONG_LISTING)(folder, detail=True)
                    return found
                return {entry["name"]: entry for entry in _limited(fs.ls, _LONG_LISTING)(folder, detail=True)}
            except FileNotFoundError as error:
                if "bucket" in str(error).lower():
                    raise
                return {}

        found = self._call("listed", folder, ask)
        if not found and isinstance(fs, Objects):
            self._call("listed", folder, _limited(fs.check), folder)
        elif not found and scheme in ("s3", "gs"):
            # An empty answer may be that of a bucket that is not there.
            self._call(
                "listed", folder, _limited(fs.ls, _LONG_LISTING), f"{scheme}://{split_url(folder)[1]}", detail=True
            )
        files = {}
        for name, info in found.items():
            if info.get("type") == "file" and not name.endswith("/"):
                url = _full(scheme, name)
                files[url] = identity_of(info)
        return files

    def read(self, url: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file, or some of them. A server without ranges gives all of it, from byte 0."""
        fs = self.filesystem(url)

        def get() -> bytes:
            content: bytes = _limited(fs.cat_file)(url, start=start, end=end)
            return content

        return bytes(self._call("read", url, get))

    def read_all(self, urls: Sequence[str]) -> list[bytes]:
        """Return the bytes of small files, many of which are asked for at a time: half as costly as one by one.

        Raises
        ------
        PlaceNotFoundError, PlaceError
            If one cannot be read.
        """
        found: list[bytes] = []
        for some in itertools.batched(urls, _TOGETHER):
            try:
                ask = _limited(self.filesystem(some[0]).cat_ranges)
                found += self._call("read", some[0], ask, [*some], None, None, on_error="raise")
            except PlaceError:
                found += [self.read(url) for url in some]  # the error names the right one
        return found

    def read_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges of bytes (first, and one past the last) of a file, read at the same time.

        Raises
        ------
        PlaceNotFoundError, PlaceError
            If they cannot be read, or the server gives more or fewer bytes.
        """
        fs = self.filesystem(url)

        def get() -> list[bytes]:
            starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
            ask = _limited(fs.cat_ranges, sum(ends) - sum(starts))
            parts: list[bytes] = [bytes(part) for part in ask([url] * len(ranges), starts, ends, on_error="raise")]
            for (start, end), part in zip(ranges, parts, strict=True):
                if len(part) != end - start:
                    what = "whole files" if len(part) > end - start else "less"
                    raise CutOffError(
                        f"{len(part):,} bytes arrived where {end - start:,} from byte {start:,} were asked for: the "
                        f"server gives {what}"
                    )
            return parts

        found: list[bytes] = self._call("read by ranges", url, get)
        return found

    def download(self, url: str, target: Path, identity: FileIdentity) -> None:
        """Copy a whole file to this machine and compare the copy with what the store says of it.

        Parameters
        ----------
        url : str
            The file.
        target : Path
            Where to; on errors it may be there in part.
        identity : FileIdentity
            Size and time that it should have.

        Raises
        ------
        PlaceNotFoundError, PlaceError
            If it cannot be read, was cut off, or has changed meanwhile.
        OSError
            If the copy cannot be written.
        """
        fs = self.filesystem(url)
        before: list[str] = []

        def get() -> None:
            got = _limited(fs.get_file, identity.n_bytes)(url, str(target))
            n_bytes = target.stat().st_size
            if identity.n_bytes not in (n_bytes, -1):
                raise CutOffError(f"{n_bytes:,} of {identity.n_bytes:,} bytes arrived")
            info, md5 = got if isinstance(fs, Objects) else (None, md5_file(target))
            if md5 and fraction_of(md5) == identity.mtime_ns % 10**9:
                return  # What the store said of it before: its tag is the MD5.
            info = info or _limited(fs.info)(url)
            now = identity_of(info)
            if now.size_and_time != identity.size_and_time:
                raise PlaceError("it was changed while it was read", path=url, fix="Plan again, and run again")
            if md5 and (wanted := md5_of(info)) and md5 != wanted:
                if before == [md5]:
                    return  # The same twice: the store's tag is no MD5, as where it encrypts with keys of its own.
                before[:] = [md5]
                raise CutOffError("its MD5 is not the one that the store gives")

        self._call("read", url, get)

    # -- writing

    def upload(self, source: Path, url: str) -> FileIdentity:
        """Write a file to a store, under its name only when all of it is there; returns its identity.

        Raises
        ------
        PlaceError
            If it cannot be written, or the store does not show it as it is.
        """
        n_bytes = source.stat().st_size
        return self._put(
            url, lambda fs: _limited(fs.put_file, n_bytes)(str(source), url), n_bytes, lambda: md5_file(source)
        )

    def write(self, url: str, content: bytes, *, create: bool = False) -> FileIdentity:
        """Write a small file; with `create`, only if there is none.

        Raises
        ------
        FileExistsError
            With `create`, if there is one.
        PlaceError
            If it cannot be written.
        """
        return self._put(
            url,
            lambda fs: self._pipe(fs, url, content, create),
            len(content),
            lambda: hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )

    def _pipe(self, fs: Any, url: str, content: bytes, create: bool) -> Any:
        pipe = _limited(fs.pipe_file, len(content))
        if not create:
            return pipe(url, content)
        try:
            return pipe(url, content, mode="create")
        except (TypeError, NotImplementedError):  # a backend that cannot
            if _limited(fs.exists)(url):
                raise FileExistsError(url) from None
            return pipe(url, content)

    def _put(self, url: str, put: Callable[[Any], Any], n_bytes: int, md5: Callable[[], str]) -> FileIdentity:
        if scheme_of(url) in READ_ONLY:
            raise PlaceError(f"{scheme_of(url)}:// is only read", path=url, fix="Name a bucket or a folder")
        fs = self.filesystem(url)
        shown: list[str] = []
        written: list[Any] = []
        exists: list[FileExistsError] = []

        def write() -> FileIdentity | None:
            try:
                if not written:
                    written.append(put(fs))
            except FileExistsError as error:
                exists.append(error)
                return None
            with contextlib.suppress(AttributeError):
                fs.invalidate_cache(fs._parent(url))
            try:
                info = _limited(fs.info)(url)
            except FileNotFoundError:
                raise CutOffError("the store does not show what was written") from None
            identity, given = identity_of(info), written[0] if isinstance(fs, Objects) else ""
            if identity.n_bytes != n_bytes:
                written.clear()
                raise CutOffError(f"the store shows {identity.n_bytes:,} bytes, {n_bytes:,} were written")
            tag = tag_of(info) if given else md5_of(info)
            if tag and tag != (given.strip('"') or md5()) and shown != [tag]:
                shown[:] = [tag]
                written.clear()
                raise CutOffError("the store shows another content than was written")
            return identity

        if scheme_of(url) == "file":
            Path(fs._strip_protocol(url)).parent.mkdir(parents=True, exist_ok=True)
        found = self._call("written", url, write)
        if exists or found is None:
            raise FileExistsError(url)
        identity: FileIdentity = found
        return identity

    def remove(self, url: str) -> None:
        """Remove a file, if there is one."""
        fs = self.filesystem(url)
        try:
            self._call("removed", url, _limited(fs.rm_file), url)
        except PlaceNotFoundError:
            return


@functools.cache
def _keep_connections_over_forks() -> None:
    """Have children that are forked leave the connections of their parent alone.

    A child that closes what it has of them also removes them from what wakes the parent (``epoll``), which both share:
    the parent's next request would wait for ever. fsspec forgets, and so closes, the filesystems of the parent when
    the child opens its first.
    """
    from fsspec import AbstractFileSystem

    def keep() -> None:
        left: list[Any] = [AbstractFileSystem]
        while left:
            kind = left.pop()
            left += kind.__subclasses__()
            _of_parents.append({**getattr(kind, "_cache", {})})
        gc.freeze()  # those that were forgotten and not closed yet

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=keep)


_of_parents: list[dict[Any, Any]] = []


def _limited(method: Callable[..., Any], n_bytes: int = 0) -> Callable[..., Any]:
    """Return a method of a filesystem that ends with an error if a connection stalls; n_bytes: how much it transfers.

    Backends wait for some answers without any limit, such as for leave to send the content of a file.
    """
    if isinstance(getattr(method, "__self__", None), Objects):
        # Few limits, because each has connections of its own: five minutes, ten, twenty.
        doublings = math.ceil(math.log2(1 + max(n_bytes, 0) / _SLOWEST / _PATIENCE) - 0.1)
        return functools.partial(method, timeout=_PATIENCE * 2 ** max(doublings, 0))
    if not inspect.iscoroutinefunction(getattr(method, "__wrapped__", None)):
        return method  # not of network: fsspec gives those that are a `timeout`

    def call(*args: Any, **options: Any) -> Any:
        from fsspec.exceptions import FSTimeoutError

        try:
            return method(*args, timeout=_PATIENCE + max(n_bytes, 0) / _SLOWEST, **options)
        except FSTimeoutError:
            raise CutOffError("it was not answered in time") from None

    return call


def _full(scheme: str, name: str) -> str:
    if "://" in name:
        return name
    return f"file:///{name.lstrip('/')}" if scheme == "file" else f"{scheme}://{name.lstrip('/')}"


def environment_storage() -> Storage:
    """Return the options that commands without a configuration use: SKYGRAFT_ANON, and those of the backends."""
    return Storage(anon=os.environ.get("SKYGRAFT_ANON", "").lower() in ("1", "true", "yes"))
