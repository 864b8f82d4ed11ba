"""A web server for tests: serves a folder with ranges, counts what is asked, and misbehaves when told to."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Fault = Callable[["Handler", str], bool]
"""Answers a request itself and returns True, or leaves it to the server."""


class FolderServer(ThreadingHTTPServer):
    """Serves `folder`; `fault` may answer in its place."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Fault | None = None
        self.lists_folders = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients are killed and cut off here on purpose


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FolderServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        self.server.headers.append(dict(self.headers))
        if self.server.fault and self.server.fault(self, path):
            return
        file = self.server.folder / path.lstrip("/")
        if path.endswith("/") and file.is_dir() and self.server.lists_folders:
            names = sorted(f"{item.name}/" if item.is_dir() else item.name for item in file.iterdir())
            page = "".join(f'<a href="{name}">{name}</a>\n' for name in ("../", *names)).encode()
            self.answer(200, page, {"Content-Type": "text/html"})
        elif file.is_file():
            self.send_file(file.read_bytes())
        else:
            self.answer(404, b"not here")

    do_HEAD = do_GET

    def send_file(self, data: bytes) -> None:
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") in (None, tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            extent = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], {"ETag": tag, "Content-Range": extent})
        else:
            self.answer(200, data, {"ETag": tag})

    def answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        with suppress(ConnectionError):
            if self.command != "HEAD":
                self.wfile.write(data)

    def cut(self) -> None:
        """Close the connection."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path, make: Callable[[Path], FolderServer] = FolderServer) -> Iterator[FolderServer]:
    """Run a server in a thread."""
    server = make(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
