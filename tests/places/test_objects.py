"""S3 by obstore: that it does what s3fs does, and leaves to s3fs what it does not do as s3fs does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kits.proxy_kit import Proxy, proxy_of
from kits.s3_kit import KEY, SECRET, Bucket
from skygraft.errors import PlaceError, PlaceNotFoundError
from skygraft.places import Storage, Store, objects
from skygraft.places.objects import Objects

ORDINARY = [
    "a b#c.fits",
    "t%20x.fits",
    "f[1]*.fits",
    "tract=1/patch=2/é.fits",
    "q?v=1",
    "plus+and&'()!$,;:@",
    "~t/{x}|`^\\",
]
ODD = ["a//b.fits", "x/./y", "x/../z"]


@pytest.fixture
def proxy(endpoint: str) -> Iterator[Proxy]:
    with proxy_of(endpoint) as proxy:
        yield proxy


def by_obstore(store: Store, url: str) -> bool:
    return isinstance(store.filesystem(url), Objects)


def test_keys_are_read_and_written_as_by_s3fs(bucket: Bucket, tmp_path: Path) -> None:
    store, source = Store(Storage(endpoint_url=bucket.endpoint)), tmp_path / "source.fits"
    source.write_bytes(b"content")
    for key in [*ORDINARY, *ODD]:
        url = f"{bucket.url}/in/{key}"
        assert by_obstore(store, url) == (key in ORDINARY)
        bucket.fs.call_s3("put_object", Bucket=bucket.name, Key=f"in/{key}", Body=key.encode())
        assert store.read(url) == key.encode() and store.read(url, 1, 3) == key.encode()[1:3]
        identity = store.identity(url)
        assert identity == store.listing(f"{bucket.url}/in", deep=True)[url] and identity.n_bytes == len(key.encode())
        store.download(url, tmp_path / "copy", identity)
        assert (tmp_path / "copy").read_bytes() == key.encode()
        written = store.upload(source, f"{bucket.url}/out/{key}")
        assert bucket.get(f"out/{key}") == b"content" and written.n_bytes == 7
        assert store.write(f"{bucket.url}/out/{key}", b"other") == store.identity(f"{bucket.url}/out/{key}")
        with pytest.raises(FileExistsError):
            store.write(f"{bucket.url}/out/{key}", b"other", create=True)
    assert store.read_ranges(f"{bucket.url}/in/{ORDINARY[0]}", [(0, 1), (2, 4)]) == [b"a", b"b#"]
    # What listings give, with odd keys among the others and without.
    by_s3fs = {f"s3://{name}" for name in bucket.fs.find(f"{bucket.name}/in")}
    assert store.listing(f"{bucket.url}/in", deep=True).keys() == by_s3fs
    for key in ODD:
        bucket.fs.call_s3("delete_object", Bucket=bucket.name, Key=f"in/{key}")
    assert len(store.listing(f"{bucket.url}/in", deep=True)) == len(ORDINARY)
    flat = store.listing(f"{bucket.url}/in")
    assert {*flat} == {f"{bucket.url}/in/{key}" for key in ORDINARY if "/" not in key}
    store.remove(f"{bucket.url}/in/{ORDINARY[0]}")
    assert store.find(f"{bucket.url}/in/{ORDINARY[0]}") is None


def test_objects_that_stand_for_folders_are_no_files(bucket: Bucket) -> None:
    store = Store(Storage(endpoint_url=bucket.endpoint))
    for key, content in (("x/", b""), ("x/y/", b""), ("x/y/a.fits", b"1"), ("x/empty", b"")):
        bucket.fs.call_s3("put_object", Bucket=bucket.name, Key=key, Body=content)
    assert {*store.listing(f"{bucket.url}/x", deep=True)} == {f"{bucket.url}/x/y/a.fits", f"{bucket.url}/x/empty"}
    assert {*store.listing(f"{bucket.url}/x")} == {f"{bucket.url}/x/empty"}
    with pytest.raises(PlaceNotFoundError, match="this is a folder"):
        store.identity(f"{bucket.url}/x/y")
    with pytest.raises(PlaceNotFoundError, match="no such file"):
        store.identity(f"{bucket.url}/x/z")


def test_a_large_file_is_written_in_the_same_parts(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 6 << 20
    monkeypatch.setattr(objects, "_PARTS_FROM", size)
    monkeypatch.setattr(objects, "_PART", 5 << 20)
    (tmp_path / "large").write_bytes(content := os.urandom(size))
    Store(Storage(endpoint_url=bucket.endpoint)).upload(tmp_path / "large", f"{bucket.url}/large")
    assert bucket.get("large") == content and bucket.fs.info(f"{bucket.name}/large")["ETag"].endswith('-2"')


def test_credentials_of_a_profile_are_those_that_botocore_finds(
    bucket: Bucket, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = PROFILEKEY\naws_secret_access_key = {SECRET}\n"
        f"[other]\naws_access_key_id = OTHERKEY\naws_secret_access_key = {SECRET}\n"
    )
    (tmp_path / "config").write_text(
        f"[profile mine]\nendpoint_url = {proxy.url}\nregion = eu-south-1\n"
        "[profile other]\ns3 =\n  use_accelerate_endpoint = true\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    bucket.fs.call_s3("put_object", Bucket=bucket.name, Key="a", Body=b"x", ACL="public-read")
    # Keys in the environment count more than the profile's, whose endpoint and region hold.
    for keys in (KEY, "PROFILEKEY"):
        store = Store()
        assert by_obstore(store, f"{bucket.url}/a") and store.read(f"{bucket.url}/a") == b"x"
        assert f"Credential={keys}/" in proxy.headers[-1]["Authorization"]
        assert "/eu-south-1/s3/" in proxy.headers[-1]["Authorization"]
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    anonymous = Store(Storage(endpoint_url=proxy.url, anon=True))
    assert by_obstore(anonymous, f"{bucket.url}/a") and anonymous.read(f"{bucket.url}/a") == b"x"
    assert "Authorization" not in proxy.headers[-1]
    # What it has no settings for.
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert not by_obstore(Store(Storage(endpoint_url=proxy.url)), f"{bucket.url}/a")


@pytest.mark.parametrize(
    ("storage", "setting", "found"),
    [
        (Storage(), {}, {"region": "eu-west-1", "unsigned_payload": True}),
        (Storage(region="ap-east-1"), {}, {"region": "ap-east-1"}),
        (Storage(region="cn-north-1"), {}, None),
        (Storage(), {"AWS_ENDPOINT_URL": "http://h/"}, {"endpoint": "http://h", "unsigned_payload": False}),
        (Storage(endpoint_url="http://g", requester_pays=True), {"AWS_ENDPOINT_URL": "http://h"},
         {"endpoint": "http://g", "request_payer": True, "region": "us-east-1"}),
        (Storage(endpoint_url="http://g"), {"AWS_USE_FIPS_ENDPOINT": "true"}, None),
        (Storage(endpoint_url="http://g"), {"FSSPEC_S3_KEY": "x"}, None),
    ],
)  # fmt: skip
def test_what_is_left_to_s3fs(
    monkeypatch: pytest.MonkeyPatch, storage: Storage, setting: dict[str, str], found: dict[str, object] | None
) -> None:
    monkeypatch.setattr(objects, "_region_of", lambda bucket: "eu-west-1")
    own = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": "/none",
           "AWS_SHARED_CREDENTIALS_FILE": "/none", **setting}  # fmt: skip
    options = objects._options(storage, "bucket", own)
    assert options is None if found is None else options is not None and found.items() <= options.items()


def test_a_child_that_was_forked_reads_too(bucket: Bucket) -> None:
    """It has none of the threads that requests are made by, and would wait for ever."""
    store = Store(Storage(endpoint_url=bucket.endpoint))
    store.write(f"{bucket.url}/a", b"content")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writing, store.read(f"{bucket.url}/a"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"content"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("verdict", "words"), [("403", "permission denied"), ("503", r"5 attempts.*SlowDown"),
                                                ("lose", "5 attempts"), ("cut", "5 attempts")])  # fmt: skip
def test_what_goes_wrong_is_named_without_secrets(bucket: Bucket, proxy: Proxy, verdict: str, words: str) -> None:
    bucket.fs.pipe_file(f"{bucket.name}/a", b"content" * 1000)
    store = Store(Storage(endpoint_url=proxy.url))
    proxy.judge = lambda method, path: verdict
    with pytest.raises(PlaceError, match=words) as caught:
        store.read(f"{bucket.url}/a")
    text = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert SECRET not in text and KEY not in text and "Debug" not in text and "Signature" not in text
    assert len(proxy.seen) == (1 if verdict == "403" else 5)
