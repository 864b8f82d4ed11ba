"""What somebody who can write a store can forge, checksums included. Each attack changes a valid store in place."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsar.pipeline.store.format.files import videos_csv, videos_sha256
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.format.layout import VideoRow

SECRET = b"TOP-SECRET-api-key=hunter2;-----"
TERMINAL = "\x1b]0;pwned\x07\x1b[2J\x1b[31m\nsample.zarr: 9 files, 1 MB: intact\u202e\x9b"
LOOKALIKE = "st\u043ere.json"
"""A Cyrillic letter inside."""


@dataclass(frozen=True)
class Forge:
    """A store about to be forged, and the folder outside of it that must stay as it is."""

    path: Path
    outside: Path

    @property
    def home(self) -> Path:
        return self.path if self.path.suffix == ".zarr" else self.path.with_name(self.path.name + ".parts")

    @property
    def chunk(self) -> Path:
        """The first chunk file of the tap `pooled`."""
        return self.home / ("features/pooled/c.0.0.0.0" if self.path.suffix == ".zarr" else "chunks/000000.h5")

    @property
    def master(self) -> Path:
        return self.path / "zarr.json" if self.path.suffix == ".zarr" else self.path

    def locate(self, name: str) -> Path:
        return self.path if name == "@master.h5" else self.home / name

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a document and make its checksum right."""
        data = json.loads((self.home / name).read_bytes())
        data.pop("sha256")
        change(data)
        (self.home / name).write_bytes(checked_json(data))

    def sign(self) -> None:
        """Make records and manifest agree with the files that are there."""

        def listed(data: dict[str, Any]) -> None:
            for name in data["files"]:
                if self.locate(name).is_file():
                    data["files"][name] = entry(self.locate(name).read_bytes())

        journal = self.home / "journal"
        for name in [*sorted(path.name for path in journal.glob("0*.json")), "metadata.json"]:
            self.edit(f"journal/{name}", listed)
        self.edit("manifest.json", listed)

    def layout(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.edit("store.json", change)
        self.sign()

    def records(self, change: Callable[[dict[str, Any]], object]) -> None:
        for path in (self.home / "journal").glob("0*.json"):
            self.edit(f"journal/{path.name}", change)
        self.sign()

    def manifest(self, name: str) -> None:
        """Name one more file in the manifest."""
        self.edit("manifest.json", lambda data: data["files"].update({name: entry(SECRET)}))

    def intent(self, staging: str, *names: str, key: str = "metadata") -> None:
        steps = [{name: entry(SECRET)} for name in names]
        content = checked_json({"staging": staging, "replaces": True, "steps": steps})
        (self.home / f"journal/{key}.intent").write_bytes(content)

    def stage(self, name: str, token: str = "metadata-1-deadbeef") -> Path:
        path = self.home / "staging" / token / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SECRET)
        return path

    def videos(self, **fields: str) -> None:
        """Give every video other cells."""
        own = {"class_name": "a", "part": "test", "path": "x"} | fields
        suffix = own.pop("video_id", "")
        self.list_videos([VideoRow(f"v{row:02d}{suffix}", **own) for row in range(12)])

    def list_videos(self, rows: list[VideoRow]) -> None:
        (self.home / "videos.csv").write_bytes(videos_csv(rows))
        self.layout(lambda data: data.update(videos_sha256=videos_sha256(rows), n_videos=len(rows)))

    def instead(self, path: Path, make: Callable[[Path], object]) -> None:
        """Put something else in place of a file or folder."""
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)

    def moved_out(self, path: Path) -> None:
        """Replace a folder of the store by a link to its content outside."""
        target = self.outside / path.name
        shutil.move(path, target) if path.exists() else target.mkdir()
        path.symlink_to(target, target_is_directory=True)

    def zarr_nodes(self, change: Callable[[dict[str, Any]], object]) -> None:
        data = json.loads(self.master.read_bytes())
        change(data["consolidated_metadata"]["metadata"])
        self.master.write_text(json.dumps(data))
        self.sign()


def entry(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


Attack = Callable[[Forge], object]
BOTH: dict[str, Attack] = {}
ZARR: dict[str, Attack] = {}
HDF5: dict[str, Attack] = {}
QUIET: set[str] = set()
"""Attacks after which a store is still a store: `verify` has nothing to say."""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with open(path, "ab") as file:
        file.truncate(1 << 40)


# Intents and staging folders.
TOKEN = "metadata-1-deadbeef"
for name in (
    "../victim",
    "../../victim",
    "/etc/victim",
    "features/../../../victim",
    "journal\\victim",
    "",
    ".ssh",
    "evil.py",
):
    BOTH[f"intent names {name!r}"] = lambda forge, name=name: (forge.stage("x"), forge.intent(TOKEN, name))
for staging in (
    "../../outside",
    f"{TOKEN}/a/b",
    f"{TOKEN}/../../../outside",
    "/",
    "",
    "..",
    "metadata-1-DEADBEEF",
    "x",
):
    BOTH[f"intent stages in {staging!r}"] = lambda forge, staging=staging: (
        forge.stage("x"),
        forge.intent(staging, "videos.csv"),
    )


def intent_through_depth(forge: Forge) -> None:
    """The name leads to a file below the staging folder and, seen from the store, to one outside."""
    forge.stage(f"a/{forge.outside.name}/victim")
    forge.intent(f"{TOKEN}/a/b", f"../{forge.outside.name}/victim")


def staged_link(forge: Forge) -> None:
    forge.instead(forge.stage("videos.csv"), lambda path: path.symlink_to(forge.outside / "victim"))
    forge.intent(TOKEN, "videos.csv")


def staging_folder_is_a_link(forge: Forge) -> None:
    (forge.home / "staging").mkdir(exist_ok=True)
    (forge.home / "staging" / TOKEN).symlink_to(forge.outside, target_is_directory=True)
    forge.intent(TOKEN, "videos.csv")


BOTH |= {
    "intent through depth": intent_through_depth,
    "staged link": staged_link,
    "staging folder is a link": staging_folder_is_a_link,
    "empty intent": lambda forge: (forge.stage("x"), forge.intent(TOKEN)),
    "torn intent": lambda forge: (forge.home / "journal/metadata.intent").write_bytes(b"{"),
    "intent of a chunk": lambda forge: forge.intent("000000.000004-1-deadbeef", "../victim", key="000000.000004"),
    "intent is a pipe": lambda forge: fifo(forge.home / "journal/metadata.intent"),
    "steps are no objects": lambda forge: (forge.home / "journal/metadata.intent").write_bytes(
        checked_json({"staging": TOKEN, "replaces": True, "steps": [["videos.csv"], 7, None]})
    ),
    "entries are no objects": lambda forge: (forge.home / "journal/metadata.intent").write_bytes(
        checked_json({"staging": TOKEN, "replaces": True, "steps": [{"videos.csv": "x"}]})
    ),
}

# Names in the manifest and in store.json.
for name in (
    "../secret",
    "/etc/passwd",
    "a/../../b",
    ".hidden",
    LOOKALIKE,
    "Store.json",
    "a\nb",
    "a\x00b",
    "",
    "x" * 600,
    "a//b",
):
    BOTH[f"manifest names {name[:20]!r}"] = lambda forge, name=name: forge.manifest(name)
for name in ("../../outside", "a/b", "..", "", "pooled\u202e", "p\u043eoled", "/etc", "x" * 600, "a\x1b[2J"):
    BOTH[f"tap {name[:20]!r}"] = lambda forge, name=name: forge.layout(
        lambda data: data.update(taps={name: data["taps"]["pooled"]})
    )
BOTH["taps in capitals"] = lambda forge: forge.layout(
    lambda data: data["taps"].update({"Pooled": data["taps"]["pooled"]})
)

# Numbers.
for field, value in (
    ("chunk_rows", 2**62),
    ("chunk_rows", -1),
    ("n_slots", 2**40),
    ("n_slots", 10**400),
    ("n_views", 0),
    ("n_videos", 2**63),
    ("n_videos", -1),
    ("n_slots", 1.5),
    ("n_views", True),
    ("n_slots", 3),
    ("chunk_rows", 5),
):
    BOTH[f"{field} {str(value)[:12]}"] = lambda forge, field=field, value=value: forge.layout(
        lambda data: data.update({field: value})
    )
for shape in (
    [2**40],
    [2**32, 2**32],
    [2**62],
    [10**300],
    [-4],
    [0],
    [1] * 70 + [4],
    [4.0],
    ["4"],
    [[4]],
    4,
    None,
    [8],
):
    BOTH[f"shape {str(shape)[:14]}"] = lambda forge, shape=shape: forge.layout(
        lambda data: data["taps"].update(pooled={"shape": shape, "dtype": "float16"})
    )
for dtype in ("object", "O", "<U8", "V8", "float64", "", 16, None, "float16; import os"):
    BOTH[f"dtype {dtype!r}"] = lambda forge, dtype=dtype: forge.layout(
        lambda data: data["taps"].update(pooled={"shape": [4], "dtype": dtype})
    )
for offset in (-4096, 2**70, 2**62, 1.5, "0"):
    BOTH[f"offset {offset}"] = lambda forge, offset=offset: forge.records(
        lambda data: data.update(offsets={"features/pooled": offset, "status": offset})
    )
for rows in ([-(10**15), 10**15], [2**70, 2**70 + 4], [4, 0], [4, 8, 12], [1, 5], ["0", "4"], [0, 3]):
    BOTH[f"rows {str(rows)[:18]}"] = lambda forge, rows=rows: forge.records(lambda data: data.update(rows=rows))
for failure in ([-1, "a", "b"], [10**20, "a", "b"], ["0", "a", "b"], [0, 1, 2], [0, "a"], 7):
    BOTH[f"failure {failure}"] = lambda forge, failure=failure: forge.records(
        lambda data: data.update(failures=[failure])
    )
for size in (-1, 2**70, 1.5, "1", None):
    BOTH[f"size {size}"] = lambda forge, size=size: forge.edit(
        "manifest.json", lambda data: data["files"]["store.json"].update(bytes=size)
    )

# Large and deep documents.
for name in ("store.json", "manifest.json", "journal/metadata.json"):
    BOTH[f"deep {name}"] = lambda forge, name=name: (forge.home / name).write_text("[" * 200_000 + "]" * 200_000)
    BOTH[f"deep in {name}"] = lambda forge, name=name: (forge.home / name).write_text(
        '{"format_version":1,"recipe":' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}"
    )
    BOTH[f"huge {name}"] = lambda forge, name=name: sparse(forge.home / name)
    BOTH[f"long number in {name}"] = lambda forge, name=name: (forge.home / name).write_text(
        '{"format_version":' + "9" * 10_000 + "}"
    )
BOTH |= {
    "huge videos.csv": lambda forge: sparse(forge.home / "videos.csv"),
    "a huge cell": lambda forge: (forge.home / "videos.csv").write_text("video_id,class,part,path\n" + "x" * 1_000_000),
    "NUL in videos.csv": lambda forge: (forge.home / "videos.csv").write_bytes(b"video_id,class,part,path\n\0,a,b,c\n"),
    "short lines in videos.csv": lambda forge: (forge.home / "videos.csv").write_text("video_id,class,part,path\nv0\n"),
    "huge run": lambda forge: (
        (forge.home / "runs").mkdir(exist_ok=True),
        sparse(forge.home / "runs/0123456789abcdef.json"),
    ),
    "sparse chunk": lambda forge: sparse(forge.chunk),
    "sparse chunk that is signed": lambda forge: (
        sparse(forge.chunk),
        forge.edit("manifest.json", lambda data: [e.update(bytes=1 << 40) for e in data["files"].values()]),
    ),
    "sparse master": lambda forge: sparse(forge.master),
}

# Links, pipes, devices.
for name in (
    "store.json",
    "videos.csv",
    "manifest.json",
    "journal/metadata.json",
    "journal/000000.000004.json",
    "CHUNK",
):

    def place(forge: Forge, name: str = name) -> Path:
        return forge.chunk if name == "CHUNK" else forge.home / name

    BOTH[f"{name} is a pipe"] = lambda forge, place=place: forge.instead(place(forge), fifo)
    BOTH[f"{name} is a folder"] = lambda forge, place=place: forge.instead(place(forge), Path.mkdir)
    BOTH[f"{name} is /dev/zero"] = lambda forge, place=place: forge.instead(
        place(forge), lambda path: path.symlink_to("/dev/zero")
    )
    BOTH[f"{name} is a link"] = lambda forge, place=place: (
        shutil.move(place(forge), forge.outside / "moved"),
        place(forge).symlink_to(forge.outside / "moved"),
    )
for name in ("journal", "claims", "staging", "runs", "CHUNKS"):
    BOTH[f"folder {name} is a link"] = lambda forge, name=name: forge.moved_out(
        forge.chunk.parent if name == "CHUNKS" else forge.home / name
    )
QUIET |= {"folder claims is a link", "folder runs is a link"}  # without content, and nobody looks there to read


def claimed(content: bytes, *, index: str = "1000000000", seconds: float = 0) -> Attack:
    def attack(forge: Forge) -> None:
        path = forge.home / "claims" / index
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + seconds))

    return attack


AGO, AHEAD = -1e6, 1e9
BOTH |= {
    "claim of an evil process": claimed(b'{"host":"x","pid":"../../../etc","started":"","token":""}', seconds=AGO),
    "claim of process 10^30": claimed(
        json.dumps({"host": "", "pid": 10**30, "started": "", "token": ""}).encode(), seconds=AGO
    ),
    "claim for ever": claimed(b'{"host":"x","pid":1,"started":"","token":""}', seconds=AHEAD),
    "deep claim": claimed(b"[" * 60_000, seconds=AGO),
    "claim on a strange chunk": claimed(b"{}", index="\u0663\u0664\u0665\u0666\u0667\u0668"),
}
QUIET |= {"claim of an evil process", "claim of process 10^30", "claim for ever", "deep claim"}

# Terminals.
for field in ("video_id", "class_name", "part", "path"):
    BOTH[f"terminal in {field}"] = lambda forge, field=field: forge.videos(**{field: TERMINAL})


def terminal_in_recipe(forge: Forge) -> None:
    forge.layout(lambda data: data.update(recipe={TERMINAL: TERMINAL, "n": [TERMINAL]}))


def terminal_in_failures(forge: Forge) -> None:
    def change(data: dict[str, Any]) -> None:
        data["failures"] = [[row, TERMINAL, TERMINAL] for row in range(*data["rows"])]

    forge.records(change)


BOTH |= {
    "terminal in recipe": terminal_in_recipe,
    "terminal in failures": terminal_in_failures,
    "terminal in a file's name": lambda forge: (forge.home / f"{TERMINAL.replace('/', '')}.py").write_text("x"),
    "terminal in a damaged manifest": lambda forge: forge.manifest(TERMINAL),
    "a module": lambda forge: (forge.home / "evil.py").write_text("raise SystemExit(9)"),
    "a name that is no text": lambda forge: Path(os.fsdecode(os.fsencode(forge.home) + b"/\xff\xfe")).write_text("x"),
    "many folders deep": lambda forge: os.makedirs(forge.home / "d" / "/".join("d" * 900)),
}
QUIET |= {f"terminal in {field}" for field in ("video_id", "class_name", "part", "path", "recipe", "failures")}
QUIET |= {"many folders deep"}

# Text tables of zarr.
for name in ("text/../../outside", "text//etc", "text/a/b", "text/..", f"text/{TERMINAL}"):
    ZARR[f"table {name[:20]!r}"] = lambda forge, name=name: forge.zarr_nodes(
        lambda nodes: nodes.update({name: nodes["text/t"]})
    )
for shape in ([1, 1, -4], [1, 1, 2**62], [1, 1, 10**400], [2, 2], [[1]], "abc", None, [1.0, 1, 4], [1, 1, 4, 10**6]):
    ZARR[f"table shape {str(shape)[:14]}"] = lambda forge, shape=shape: forge.zarr_nodes(
        lambda nodes: nodes["text/t"].update(shape=shape)
    )
for attributes in (
    {},
    None,
    [],
    {"class_names": 7, "templates": ["{}"], "encoder": {}},
    {"class_names": [{}], "templates": ["{}"], "encoder": {}},
):
    ZARR[f"table attributes {str(attributes)[:30]}"] = lambda forge, attributes=attributes: forge.zarr_nodes(
        lambda nodes: nodes["text/t"].update(attributes=attributes)
    )
ZARR |= {
    "table is a link": lambda forge: forge.instead(
        forge.home / "text/t/c.0.0.0", lambda path: path.symlink_to(forge.outside / "victim")
    ),
    "table is a pipe": lambda forge: forge.instead(forge.home / "text/t/c.0.0.0", fifo),
    "table's folder is a link": lambda forge: forge.moved_out(forge.home / "text/t"),
    "deep zarr.json": lambda forge: forge.master.write_text("[" * 200_000),
    "zarr.json is a pipe": lambda forge: forge.instead(forge.master, fifo),
}


# HDF5.
def h5(change: Callable[[Any, Forge], object]) -> Attack:
    def attack(forge: Forge) -> None:
        import h5py

        with h5py.File(forge.path, "r+") as file:
            change(file, forge)
        forge.sign()

    return attack


def with_attributes(dataset: Any) -> None:
    for key, value in (("class_names", '["walk"]'), ("templates", '["{}"]'), ("encoder", "{}")):
        dataset.attrs[key] = value


def external_storage(file: Any, forge: Forge) -> None:
    del file["text/t"]
    secret = forge.outside / "victim"
    shape = (1, 1, len(SECRET) // 4)
    with_attributes(file.create_dataset("text/t", shape, "<f4", external=[(str(secret), 0, len(SECRET))]))


def virtual_table(file: Any, forge: Forge) -> None:
    import h5py

    layout = h5py.VirtualLayout((1, 1, 8), "<f4")
    layout[:] = h5py.VirtualSource(str(forge.outside / "private.h5"), "x", (1, 1, 8))
    del file["text/t"]
    with_attributes(file.create_virtual_dataset("text/t", layout))


def replaced(name: str, link: Callable[[Forge], Any]) -> Attack:
    def change(file: Any, forge: Forge) -> None:
        del file[name]
        file[name] = link(forge)

    return h5(change)


def linked(kind: str, target: str) -> Callable[[Forge], Any]:
    def link(forge: Forge) -> Any:
        import h5py

        return h5py.SoftLink(target) if kind == "soft" else h5py.ExternalLink(str(forge.outside / "private.h5"), target)

    return link


def compressed_table(file: Any, forge: Forge) -> None:
    del file["text/t"]
    with_attributes(file.create_dataset("text/t", (1, 1, 1 << 28), "<f4", chunks=(1, 1, 1 << 20), compression="gzip"))


def table_of(**attributes: Any) -> Attack:
    return h5(lambda file, forge: file["text/t"].attrs.update(attributes))


def virtual_elsewhere(file: Any, forge: Forge) -> None:
    import h5py

    layout = h5py.VirtualLayout(file["status"].shape, "u1")
    layout[:] = h5py.VirtualSource(str(forge.outside / "private.h5"), "status", file["status"].shape)
    del file["status"]
    file.create_virtual_dataset("status", layout)


HDF5 |= {
    "table in external storage": h5(external_storage),
    "virtual table": h5(virtual_table),
    "compressed table": h5(compressed_table),
    "table is an external link": replaced("text/t", linked("external", "/x")),
    "table is a soft link": replaced("text/t", linked("soft", "/status")),
    "text is an external link": replaced("text", linked("external", "/")),
    "text is a soft link": replaced("text", linked("soft", "/features")),
    "text is a dataset": replaced("text", lambda forge: np.zeros(3)),
    "text is missing": h5(lambda file, forge: file.__delitem__("text")),
    "status is an external link": replaced("status", linked("external", "/status")),
    "status from elsewhere": h5(virtual_elsewhere),
    "deep attribute": table_of(class_names="[" * 60_000),
    "numbers as attribute": table_of(class_names=np.arange(3), templates=7),
    "names that are no texts": table_of(class_names="[{}]", templates="{}", encoder="[]"),
    "master is a pipe": lambda forge: forge.instead(forge.master, fifo),
    "parts are a link": lambda forge: forge.moved_out(forge.home),
}
