"""A proxy before a server, which breaks connections and refuses requests as tests say."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OF_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


class Proxy:
    """What is done with requests.

    Attributes
    ----------
    judge : callable
        ``judge(method, path)`` gives "" to pass a request on, "403" or "503" to refuse it, "lose" to end the connection
        without an answer, "cut" to end it half-way through the answer.
    seen : list of (str, str)
        Methods and paths of all requests.
    headers : list of email.message.Message
        Their headers.
    """

    def __init__(self) -> None:
        self.judge: Callable[[str, str], str] = lambda method, path: ""
        self.seen: list[tuple[str, str]] = []
        self.headers: list[Message] = []
        self.url = ""


@contextmanager
def proxy_of(server: str) -> Iterator[Proxy]:
    proxy, target = Proxy(), urlsplit(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.seen.append((self.command, self.path))
            proxy.headers.append(self.headers)
            verdict = proxy.judge(self.command, self.path)
            if verdict == "lose":
                self.close_connection = True
                return
            if verdict in ("403", "503"):
                code = {"403": "AccessDenied", "503": "SlowDown"}[verdict]
                text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
                self._answer(int(verdict), [("Content-Type", "application/xml")], text, cut=False)
                return
            there = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            there.request(self.command, self.path, body=body, headers=dict(self.headers.items()))
            answer = there.getresponse()
            content = answer.read()
            length = answer.getheader("Content-Length")
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _OF_CONNECTION]
            there.close()
            self._answer(answer.status, headers, content, cut=verdict == "cut", length=length)

        def _answer(
            self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool, length: str | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", (length or "0") if self.command == "HEAD" else str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if cut:
                self.close_connection = True
                content = content[: len(content) // 2]
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{web.server_address[1]}"
    try:
        yield proxy
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
