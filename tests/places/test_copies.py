"""Files in stores: what they are called here, what is fetched of them, and what goes wrong."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.http_kit import FileServer
from kits.plain_images import write_plain_image
from kits.s3_kit import SECRET, Bucket
from skygraft import place_names
from skygraft.errors import ConfigError, PlaceError, PlaceNotFoundError
from skygraft.formats import read_exposure, read_footprint
from skygraft.places import (
    Scratch,
    bring,
    checked_url,
    find_copies,
    for_headers,
    holding,
    is_place,
    local_path,
    refresh,
    see,
    stores,
)
from skygraft.places.urls import pattern_expression


@pytest.mark.parametrize(
    "url", ["s3://b/a/b.fits", "gs://b/x y.fits", "https://h/a?plot=1", "memory://a/b", "file:///tmp/x", "s3://b/a//.."]
)
def test_the_path_of_a_url_gives_the_url(url: str) -> None:
    path = Scratch(Path("/scratch")).path(url)
    assert place_names.url_of(path) == url
    assert place_names.with_urls(f"cannot read {path}: gone") == f"cannot read {url}: gone"
    whole = place_names.as_kind(path, "files")
    assert place_names.url_of(whole) == url and place_names.as_kind(whole, "stubs") == path


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "%~", "%~2e", "ü", "b.fits"]), min_size=1, max_size=5))
def test_odd_keys_have_names_of_their_own(parts: list[str]) -> None:
    url = "s3://bucket/x/" + "/".join(parts) + "/y"
    path = Scratch(Path("/scratch")).path(url)
    assert place_names.url_of(path) == url
    assert os.path.normpath(path) == str(path)  # nothing climbs out


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://user:SECRET@bucket/a", "password"),
        ("https://host/a?X-Amz-Signature=SECRET&X-Amz-Date=1", "signed"),
        ("https://host/a?AWSAccessKeyId=SECRET", "signed"),
        ("https://host/a?sig=SECRET", "signed"),
        ("simplecache::s3://bucket/a", "chain"),
        ("s4://bucket/a", "'s4' is not a kind of store"),
        ("s3:///a", "names no bucket"),
        ("https://a b?v=2", "names no bucket"),
        ("s3://me@home.org:SECRET@bucket/a", "password"),
        ("s3:///me:SECRET@bucket/a", "password"),
        ("https://host/a?x=1/?sig=SECRET", "signed"),
        ("s3://bucket/\0", "NUL"),
        ("s3://bucket/\udc80", "no text"),
    ],
)
def test_urls_that_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        checked_url(url)
    assert "SECRET" not in str(caught.value) and "SECRET" not in repr(caught.value)


def test_unknown_kinds_of_stores_are_named_where_paths_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `Path`, as commands give it, has one slash."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'foo' is not a kind of store that fsspec knows\. Use s3://"):
        read_exposure(Path("foo://x"))
    (tmp_path / "foo:").mkdir()  # a folder that is called so
    assert not is_place(Path("foo:/x"))


def test_secrets_in_text_are_left_out() -> None:
    text = "GET https://u:SECRET@h/a?x=1&X-Amz-Signature=SECRET failed"
    assert place_names.redacted(text) == "GET https://...@h/a?x=1&X-Amz-Signature=... failed"
    for url in ("s3://me@home.org:SECRET@b/a", "s3:/me:SECRET@b/a", "s3:///me:SECRET@b/a"):
        assert "SECRET" not in place_names.redacted(f"{url!r} cannot be read")
    assert place_names.redacted("file:///a:b@c memory://x/y:z@") == "file:///a:b@c memory://x/y:z@"
    error = PlaceError(text, path="s3://u:SECRET@b/x")
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.fits", ["a.fits", "b1.fits"]),
        ("**/*.fits", ["a.fits", "b1.fits", "x/c.fits", "x/y/d.fits"]),
        ("x/**/*.fits", ["x/c.fits", "x/y/d.fits"]),
        ("?[0-9].fits", ["b1.fits"]),
        ("[!b]*.fits", ["a.fits"]),
        (".h*", [".h.fits"]),
        ("**", ["a.fits", "b1.fits", "x/c.fits", "x/y/d.fits"]),
    ],
)
def test_patterns_match_as_glob_does(tmp_path: Path, pattern: str, found: list[str]) -> None:
    import glob
    import re

    names = ["a.fits", "b1.fits", "x/c.fits", "x/y/d.fits", ".h.fits", "x/.g/e.fits"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found_by_glob = glob.glob(pattern, root_dir=tmp_path, recursive=True)  # noqa: PTH207
    by_glob = sorted(name for name in found_by_glob if (tmp_path / name).is_file())
    assert sorted(name for name in names if re.fullmatch(pattern_expression(pattern), name)) == by_glob == found


def large_image(path: Path, n: int = 800, hdus: int = 3) -> Path:
    """An image of 2.5 MB in each HDU, which differ, with a table between."""
    rng = np.random.default_rng(1)
    write_plain_image(path, 150.0, 2.0, n)
    with fits.open(path, mode="append") as file:
        table = np.zeros(10, dtype=[("a", "f8")])
        file.append(fits.BinTableHDU(table, name="TABLE"))
        for i in range(hdus):
            file.append(fits.ImageHDU(rng.normal(size=(n, n)).astype("f4"), name=f"MORE{i}"))
    return path


def test_a_footprint_reads_headers_only(web: FileServer) -> None:
    image = large_image(web.folder / "image.fits")
    local = read_footprint(image)
    found = read_footprint(f"{web.url}/image.fits")
    assert np.array_equal(found.corners, local.corners) and found.shape == local.shape
    assert found.n_bytes == image.stat().st_size
    assert sum(n for _, n in web.sent) < 600_000 < image.stat().st_size / 10


def test_a_server_without_ranges_gives_whole_files(web: FileServer) -> None:
    web.ranges = False
    image = large_image(web.folder / "image.fits")
    assert read_footprint(f"{web.url}/image.fits").n_bytes == image.stat().st_size


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_headers_of_a_file_compressed_as_a_whole(web: FileServer, suffix: str) -> None:
    import bz2
    import gzip

    image = large_image(web.folder / "image.fits", n=300)
    packed = web.folder / f"image.fits{suffix}"
    packed.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}[suffix](image.read_bytes(), 1))
    assert read_footprint(f"{web.url}/{packed.name}").shape == read_footprint(image).shape


def test_an_image_by_http_is_the_same_as_of_this_machine(web: FileServer) -> None:
    image = write_plain_image(web.folder / "image.fits", 150.0, 2.0, 64)
    here, there = read_exposure(image), read_exposure(f"{web.url}/image.fits")
    assert np.array_equal(here.image, there.image) and np.array_equal(here.variance, there.variance)


def test_a_download_that_is_cut_off_is_read_again(web: FileServer) -> None:
    image = write_plain_image(web.folder / "image.fits", 150.0, 2.0, 64)
    web.cut["/image.fits"], web.failures["/image.fits"] = 2, 1
    assert bring(f"{web.url}/image.fits").read_bytes() == image.read_bytes()


def test_a_download_that_is_always_cut_off_leaves_nothing(web: FileServer, tmp_path: Path) -> None:
    write_plain_image(web.folder / "image.fits", 150.0, 2.0, 64)
    web.cut["/image.fits"] = 100
    with pytest.raises(PlaceError, match=r"image\.fits: it cannot be read after 5 attempts"):
        bring(f"{web.url}/image.fits")
    assert not [p for p in tmp_path.rglob("scratch/**/files/**/*") if p.is_file()]


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, PlaceNotFoundError, "no such file"),
        (403, PlaceError, "permission denied"),
        (500, PlaceError, "5 attempts"),
    ],
)
def test_what_a_server_refuses_is_named(web: FileServer, status: int, error: type[PlaceError], words: str) -> None:
    web.status["/image.fits"] = status
    with pytest.raises(error, match=words) as caught:
        bring(f"{web.url}/image.fits")
    assert caught.value.path == f"{web.url}/image.fits"
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and type(again) is type(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(PlaceError, match=r"127\.0\.0\.1:9/image\.fits: it cannot be looked at after 5 attempts"):
        bring("http://127.0.0.1:9/image.fits")


def test_http_cannot_be_searched(web: FileServer) -> None:
    with pytest.raises(PlaceError, match="cannot be listed"):
        find_copies(f"{web.url}/*.fits")


def test_a_changed_file_is_fetched_again_and_is_another_input(bucket: Bucket, tmp_path: Path) -> None:
    url = f"{bucket.url}/a.bin"
    bucket.fs.pipe_file(url, b"first")
    stub = local_path(url)
    assert bring(url).read_bytes() == b"first"
    before = see(stub).stat().st_mtime_ns
    bucket.fs.pipe_file(url, b"other")  # the same size, and perhaps the same second
    refresh([stub], force=True)
    assert stub.stat().st_mtime_ns != before
    assert bring(url).read_bytes() == b"other"
    bucket.fs.rm_file(url)
    refresh([stub], force=True)
    with pytest.raises(PlaceNotFoundError, match=f"{url}: there is no such file"):
        bring(url)


def test_identity_is_the_same_on_other_machines(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fs.pipe_file(f"{bucket.url}/x/a.bin", b"content")
    by_listing = find_copies(f"{bucket.url}/x/*", Scratch(tmp_path / "one", _storage(bucket)))
    by_asking = Scratch(tmp_path / "two", _storage(bucket)).path(f"{bucket.url}/x/a.bin")
    Scratch(tmp_path / "two", _storage(bucket)).make()
    see(by_asking)
    one, two = by_listing[0].stat(), by_asking.stat()
    assert (one.st_size, one.st_mtime_ns) == (two.st_size, two.st_mtime_ns)


def _storage(bucket: Bucket) -> object:
    from skygraft.places import Storage

    return Storage(endpoint_url=bucket.endpoint)


def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    with pytest.raises(PlaceNotFoundError, match=r"there is no bucket 'no-such-bucket' at http://127"):
        find_copies("s3://no-such-bucket/**/*.fits")


def test_no_credentials_are_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(PlaceError, match="no credentials were found"):
            bring(f"{bucket.url}/a")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_backend_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"what reads gs:// is not installed.*pip install 'skygraft\[gcs\]'"):
        bring("gs://bucket/a.fits")


# -- the scratch folder


def test_the_least_recently_used_copy_goes_first(web: FileServer, tmp_path: Path) -> None:
    limited = Scratch(tmp_path / "small", max_bytes=250)
    for name in "abc":
        (web.folder / name).write_bytes(name.encode() * 100)
    limited.make()
    paths = {name: limited.path(f"{web.url}/{name}") for name in "abc"}
    whole = {name: bring(paths[name]) for name in "ab"}
    bring(paths["a"])  # used again
    whole["c"] = bring(paths["c"])
    assert whole["a"].exists() and whole["c"].exists() and not whole["b"].exists()


def test_a_copy_in_use_stays_and_a_full_folder_is_named(web: FileServer, tmp_path: Path) -> None:
    limited = Scratch(tmp_path / "small", max_bytes=250)
    for name in "abc":
        (web.folder / name).write_bytes(name.encode() * 100)
    limited.make()
    code = (
        "import sys, skygraft.places as p\nwith p.holding():\n p.bring(sys.argv[1]); print('held', flush=True); input()"
    )
    held = limited.path(f"{web.url}/a")
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    try:
        with holding():
            bring(limited.path(f"{web.url}/b"))
            with pytest.raises(PlaceError, match=r"small is full: it may hold 250 bytes, 200 are in use"):
                bring(limited.path(f"{web.url}/c"))
        bring(limited.path(f"{web.url}/c"))
        assert place_names.as_kind(held, "files").exists()
    finally:
        other.communicate("\n")


@pytest.mark.parametrize("max_bytes", [6400, 0])
def test_room_is_made_without_looking_at_all_copies_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    limited, looks = Scratch(tmp_path / "small", max_bytes=max_bytes), []
    limited.make()
    look = Scratch._copies

    def looked(scratch: Scratch) -> object:
        looks.append(1)
        return look(scratch)

    monkeypatch.setattr(Scratch, "_copies", looked)
    for i in range(300):
        url = f"s3://bucket/{i:03}"
        limited.make_room(100, url)
        path = limited.path(url, "files")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (i, i))
        assert sum(p.stat().st_size for p in path.parent.iterdir()) <= (max_bytes or 30_000)
    left = sorted(p.name for p in path.parent.iterdir())
    assert left == [f"{i:03}" for i in range(300 - len(left), 300)] and len(left) > (55 if max_bytes else 299)
    assert len(looks) < (80 if max_bytes else 2)
    # What disappears by other hands, or is not counted, is found when room is needed.
    for p in path.parent.iterdir():
        p.unlink()
    limited.make_room(5000, "s3://bucket/large")


def test_a_file_larger_than_the_folder_is_named(web: FileServer, tmp_path: Path) -> None:
    (web.folder / "a").write_bytes(bytes(1000))
    limited = Scratch(tmp_path / "small", max_bytes=250)
    limited.make()
    with pytest.raises(PlaceError, match=r"1,000 bytes, and the scratch folder .* may hold 250.*max_bytes"):
        bring(limited.path(f"{web.url}/a"))


def test_the_folder_is_private(web: FileServer) -> None:
    (web.folder / "a").write_bytes(b"x")
    path = bring(f"{web.url}/a")
    top = next(p for p in path.parents if p.name == place_names.MARK)
    assert top.stat().st_mode & 0o077 == 0


def test_nothing_here_knows_the_secret(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fs.pipe_file(f"{bucket.url}/a.bin", b"content")
    bring(f"{bucket.url}/a.bin")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_for_headers_of_a_small_file_reads_it(web: FileServer) -> None:
    (web.folder / "a.txt").write_bytes(b"text")
    assert for_headers(local_path(f"{web.url}/a.txt")).read_bytes() == b"text"


def test_a_server_that_takes_a_request_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stores, "_PATIENCE", 0.2)
    monkeypatch.setattr(stores, "_TRIES", 2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = stores.Store(stores.Storage(endpoint_url=where))
        (tmp_path / "a.bin").write_bytes(b"content")
        for ask in (
            lambda: store.read("s3://bucket/a.bin"),
            lambda: store.upload(tmp_path / "a.bin", "s3://bucket/a.bin"),
            lambda: store.read(f"{where}/a.bin"),
        ):
            with pytest.raises(PlaceError, match=r"a\.bin.*not answered in time"):
                ask()


def test_a_child_that_was_forked_leaves_the_parents_connections_alone(
    web: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take them from what wakes the parent, whose next request then waits for ever."""
    monkeypatch.setattr(stores, "_PATIENCE", 100.0)
    monkeypatch.setattr(stores, "_TRIES", 1)
    (web.folder / "a").write_bytes(b"content")
    store = stores.Store()
    assert store.read(f"{web.url}/a") == b"content"
    if (child := os.fork()) == 0:
        try:
            found = store.read(f"{web.url}/a")
            gc.collect()
            os._exit(0 if found == b"content" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read(f"{web.url}/a") == b"content"
