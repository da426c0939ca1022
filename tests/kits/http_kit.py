"""An HTTP server of this machine that gives files, in ways that can be broken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """What a server does with requests; tests change it while it runs.

    Attributes
    ----------
    status : dict
        Answers instead of files, by path: 403, 404, 500.
    failures : dict
        How many requests of a path still fail with 500 before one is answered.
    cut : dict
        How many answers of a path still end before half of the file has been sent.
    ranges : bool
        Whether ranges of bytes are understood.
    sent : list of (str, int)
        Path and number of bytes of each answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.status: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.ranges = True
        self.sent: list[tuple[str, int]] = []
        self.url = ""


@contextmanager
def http_server(folder: Path) -> Iterator[FileServer]:
    files = FileServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _empty(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, *, body: bool) -> None:
            path = folder / self.path.lstrip("/")
            if self.path in files.status:
                return self._empty(files.status[self.path])
            if body and files.failures.get(self.path, 0) > 0:
                files.failures[self.path] -= 1
                return self._empty(500)
            if not path.is_file():
                return self._empty(404)
            content, status = path.read_bytes(), 200
            whole = len(content)
            asked = self.headers.get("Range", "")
            if asked and files.ranges:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or whole - 1), whole - 1)
                content, status = content[start : end + 1], 206
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{end}/{whole}")
            if files.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
            self.end_headers()
            if not body:
                return None
            if files.cut.get(self.path, 0) > 0:
                files.cut[self.path] -= 1
                content = content[: len(content) // 2]
                self.close_connection = True
            files.sent.append((self.path, len(content)))
            self.wfile.write(content)
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
