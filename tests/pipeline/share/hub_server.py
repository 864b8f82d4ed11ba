"""A stand-in for the HTTP API of the Hugging Face Hub, as far as a push and a pull of a dataset use it.

Small files travel inside commits, others through the large-file API; those are read by a redirect to another host, as
on the Hub.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.pipeline.share.servers import FolderServer, Handler, serving

LARGE_BYTES = 1000
TOKEN = "hf_secret"


class HubServer(FolderServer):
    """Repositories as folders below `folder`; large objects below another server's folder."""

    def __init__(self, folder: Path, storage: FolderServer) -> None:
        super().__init__(folder)
        self.RequestHandlerClass = HubHandler
        self.storage = storage
        self.lock = threading.Lock()
        self.commits: list[list[str]] = []


class HubHandler(Handler):
    server: HubServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.server.requests.append((self.command, url.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"{}")
        if parts[0] == "datasets" and parts[3] == "resolve":
            return self.resolve("/".join(parts[1:3]), "/".join(parts[5:]))
        if parts[:2] == ["api", "datasets"] and parts[4] == "tree":
            return self.tree("/".join(parts[2:4]), "/".join(parts[6:]))
        return self.answer(404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.read_body()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.server.requests.append((self.command, self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"{}")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'team'}/{asked['name']}"
            (self.server.folder / name).mkdir(parents=True, exist_ok=True)
            return self.reply({"url": f"{self.server.url}/datasets/{name}"})
        if parts == ["api", "validate-yaml"]:  # the card, before its commit
            assert yaml.safe_load(json.loads(body)["content"].split("---")[1])["license"]
            return self.reply({"errors": [], "warnings": []})
        if parts[-1] == "batch":
            return self.reply(
                {"transfer": "basic", "objects": [self.action(item) for item in json.loads(body)["objects"]]}
            )
        repository = self.server.folder / "/".join(parts[2:4])
        if not repository.is_dir():
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if parts[4] == "preupload":
            return self.reply({"files": [_mode(item) for item in json.loads(body)["files"]]})
        if parts[4] == "paths-info":
            paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            return self.reply([self.info(repository, path) for path in paths if (repository / path).is_file()])
        if parts[4] == "commit":
            return self.commit(repository, body)
        return self.answer(404, b"{}")

    def do_PUT(self) -> None:
        body = self.read_body()
        (self.server.storage.folder / self.path.rpartition("/")[2]).write_bytes(body)
        self.answer(200, b"")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def action(self, item: dict) -> dict:
        known = (self.server.storage.folder / item["oid"]).exists()
        upload = {} if known else {"actions": {"upload": {"href": f"{self.server.url}/objects/{item['oid']}"}}}
        return {**item, **upload}

    def commit(self, repository: Path, body: bytes) -> None:
        names = []
        with self.server.lock:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    continue
                target = repository / value["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                if line["key"] == "lfsFile":
                    assert (self.server.storage.folder / value["oid"]).stat().st_size == value["size"]
                    target.write_text(f"version lfs\n{value['oid']}")
                else:
                    target.write_bytes(base64.b64decode(value["content"]))
                names.append(value["path"])
            self.server.commits.append(names)
        self.reply(
            {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": f"{self.server.url}/datasets/team/features/commit/{'0' * 40}",
                "hookOutput": "",
            }
        )

    def resolve(self, repository: str, path: str) -> None:
        file = self.server.folder / repository / path
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        if data.startswith(b"version lfs\n"):
            target = f"{self.server.storage.url}/{data.decode().splitlines()[1]}?signature=SIGNED"
            return self.answer(302, b"", {"Location": target})
        return self.send_file(data)

    def tree(self, repository: str, path: str) -> None:
        folder = self.server.folder / repository / path
        if not folder.is_dir():
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        base = self.server.folder / repository
        return self.reply([self.info(base, item.relative_to(base).as_posix()) for item in sorted(folder.iterdir())])

    def info(self, repository: Path, path: str) -> dict:
        file = repository / path
        if file.is_dir():
            return {"type": "directory", "path": path, "oid": "0" * 40}
        data = file.read_bytes()
        if data.startswith(b"version lfs\n"):
            data = (self.server.storage.folder / data.decode().splitlines()[1]).read_bytes()
        return {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}

    def reply(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _mode(item: dict) -> dict:
    is_large = item["size"] > LARGE_BYTES and not item["path"].endswith(".md")
    return {
        "path": item["path"],
        "uploadMode": "lfs" if is_large else "regular",
        "shouldIgnore": False,
    }


@contextmanager
def running_hub(folder: Path) -> Iterator[HubServer]:
    (folder / "repositories").mkdir()
    (folder / "storage").mkdir()
    with (
        serving(folder / "storage") as storage,
        serving(folder / "repositories", lambda f: HubServer(f, storage)) as hub,
    ):
        assert isinstance(hub, HubServer)
        yield hub
