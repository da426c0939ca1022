"""A scratch folder of their own for these tests, and stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kits.http_kit import FileServer, http_server
from kits.s3_kit import KEY, SECRET, Bucket, s3_server
from skygraft.places import Scratch, Storage, scratch, stores, stubs


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path) -> Iterator[None]:
    # Not the fixture of the tests, some of which undo what they set.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKYGRAFT_SCRATCH", str(tmp_path / "scratch"))
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setattr(stores, "_FIRST_WAIT", 0.001)
        scratch.use_scratch(None)
        stubs._seen.clear()
        yield
        scratch.use_scratch(None)
        stubs._seen.clear()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "www"
    folder.mkdir()
    with http_server(folder) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    bucket = Bucket(endpoint, f"test-{abs(hash(request.node.nodeid)) % 10**9}")
    scratch.use_scratch(Scratch(scratch.default_folder(), Storage(endpoint_url=endpoint)))
    return bucket
