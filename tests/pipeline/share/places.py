"""Real servers on loopback, started and ended by the tests; what this machine lacks is a reason to skip."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
{user}
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; }}
}}
"""


@dataclass
class Place:
    """Somewhere that stores are shared."""

    name: str
    prefix: str
    """Address to push below, or where the stores of `folder` are served."""
    folder: Path | None = None
    """What a read-only server serves: pushed to by its file address."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def push_prefix(self) -> str:
        return self.folder.as_uri() if self.folder else self.prefix


def program(name: str) -> str:
    """Return the path of a program, beside this Python or in PATH; skip where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not found:
        pytest.skip(f"no {name} on this machine")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until it listens, and end it afterwards."""
    environment = {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(1200):  # a busy machine takes its time
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended at once with {process.returncode}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{command[0]} does not listen")
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def nginx(folder: Path) -> Iterator[Place]:
    binary, port, root = program("nginx"), free_port(), folder / "root"
    root.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, root=root, port=port, user=user))
    with running([binary, "-c", str(folder / "nginx.conf"), "-p", str(folder)], port):
        yield Place("nginx", f"http://127.0.0.1:{port}", root)


@contextmanager
def rclone_http(folder: Path) -> Iterator[Place]:
    with _rclone("http", folder) as port:
        yield Place("rclone http", f"http://127.0.0.1:{port}", folder / "root")


@contextmanager
def rclone_webdav(folder: Path) -> Iterator[Place]:
    with _rclone("webdav", folder) as port:
        yield Place("rclone webdav", f"http://127.0.0.1:{port}/shelf")


@contextmanager
def rclone_s3(folder: Path) -> Iterator[Place]:
    pytest.importorskip("obstore", reason="the extra `remote` is not installed")
    (folder / "root" / "bucket").mkdir(parents=True)
    with _rclone("s3", folder, "--auth-key", "AKID,SECRET") as port:
        yield Place("rclone s3", "s3://bucket/features", environment=_aws(port))


@contextmanager
def rclone_gs(folder: Path) -> Iterator[Place]:
    """Google's XML interface is that of S3, without signatures where an account asks for no OAuth."""
    pytest.importorskip("obstore", reason="the extra `remote` is not installed")
    (folder / "root" / "bucket").mkdir(parents=True)
    with _rclone("s3", folder) as port:
        account = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        environment = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "FSAR_ALLOW_HTTP": "1"}
        yield Place("rclone gs", "gs://bucket/features", environment=environment)


AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Published by Microsoft, the same in every emulator."""


@contextmanager
def azurite(folder: Path) -> Iterator[Place]:
    """Microsoft's emulator (npm install -g azurite)."""
    pytest.importorskip("obstore", reason="the extra `remote` is not installed")
    command = [program("azurite-blob"), "--inMemoryPersistence", "--silent"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    rclone, port = program("rclone"), free_port()
    with running([*command, "--blobHost", "127.0.0.1", "--blobPort", str(port)], port):
        url = f"http://127.0.0.1:{port}"
        place = f":azureblob,account=devstoreaccount1,key='{AZURITE_KEY}',endpoint='{url}/devstoreaccount1':container"
        made = [rclone, "--config", str(folder / "rclone.conf"), "mkdir", place]
        subprocess.run(made, check=True, capture_output=True)
        environment = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url}
        yield Place("azurite", "az://container/features", environment=environment)


@contextmanager
def moto_s3(folder: Path) -> Iterator[Place]:
    pytest.importorskip("obstore", reason="the extra `remote` is not installed")
    port = free_port()
    with running([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port):
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", "/bucket")
        connection.getresponse().read()
        connection.close()
        yield Place("moto s3", "s3://bucket/features", environment=_aws(port))


@contextmanager
def disk(folder: Path) -> Iterator[Place]:
    yield Place("disk", (folder / "root").as_uri())


@contextmanager
def hub(folder: Path) -> Iterator[Place]:
    pytest.importorskip("huggingface_hub", reason="the extra `remote` is not installed")
    from tests.pipeline.share.hub_server import TOKEN, running_hub

    with running_hub(folder) as server:
        yield Place("hub", "hf://datasets/team/features", environment={"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN})


def _aws(port: int) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def _rclone(kind: str, folder: Path, *options: str) -> Iterator[int]:
    port, root = free_port(), folder / "root"
    root.mkdir(exist_ok=True)
    command = [program("rclone"), "serve", kind, str(root), "--addr", f"127.0.0.1:{port}"]
    if kind == "http":
        command += ["--dir-cache-time", "0s"]  # its folder changes behind its back
    nothing = {"RCLONE_CONFIG": str(folder / "rclone.conf")}
    with running([*command, *options], port, nothing):
        yield port


PLACES: dict[str, Callable[[Path], object]] = {
    "disk": disk,
    "nginx": nginx,
    "rclone-http": rclone_http,
    "rclone-webdav": rclone_webdav,
    "rclone-s3": rclone_s3,
    "moto-s3": moto_s3,
    "rclone-gs": rclone_gs,
    "azurite": azurite,
    "hub": hub,
}
"""A new kind of place joins the conformance suite here."""
