"""Servers that die, stall, lie, redirect or send something else: one clear error, and nothing wrong is kept."""

import gzip
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK
from fsar.pipeline.share import download, http_transport, parse_address, pull
from fsar.pipeline.share.download import Download, fetch_all
from fsar.pipeline.share.transport import open_transport
from fsar.pipeline.store.disk import FileEntry
from fsar.pipeline.store.verify import verify
from tests.pipeline.share.conftest import shared_sample
from tests.pipeline.share.servers import FolderServer, Handler, serving
from tests.pipeline.share.test_pull import same_bytes


@pytest.fixture
def store(shelf: Path) -> Path:
    return shared_sample(shelf / "sample.zarr")


def pulled(server: FolderServer, out: Path):
    return pull(parse_address(f"{server.url}/sample.zarr"), out)


def nothing_wrong_is_kept(store: Path, out: Path) -> bool:
    """Whatever lies under its final name has the store's bytes."""
    files = [path for path in out.rglob("*") if path.is_file() and TEMPORARY_MARK not in path.name]
    return all(path.read_bytes() == (store / path.relative_to(out)).read_bytes() for path in files)


TARGET = "features/map/c.1.0.0.0.0.0"


def wrong_bytes(handler: Handler, path: str) -> bool:
    if not path.endswith(TARGET):
        return False
    data = bytearray((handler.server.folder / path.lstrip("/")).read_bytes())
    data[5] ^= 1
    handler.answer(200, bytes(data))
    return True


def longer(handler: Handler, path: str) -> bool:
    if not path.endswith(TARGET):
        return False
    data = (handler.server.folder / path.lstrip("/")).read_bytes()
    handler.send_response(200)  # no length: only the bytes tell
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(data)
    handler.cut()
    return True


def announces_more(handler: Handler, path: str) -> bool:
    if not path.endswith(TARGET):
        return False
    handler.answer(200, b"x" * 100, length=1 << 60)
    handler.cut()
    return True


def compressed(handler: Handler, path: str) -> bool:
    if not path.endswith(TARGET):
        return False
    handler.answer(200, gzip.compress(bytes(50 << 20)), {"Content-Encoding": "gzip"})
    return True


def gone(handler: Handler, path: str) -> bool:
    if not path.endswith(TARGET):
        return False
    handler.answer(404, b"")
    return True


def forbidden(handler: Handler, path: str) -> bool:
    if not path.endswith(TARGET):
        return False
    handler.answer(403, b"")
    return True


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_bytes, "not what the manifest names: its bytes have another sha256"),
        (longer, "not what the manifest names: it is longer than"),
        (announces_more, "not what the manifest names: it has 1152921504606846976 bytes"),
        (compressed, "sends it compressed"),
        (gone, "is not there"),
        (forbidden, "access denied"),
    ],
)
def test_a_lying_server_is_found_out(server, store, tmp_path, fault, message):
    out = tmp_path / "out.zarr"
    server.fault = fault
    with pytest.raises((InputError, OSError), match=message) as error:
        pulled(server, out)
    assert "\n" not in str(error.value)
    assert nothing_wrong_is_kept(store, out)
    assert not (out / "manifest.json").exists()
    server.fault = None
    pulled(server, out)
    assert same_bytes(store, out)
    assert verify(out).problems == []


def test_a_gzip_bomb_in_place_of_the_manifest(server, store, tmp_path):
    def bomb(handler: Handler, path: str) -> bool:
        handler.answer(200, gzip.compress(bytes(50 << 20)), {"Content-Encoding": "gzip"})
        return True

    server.fault = bomb
    with pytest.raises(InputError, match="compressed"):
        pulled(server, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_an_endless_manifest_is_cut_off(server, store, tmp_path, monkeypatch):
    from fsar.pipeline.share import upstream

    monkeypatch.setattr(upstream, "MAX_BYTES", 1 << 20)

    def endless(handler: Handler, path: str) -> bool:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"[" * 65536)

    server.fault = endless
    with pytest.raises(InputError, match="longer than 1048576 bytes"):
        pulled(server, tmp_path / "out.zarr")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, store, tmp_path, status):
    seen: dict[str, int] = {}

    def busy_twice(handler: Handler, path: str) -> bool:
        seen[path] = seen.get(path, 0) + 1
        if seen[path] <= 2:
            handler.answer(status, b"", {"Retry-After": "0"})
            return True
        return False

    server.fault = busy_twice
    pulled(server, tmp_path / "out.zarr")
    assert same_bytes(store, tmp_path / "out.zarr")


def test_a_server_that_stays_busy_is_an_error(server, store, tmp_path):
    server.fault = lambda handler, path: handler.answer(503, b"") or True
    with pytest.raises(OSError, match=rf"busy or broken \(503\), {download.N_TRIES} times in a row"):
        pulled(server, tmp_path / "out.zarr")


def test_connections_that_break_are_gone_on_with(server, store, tmp_path):
    seen: dict[str, int] = {}

    def cut_first(handler: Handler, path: str) -> bool:
        seen[path] = seen.get(path, 0) + 1
        file = handler.server.folder / path.lstrip("/")
        if seen[path] > 1 or not file.is_file():
            return False
        data = file.read_bytes()
        handler.answer(200, data[: len(data) // 2], length=len(data))
        handler.cut()
        return True

    server.fault = cut_first
    pulled(server, tmp_path / "out.zarr")
    assert same_bytes(store, tmp_path / "out.zarr")


def test_a_silent_server_is_left(server, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download._Told, "at", -1e9)
    monkeypatch.setattr(http_transport, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(download, "N_TRIES", 2)
    server.fault = lambda handler, path: time.sleep(1) or True
    with pytest.raises(OSError, match="no answer for 0 s, 2 times in a row"):
        pulled(server, tmp_path / "out.zarr")
    told = capsys.readouterr().err
    assert told.count("no answer for 0 s; trying again") == 1, told


def test_a_trickle_is_a_stall(server, store, tmp_path, monkeypatch):
    monkeypatch.setattr(http_transport, "PACE_SECONDS", 0.2)
    monkeypatch.setattr(http_transport, "REST_SECONDS", 0.2)
    monkeypatch.setattr(download, "N_TRIES", 1)
    n_bytes, n_sent, is_left = (store / TARGET).stat().st_size, [0], threading.Event()

    def trickle(handler: Handler, path: str) -> bool:
        if not path.endswith(TARGET):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(n_bytes))
        handler.end_headers()
        try:
            for _ in range(n_bytes):
                handler.wfile.write(b"x")
                n_sent[0] += 1
                time.sleep(0.05)
        except OSError:
            is_left.set()
        handler.close_connection = True
        return True

    server.fault = trickle
    with pytest.raises(OSError, match="has stalled"):
        pulled(server, tmp_path / "out.zarr")
    assert is_left.wait(60)  # nobody waits for the rest
    assert n_sent[0] < n_bytes


class TestRedirects:
    def test_to_another_place_without_the_credentials(self, server, store, tmp_path, monkeypatch):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password secret\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        with serving(server.folder) as other:
            server.fault = lambda handler, path: handler.answer(302, b"", {"Location": other.url + path}) or True
            pulled(server, tmp_path / "out.zarr")
            assert same_bytes(store, tmp_path / "out.zarr")
            assert all("Authorization" in headers for headers in server.headers)
            assert not any("Authorization" in headers for headers in other.headers)

    def test_not_for_ever(self, server, store, tmp_path):
        server.fault = lambda handler, path: handler.answer(302, b"", {"Location": path + "x"}) or True
        with pytest.raises(OSError, match="more than 5 redirects"):
            pulled(server, tmp_path / "out.zarr")

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("file:///etc/passwd", "no web address"),
            ("ftp://host/x", "no web address"),
            ("https://user:secret@host/x", "no web address"),
            ("http://data.lab.org/x", "not encrypted"),
        ],
    )
    def test_not_anywhere(self, server, store, tmp_path, target, message):
        server.fault = lambda handler, path: handler.answer(302, b"", {"Location": target}) or True
        with pytest.raises((OSError, InputError), match=message) as error:
            pulled(server, tmp_path / "out.zarr")
        assert "secret" not in str(error.value)

    def test_never_out_of_https_nor_to_this_machine(self):
        for target, message in (
            ("http://lab.org/x", "from https to http"),
            ("https://127.0.0.1/x", "this very machine"),
        ):
            with pytest.raises(OSError, match=message):
                http_transport._redirected("https://lab.org/x", target, "https://lab.org/x")


def test_plain_http_is_for_this_machine_alone(monkeypatch):
    address = parse_address("http://data.lab.org/x.zarr")
    with pytest.raises(InputError, match="FSAR_ALLOW_HTTP=1"):
        open_transport(address)
    monkeypatch.setenv("FSAR_ALLOW_HTTP", "1")
    open_transport(address)


def test_the_query_goes_with_every_request_and_nowhere_else(server, store, tmp_path):
    asked = []
    server.fault = lambda handler, path: asked.append(handler.path) and False
    report = pull(parse_address(f"{server.url}/sample.zarr?sig=TOPSECRET"), tmp_path / "out.zarr")
    assert asked
    assert all(path.endswith("?sig=TOPSECRET") for path in asked)
    assert "TOPSECRET" not in report.address
    server.fault = lambda handler, path: handler.answer(500, b"") or True
    with pytest.raises(OSError, match="500") as error:
        pull(parse_address(f"{server.url}/sample.zarr?sig=TOPSECRET"), tmp_path / "b.zarr")
    assert "TOPSECRET" not in str(error.value)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"TOPSECRET" not in kept


class TestResume:
    """Inside a file, and only if it is still the same."""

    @pytest.fixture
    def big(self, shelf: Path) -> bytes:
        data = np.random.default_rng(0).bytes(5 << 20)
        (shelf / "big").write_bytes(data)
        return data

    def interrupted(self, server: FolderServer, item: Download, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave the first three megabytes behind, as a killed process does."""

        def cut(handler: Handler, path: str) -> bool:
            data = (handler.server.folder / "big").read_bytes()
            tag = '"' + __import__("hashlib").md5(data).hexdigest() + '"'
            handler.answer(200, data[: 3 << 20], {"ETag": tag}, length=len(data))
            handler.cut()
            return True

        server.fault = cut
        monkeypatch.setattr(download, "N_TRIES", 1)
        with pytest.raises(OSError, match="in a row"):
            fetch_all(open_transport(parse_address(server.url + "/x.zarr")), [item])
        server.fault = None
        server.requests.clear()
        server.headers.clear()

    def test_goes_on_where_it_stopped(self, server, big, tmp_path, monkeypatch):
        item = Download(f"{server.url}/big", FileEntry.of([big]), tmp_path / "copy")
        self.interrupted(server, item, monkeypatch)
        fetch_all(open_transport(parse_address(server.url + "/x.zarr")), [item])
        assert (tmp_path / "copy").read_bytes() == big
        start = int(server.headers[0]["Range"].removeprefix("bytes=").rstrip("-"))
        assert start >= 2 << 20
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["copy"]

    def test_starts_anew_when_the_file_has_changed(self, server, big, shelf, tmp_path, monkeypatch):
        item = Download(f"{server.url}/big", FileEntry.of([big]), tmp_path / "copy")
        self.interrupted(server, item, monkeypatch)
        (shelf / "big").write_bytes(big[::-1])
        with pytest.raises(InputError, match="another sha256"):
            fetch_all(open_transport(parse_address(server.url + "/x.zarr")), [item])
        assert not (tmp_path / "copy").exists()
        (shelf / "big").write_bytes(big)
        fetch_all(open_transport(parse_address(server.url + "/x.zarr")), [item])
        assert (tmp_path / "copy").read_bytes() == big

    def test_what_lies_there_is_not_believed(self, server, big, tmp_path, monkeypatch):
        item = Download(f"{server.url}/big", FileEntry.of([big]), tmp_path / "copy")
        self.interrupted(server, item, monkeypatch)
        (unfinished,) = (
            path for path in tmp_path.iterdir() if path.name.startswith(".copy") and path.suffix != ".state"
        )
        data = bytearray(unfinished.read_bytes())
        data[0] ^= 1
        unfinished.write_bytes(data)
        with pytest.raises(InputError, match="another sha256"):
            fetch_all(open_transport(parse_address(server.url + "/x.zarr")), [item])
        fetch_all(open_transport(parse_address(server.url + "/x.zarr")), [item])
        assert (tmp_path / "copy").read_bytes() == big


def test_an_interrupted_pull_does_not_open(server, store, tmp_path):
    from fsar.pipeline.store import open_store

    server.fault = gone
    with pytest.raises(OSError, match="is not there"):
        pulled(server, tmp_path / "out.zarr")
    with pytest.raises((FileNotFoundError, InputError)):
        open_store(tmp_path / "out.zarr")


def test_no_room(server, store, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="make room"):
        pulled(server, tmp_path / "out.zarr")
    monkeypatch.undo()
