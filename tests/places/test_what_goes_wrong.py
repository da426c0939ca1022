"""What is said when a store or a server does not give what it is asked for: the reason, and what to do."""

from __future__ import annotations

import hashlib
import re
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest

from kits.plain_images import write_plain_image
from kits.s3_kit import SECRET, Bucket
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError, ConfigError, PlaceError
from skygraft.formats import read_exposure
from skygraft.places import (
    Scratch,
    Storage,
    Store,
    bring,
    find_copies,
    for_headers,
    local_path,
    scratch,
    see,
    store_identity,
    stores,
    stubs,
)
from skygraft.records.store_lock import store_is_locked, store_locked

DATE = "Tue, 01 Dec 2026 10:00:00 GMT"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Web:
    """A server that answers as a test says, to any method."""

    url: str = ""
    answer: Callable[[str, str], Answer] = lambda method, path: (404, {}, b"")
    seen: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def any_server() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _go(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            web.seen.append((self.command, self.path))
            status, headers, content = web.answer(self.command, self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = _go

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield web
    server.shutdown()
    server.server_close()


def refusal(code: str, message: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


REFUSALS = [
    (400, "ExpiredToken", "The provided token has expired.", r"credentials have expired \(.*Renew them and run"),
    (403, "ExpiredToken", "The provided token has expired.", r"credentials have expired \(.*Renew them and run"),
    (400, "AuthorizationHeaderMalformed", "the region 'a' is wrong; expecting 'eu-west-1'",
     r"another region \(.*'eu-west-1'.*Set storage\.region"),
    (301, "PermanentRedirect", "must be addressed using the specified endpoint", r"another region .*storage\.region"),
    (403, "RequestTimeTooSkewed", "The difference is too large", r"clock is wrong"),
    (403, "AccessDenied", "Access Denied", r"permission denied \(Access Denied \(AccessDenied\)\)\. Check the name"),
    (403, "QuotaExceeded", "Your quota is exceeded", r"permission denied \(Your quota is exceeded"),
    (400, "KMS.DisabledException", "the key is disabled", r"\(the key is disabled \(KMS\.DisabledException\)\)"),
    (200, "Login", "please", r"is not that of an S3 server: check storage\.endpoint_url and its port"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message", "words"), REFUSALS)
def test_what_a_store_refuses_is_named_once_and_with_its_reason(
    any_server: Web, tmp_path: Path, status: int, code: str, message: str, words: str
) -> None:
    any_server.answer = lambda method, path: (status, {"Content-Type": "application/xml"}, refusal(code, message))
    store, here = Store(Storage(endpoint_url=any_server.url)), tmp_path / "a"
    here.write_bytes(b"content")
    asks: list[Callable[[], object]] = [
        lambda: store.identity("s3://bucket/x/a.fits"),  # by HEAD, whose answer has no body
        lambda: store.listing("s3://bucket/x"),
        lambda: store.upload(here, "s3://bucket/x/a.fits"),
    ]
    for ask in asks:
        any_server.seen.clear()
        with pytest.raises(PlaceError, match=words) as caught:
            ask()
        # None of these passes by itself.
        assert len(any_server.seen) <= 2 and "Error:" not in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://127.0.0.1:9", r"no connection to http://127\.0\.0\.1:9: Connection refused"),
        ("http://no-such-host.invalid", r"no connection to http://no-such-host\.invalid: .*Name or service|lookup"),
    ],
)
def test_a_store_that_is_not_there_is_named_with_its_address(endpoint: str, words: str) -> None:
    with pytest.raises(PlaceError, match=f"5 attempts.*{words}"):
        Store(Storage(endpoint_url=endpoint)).read("s3://bucket/a.fits")


def test_addresses_that_are_none(any_server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlaceError, match="it does not speak TLS"):
        Store(Storage(endpoint_url=any_server.url.replace("http:", "https:"))).read("s3://bucket/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio.example.org:9000")
    with pytest.raises(
        ConfigError, match=r"'minio\.example\.org:9000' is not the address of a server.*AWS_ENDPOINT_URL"
    ):
        Store().read("s3://bucket/a")
    with pytest.raises(ConfigError, match=r"'My bucket!' cannot be the name of a bucket"):
        bring("s3://My bucket!/a.fits")


def test_a_busy_server_is_asked_again_when_it_says(any_server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", waits.append)
    asked = ["7", formatdate(time.time() + 30, usegmt=True), "3600", "soon"]

    def answer(method: str, path: str) -> Answer:
        if asked:
            return 503, {"Retry-After": asked[0] if method == "HEAD" else asked.pop(0)}, b""
        return 200, {"Last-Modified": DATE}, b"content"

    any_server.answer = answer
    assert bring(f"{any_server.url}/a.fits").read_bytes() == b"content"
    assert waits[0] == 7 and 20 < waits[1] <= 30 and waits[2] == 60 and waits[3] < 1
    asked[:] = ["0"] * 99
    stubs._seen.clear()
    with pytest.raises(PlaceError, match=r"after 5 attempts \(the server answered 503 Service Unavailable\)"):
        bring(f"{any_server.url}/b.fits")


def test_the_signature_of_a_redirection_is_nowhere(any_server: Web, tmp_path: Path) -> None:
    signed = f"/signed?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}"
    state = {"status": 200}

    def answer(method: str, path: str) -> Answer:
        if path == "/a.fits":
            return 302, {"Location": f"{any_server.url}{signed}"}, b""
        # It is signed for GET only.
        return (403, {}, b"") if method == "HEAD" else (state["status"], {"Last-Modified": DATE}, b"content")

    any_server.answer = answer
    assert bring(f"{any_server.url}/a.fits").read_bytes() == b"content"
    for state["status"], words in ((403, r"denied \(the server answered 403"), (404, "no such file"), (500, "500")):
        stubs._seen.clear()
        with pytest.raises(PlaceError, match=words) as caught:
            bring(f"{any_server.url}/a.fits")
        assert SECRET not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path) and not (path.is_file() and SECRET.encode() in path.read_bytes())
    any_server.answer = lambda method, path: (302, {"Location": f"{any_server.url}{path}"}, b"")
    with pytest.raises(PlaceError, match="from one address to the next without end"):
        bring(f"{any_server.url}/b.fits")


@pytest.mark.parametrize(
    "name", ["a b.fits", "a%20b.fits", "a+b.fits", "a%23b.fits", "é.fits", "100%.fits", "[1].fits", "q?v=1"]
)
def test_names_in_urls_of_web_servers(any_server: Web, name: str) -> None:
    def answer(method: str, path: str) -> Answer:
        there = unquote(path) == f"/x/{unquote(name)}"
        return (200, {"Last-Modified": DATE}, b"content") if there else (404, {}, b"")

    any_server.answer = answer
    assert bring(f"{any_server.url}/x/{name}").read_bytes() == b"content"


def test_a_number_sign_ends_the_name_in_a_url() -> None:
    with pytest.raises(ConfigError, match="Write %23 for it"):
        bring("https://host/a#b.fits")


def test_a_copy_that_cannot_be_written_is_named_with_its_folder(any_server: Web, tmp_path: Path) -> None:
    any_server.answer = lambda method, path: (200, {"Last-Modified": DATE, "ETag": '"1"'}, b"content" * 1000)
    url, s3 = f"{any_server.url}/a.fits", Scratch(tmp_path / "scratch", Storage(endpoint_url=any_server.url))
    s3.make()
    text = local_path(f"{any_server.url}/a.txt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for look in (False, True):
        if look:
            for path in (text, local_path(url), s3.path("s3://bucket/a.fits")):
                see(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # as where there is no room
        try:
            for read, path in ((for_headers, text), (bring, local_path(url)), (bring, s3.path("s3://bucket/a.fits"))):
                with pytest.raises(
                    PlaceError, match=r"/scratch: the scratch folder cannot be written \(File too large"
                ):
                    read(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.rglob("files/**/*") if path.is_file()]
    assert bring(url).stat().st_size == 7000


def test_what_was_changed_on_its_way_is_asked_for_again(
    any_server: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, here, there = Store(Storage(endpoint_url=any_server.url)), tmp_path / "here", tmp_path / "there"
    here.write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    damaged, tags = [b"c0ntent"], ["of another", "mine"]

    def answer(method: str, path: str) -> Answer:
        content = damaged.pop() if damaged and method == "GET" else b"content"
        tag = md5 if path.endswith("/read") else "mine" if method == "PUT" else tags.pop(0)
        return 200, {"Last-Modified": DATE, "ETag": f'"{tag}"'}, content

    any_server.answer = answer
    store.download("s3://bucket/read", there, store.identity("s3://bucket/read"))
    assert there.read_bytes() == b"content" and not damaged
    # What the store shows is what it said that it wrote, which no MD5 is needed for; nor with TLS to read.
    any_server.seen.clear()
    monkeypatch.delattr(hashlib, "md5")
    assert store.upload(here, "s3://bucket/written") == store_identity.identity_of(
        {"ETag": "mine", "LastModified": DATE, "size": 7}
    )
    assert [method for method, _ in any_server.seen] == ["PUT", "HEAD", "PUT", "HEAD"]
    monkeypatch.setattr(store.filesystem("s3://bucket/read"), "_with_tls", True)
    store.download("s3://bucket/read", there, store.identity("s3://bucket/read"))
    with pytest.raises(PlaceError, match="it was changed while it was read"):
        store.download("s3://bucket/read", there, FileIdentity(7, 1))


def test_a_lock_that_could_not_be_removed_is_nobodys(bucket: Bucket) -> None:
    """As when credentials end in a session, whose process lives on."""
    from kits.proxy_kit import proxy_of

    with proxy_of(bucket.endpoint) as proxy:
        store, url = Store(Storage(endpoint_url=proxy.url)), f"{bucket.url}/out"
        with store_locked(store, url):
            with pytest.raises(CampaignError, match="another process runs this campaign"), store_locked(store, url):
                pass
            proxy.judge = lambda method, path: "403"
        proxy.judge = lambda method, path: ""
        assert ".lock" in bucket.keys("out")[0] and not store_is_locked(store, url)
        # An answer that is lost after the lock was written: it is asked for again, and found to be there.
        losses = ["cut"]
        proxy.judge = lambda method, path: losses.pop() if method == "PUT" and losses else ""
        with store_locked(store, url):
            assert store_is_locked(store, url) and not losses
        assert not bucket.keys("out")


def test_images_that_may_be_read_and_not_listed(bucket: Bucket, tmp_path: Path) -> None:
    """They are named one by one, and what lies beside them is asked for."""
    from kits.proxy_kit import proxy_of

    write_plain_image(tmp_path / "raw/a.fits", 150.0, 2.0, 32)
    bucket.put(tmp_path / "raw", "raw/")
    with proxy_of(bucket.endpoint) as proxy:
        proxy.judge = lambda method, path: "403" if re.search(r"[?&](prefix|list-type)=", path) else ""
        scratch.use_scratch(Scratch(scratch.default_folder(), Storage(endpoint_url=proxy.url)))
        assert read_exposure(f"{bucket.url}/raw/a.fits").shape == (32, 32)
        with pytest.raises(PlaceError, match=r"must not be listed .*named one by one, or by an index"):
            find_copies(f"{bucket.url}/raw/*.fits")
        # As Amazon answers for a file that is not there to those who may not list.
        proxy.judge = lambda method, path: "403" if "a.fits" not in path else ""
        stubs._seen.clear()
        with pytest.raises(PlaceError, match=r"permission denied .*of files that are not there, too.*s3:ListBucket"):
            bring(f"{bucket.url}/raw/none.fits")
