"""A Ray on loopback: it listens on every address of a machine, so its tests run in a network namespace of their own."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSIDE = "FSAR_TEST_INSIDE_NAMESPACE"
PORT = 26379


def why_not() -> str | None:
    """Return why there can be no Ray here, None if there can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'fsar[ray]'"
    if not all(map(shutil.which, ("unshare", "ip"))):
        return "unshare and ip are needed to keep Ray from the network: apt-get install util-linux iproute2"
    tried = subprocess.run(["unshare", *_OWN, "true"], capture_output=True, text=True)
    return f"no network namespace here: {tried.stderr.strip()}" if tried.returncode else None


_OWN = ("--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def run_inside(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run tests in a namespace whose only address is loopback; all that they start ends with them."""
    line = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}"]
    environment = {**os.environ, INSIDE: "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(
        ["unshare", *_OWN, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *line, *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


@contextmanager
def ray(n_cpus: int = 4) -> Iterator[str]:
    """Start one with a node; yield its address."""
    folder = Path(tempfile.mkdtemp(prefix="fsar-ray-"))  # short: its sockets lie below
    line = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={PORT}"]
    line += ["--include-dashboard=false", f"--num-cpus={n_cpus}", "--object-store-memory=80000000"]
    log = folder / "ray.log"
    with open(log, "wb") as output:
        node = subprocess.Popen(
            [*line, "--node-ip-address=127.0.0.1", f"--temp-dir={folder}/r"], stdout=output, stderr=output
        )
    try:
        _wait_until_up(node, log)
        yield f"127.0.0.1:{PORT}"
    finally:
        import ray as ray_module

        ray_module.shutdown()
        node.send_signal(signal.SIGTERM)
        node.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(node: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        if node.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Ray did not come up: {log.read_text()[-2000:]}")
        time.sleep(0.2)
