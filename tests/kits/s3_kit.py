"""A real S3 server of this machine for tests, and buckets in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIAPLACESTEST000000", "verysecretkeythatnofilemayhold00000000000"

_SERVER = """
import logging, sys
logging.disable()
from werkzeug.serving import WSGIRequestHandler, make_server
from moto.server import DomainDispatcherApplication, create_backend_app
if "keep" in sys.argv:
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
app = DomainDispatcherApplication(create_backend_app)
make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def s3_server(*, keep_alive: bool = False) -> Iterator[str]:
    """The address of an S3 server in a process of its own; with `keep_alive`, connections stay open."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER, str(port), *(["keep"] if keep_alive else [])],
        env=environment | {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


class Bucket:
    """A bucket of a server, filled and read without skygraft."""

    def __init__(self, endpoint: str, name: str) -> None:
        import s3fs

        self.endpoint, self.name = endpoint, name
        self.fs: Any = s3fs.S3FileSystem(
            key=KEY, secret=SECRET, endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True
        )
        self.fs.mkdir(name)

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, folder: Path, prefix: str = "") -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.fs.put_file(str(path), f"{self.name}/{prefix}{path.relative_to(folder).as_posix()}")

    def get(self, key: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.name}/{key}"))

    def keys(self, prefix: str = "") -> list[str]:
        found = self.fs.find(f"{self.name}/{prefix}")
        return sorted(name.removeprefix(f"{self.name}/") for name in found)
