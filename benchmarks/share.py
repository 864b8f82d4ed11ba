"""Stores over a long line, beside what the line itself carries and beside a store on this disk.

    python benchmarks/share.py [--megabytes 256] [--rtt 0.03] [--repeats 5]

nginx serves a store of tokens and pooled features on loopback, `benchmarks/line.py` stands between. The raw link is the
same bytes over as many plain connections, neither hashed nor written; pulls and raw transfers take turns.
"""

import argparse
import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import fsar
from fsar.pipeline.share import parse_address, pull, push
from fsar.pipeline.share.download import N_CONNECTIONS
from fsar.pipeline.store import ChunkData, FeatureStore, TapSpec, VideoRow, create_store

TOKENS, POOLED, N_SLOTS, EPISODE = (197, 512), (512,), 8, 50
FAR_RTT_SECONDS = 0.4
"""So long that what is computed while opening does not count."""
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log; {user}
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; keepalive_requests 100000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rtt", type=float, default=0.03, help="seconds")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsar-share-") as folder:
        os.environ["FSAR_CACHE"] = f"{folder}/cache"
        store = make_store(Path(folder) / "store.zarr", options.megabytes)
        identity = push(store, parse_address((Path(folder) / "root").as_uri())).identity
        plain = Path(folder) / "root" / "plain.zarr"
        shutil.copytree(store, plain)
        with serving(Path(folder)) as direct, line(direct, options.rtt) as port:
            print(f"{options.megabytes} MB, {options.rtt * 1000:.0f} ms round trip, 60 MB/s link, 20 MB/s a connection")
            rate(port, plain, Path(folder) / "copies", options.repeats)
            episodes(port, store, options.repeats)
        with serving(Path(folder), "far") as direct, line(direct, FAR_RTT_SECONDS) as port:
            opening(port, direct, identity, options.repeats)


def rate(port: int, plain: Path, copies: Path, n_repeats: int) -> None:
    """Print the rate of a pull against that of the raw link."""
    names = [path.relative_to(plain.parent).as_posix() for path in plain.rglob("*") if path.is_file()]
    n_bytes = sum(path.stat().st_size for path in plain.rglob("*") if path.is_file())
    ratios, rates = [], []
    for repeat in range(n_repeats):
        raw = timed(lambda: raw_transfer(port, names, plain.parent))
        address = parse_address(f"http://127.0.0.1:{port}/plain.zarr")
        ours = timed(lambda repeat=repeat, address=address: pull(address, copies / f"{repeat}.zarr"))  # type: ignore[misc]
        shutil.rmtree(copies)
        ratios.append(raw / ours)
        rates.append((n_bytes / raw / 1e6, n_bytes / ours / 1e6))
    raw_rate, our_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    print(f"pull: {our_rate:.1f} MB/s, raw link {raw_rate:.1f} MB/s: {statistics.median(ratios):.0%} (to reach 90 %)")


def raw_transfer(port: int, names: list[str], root: Path) -> None:
    """Read files over N plain connections, big ones first, and drop the bytes."""
    ordered = sorted(names, key=lambda name: -(root / name).stat().st_size)
    waiting = iter(ordered)

    def reader() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        buffer = bytearray(256 << 10)
        for name in waiting:
            connection.request("GET", f"/{name}")
            response = connection.getresponse()
            while response.readinto(buffer):
                pass
        connection.close()

    with ThreadPoolExecutor(N_CONNECTIONS) as pool:
        for future in [pool.submit(reader) for _ in range(N_CONNECTIONS)]:
            future.result()


def opening(port: int, direct: int, identity: str, n_repeats: int) -> None:
    """Print what opening costs in round trips: its time over the line less its time without one."""
    cases = {"a plain folder": "plain.zarr", "a pushed store": "store.zarr"}
    cases["a pushed store by its identity"] = f"store.zarr#sha256={identity}"
    for what, name in cases.items():
        seconds = {far: [open_anew(far, name) for _ in range(n_repeats)] for far in (port, direct)}
        trips = (statistics.median(seconds[port]) - statistics.median(seconds[direct])) / FAR_RTT_SECONDS
        print(f"open {what}: {trips:.1f} round trips of {FAR_RTT_SECONDS} s, handshake included (at most 3)")


def open_anew(port: int, name: str) -> float:
    """Return how long a store takes to open that was never opened before, in seconds."""
    shutil.rmtree(os.environ["FSAR_CACHE"], ignore_errors=True)
    return timed(lambda: fsar.open_store(f"http://127.0.0.1:{port}/{name}"))


def episodes(port: int, local: Path, n_repeats: int) -> None:
    """Print an episode from a warm cache against one from a store on this disk."""
    remote, here = fsar.open_store(f"http://127.0.0.1:{port}/store.zarr"), fsar.open_store(local)
    for tap in ("pooled", "tokens"):
        draws = np.random.default_rng(0)
        rows = [draws.choice(here.n_videos, EPISODE, replace=False) for _ in range(20 * n_repeats)]
        first = timed(lambda tap=tap, rows=rows: remote.read(tap, rows[0]))  # type: ignore[misc]
        for index in rows:
            remote.read(tap, index), here.read(tap, index)
        ratios = [episode(remote, tap, index) / episode(here, tap, index) for index in rows]
        ratio = statistics.median(ratios)
        print(f"episode of {tap}, warm: {ratio:.2f}x a local store (at most 1.1x); first: {first:.2f} s")


def episode(store: FeatureStore, tap: str, rows: np.ndarray) -> float:
    """Return the time of reading an episode."""
    return timed(lambda: store.read(tap, rows))


def timed(action: object) -> float:
    """Return how long a call takes, in seconds."""
    start = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - start


def make_store(path: Path, n_megabytes: int) -> Path:
    """Write a store of random tokens and pooled features."""
    n_videos = max(EPISODE, n_megabytes * 1_000_000 // (N_SLOTS * 2 * (197 * 512 + 512)))
    videos = [VideoRow(f"v{row}", f"class {row % 20}", "train", f"{row}.mp4") for row in range(n_videos)]
    taps = {"tokens": TapSpec(TOKENS), "pooled": TapSpec(POOLED)}
    draws = np.random.default_rng(0)
    with create_store(
        path, videos=videos, taps=taps, n_views=1, n_slots=N_SLOTS, recipe={"backbone": "none"}
    ) as writer:
        while (chunk := writer.claim()) is not None:
            n = len(chunk.rows)
            features = {
                name: draws.integers(0, 1 << 14, (n, 1, N_SLOTS, *tap.shape), np.uint16).view(np.float16)
                for name, tap in taps.items()
            }
            index, times = np.zeros((n, 1, N_SLOTS), np.int32), np.zeros((n, 1, N_SLOTS))
            hashes = np.zeros((n, 32), np.uint8)
            status, frames = np.ones(n, np.uint8), np.full(n, 30, np.int32)
            writer.commit(chunk, ChunkData(features, index, times, status, frames, hashes))
        writer.seal()
    return path


@contextmanager
def serving(folder: Path, name: str = "nginx") -> Iterator[int]:
    """Run nginx on `folder`/root; yield its port."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        sys.exit("this benchmark needs nginx (Debian: nginx-light)")
    port, own = free_port(), folder / name
    own.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    (own / "conf").write_text(NGINX.format(folder=own, port=port, root=folder / "root", user=user))
    with running([binary, "-c", str(own / "conf"), "-p", str(own)], port):
        yield port


@contextmanager
def line(target: int, rtt: float) -> Iterator[int]:
    """Run a long line to a port; yield its own."""
    port = free_port()
    script = Path(__file__).with_name("line.py")
    with running([sys.executable, str(script), str(port), str(target), "--rtt", str(rtt)], port):
        yield port


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run a server from the moment it listens."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
