"""A real HTTP server on this machine that serves a few files and misbehaves on demand."""

import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

CHUNK = 64 << 10
LOGIN = b"<!DOCTYPE html><html><body>Campus network: please sign in</body></html>"


class MirrorServer(ThreadingHTTPServer):
    """Serves `files` by path. Each GET takes the next word of `plan`, or is answered well if there is none."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.plan: deque[str] = deque()
        self.etag = '"first"'
        self.date = ""
        self.claimed = 0  # the length that HEAD tells, if not the true one
        self.seconds_per_chunk = 0.0
        self.asked: list[tuple[str, str, str]] = []  # path, Range, If-Range of each GET
        self.closing = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that are killed are the point of these tests."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[MirrorServer]:
    """Serve in the background; stop at the end of the block."""
    with MirrorServer(files) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: MirrorServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        if self.server.claimed:
            self._send(200, {"Content-Length": str(self.server.claimed)})
        else:
            self._answer_whole(self._content(), body=False)

    def do_GET(self) -> None:
        asked = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        self.server.asked.append((self.path, *asked))
        how = self.server.plan.popleft() if self.server.plan else "good"
        if how.isdecimal():
            self._send(int(how), {"Content-Length": "0"})
            return
        if self._content() is None:
            self._answer_whole(None)
            return
        getattr(self, f"_{how.replace(' ', '_')}")()

    def _content(self) -> bytes | None:
        return self.server.files.get(re.sub("^http://[^/]*", "", self.path))

    def _offset(self) -> int:
        """Return where the answer starts; 0 also if the file changed since the asker began."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range", self.server.etag) in (self.server.etag, self.server.date)
        return int(wanted[1]) if wanted and unchanged else 0

    def _validators(self) -> dict[str, str]:
        both = {"ETag": self.server.etag, "Last-Modified": self.server.date}
        return {name: value for name, value in both.items() if value}

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), CHUNK):
            time.sleep(self.server.seconds_per_chunk)
            self.wfile.write(body[start : start + CHUNK])

    def _answer_whole(self, content: bytes | None, body: bool = True) -> None:
        if content is None:
            return self._send(404, {"Content-Length": "0"})
        return self._send(200, {"Content-Length": str(len(content)), **self._validators()}, content if body else b"")

    def _good(self, offset: int | None = None, until: int | None = None, length: int | None = None) -> None:
        """Answer with the bytes from the asked-for (or a wrong) offset, and fewer than announced if told so."""
        content, start = self._content() or b"", self._offset() if offset is None else offset
        if start == 0 and offset is None:
            headers = {"Content-Length": str(len(content)), **self._validators()}
            return self._send(200, headers, content[:until])
        body = content[start:until]
        span = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        length = len(content) - start if length is None else length
        return self._send(206, {"Content-Length": str(length), "Content-Range": span, **self._validators()}, body)

    def _half(self) -> int:
        start, n = self._offset(), len(self._content() or b"")
        return start + (n - start) // 2

    def _cut(self) -> None:
        self._good(until=self._half())
        self.close_connection = True

    def _stall(self) -> None:
        self._good(until=self._half())
        self.server.closing.wait()
        self.close_connection = True

    def _short_range(self) -> None:
        self._good(offset=self._offset(), until=self._half(), length=self._half() - self._offset())

    def _wrong_range(self) -> None:
        self._good(offset=self._offset() + 7)

    def _ignore_range(self) -> None:
        self._answer_whole(self._content())

    def _ignore_range_and_cut(self) -> None:
        content = self._content() or b""
        self._send(200, {"Content-Length": str(len(content))}, content[: len(content) // 2])
        self.close_connection = True

    def _part_unasked(self) -> None:
        self._good(offset=0)

    def _ignore_if_range(self) -> None:
        start = re.sub(r"\D", "", self.headers.get("Range", ""))
        self._good(offset=int(start))

    def _empty(self) -> None:
        self._send(200, {"Content-Length": "0"})

    def _web_page(self) -> None:
        marked = b"\xef\xbb\xbf" + LOGIN
        self._send(200, {"Content-Length": str(len(marked)), "Content-Type": "text/html; charset=utf-8"}, marked)

    def _hidden_web_page(self) -> None:
        self._send(200, {"Content-Length": str(len(LOGIN)), "Content-Type": "application/zip"}, LOGIN)

    def _unsatisfiable(self) -> None:
        self._send(416, {"Content-Type": "text/html", "Connection": "close"}, LOGIN)
        self.close_connection = True

    def _compressed(self) -> None:
        self._send(200, {"Content-Length": "3", "Content-Encoding": "gzip"}, b"abc")

    def _without_length(self) -> None:
        self._send(200, {"Connection": "close"}, self._content() or b"")
        self.close_connection = True

    def _chunked(self, cut: bool = False, extra: bytes = b"") -> None:
        self._send(200, {"Transfer-Encoding": "chunked", **self._validators()})
        body = (self._content() or b"") + extra
        for piece in (body[: len(body) // 2], body[len(body) // 2 :]):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if cut:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def _cut_chunked(self) -> None:
        self._chunked(cut=True)

    def _too_much(self) -> None:
        content, start = self._content() or b"", self._offset()
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:] + b"extra"
        headers = {"Content-Length": str(len(body)), "Content-Range": span, **self._validators()}
        self._send(206, headers, body)

    def _redirect(self) -> None:
        self._send(302, {"Content-Length": "0", "Location": self.path})
