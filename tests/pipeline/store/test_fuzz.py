"""Whatever stands in a store's documents, checksums made right: reading ends well or in one clear error."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsar.cli.store_text import info_text, verify_text
from fsar.errors import InputError
from fsar.pipeline.store import list_formats, open_store
from fsar.pipeline.store.describe import describe_store
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.format.names import checked_name, inside
from fsar.pipeline.store.format.schema import check_entry
from fsar.pipeline.store.journal.publish import redo
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.hostile import Forge

NUMBERS = st.integers() | st.sampled_from([2**31, 2**63, -(2**63), 10**40, 0, 1, -1]) | st.floats() | st.booleans()
NAMES = st.text(max_size=12) | st.sampled_from(
    ["..", "../x", "/etc/passwd", "store.json", "a/b", "map", "\x1b[2J", "\ud800"]
)
JSON = st.recursive(
    st.none() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module", params=list_formats())
def forge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    folder = tmp_path_factory.mktemp("fuzz")
    path = samples.write_sample(folder / f"a{request.param}", samples.videos(5))
    (folder / "outside").mkdir()
    return Forge(path, folder / "outside")


def use(path: Path) -> None:
    """Everything that reads; only the documented errors may come out."""

    def reads() -> None:
        store = open_store(path, allow_unsealed=True)
        store.failures()
        store.read("map", range(store.n_videos))
        store.open_plain()

    for action in (reads, lambda: info_text(describe_store(path)), lambda: verify_text(path, verify(path))):
        with contextlib.suppress(InputError, FileNotFoundError, IsADirectoryError):
            action()


def changed(data: Any, choose: Callable[[int], int], value: Any) -> Any:
    """Return the document with one place in it replaced, added or removed."""
    keys = list(data) if isinstance(data, dict) else list(range(len(data))) if isinstance(data, list) else []
    if not keys or choose(4) == 0:
        return value
    key = keys[choose(len(keys))]
    copy = dict(data) if isinstance(data, dict) else list(data)
    if choose(8) == 0:
        del copy[key]
    elif choose(8) == 0 and isinstance(copy, dict) and isinstance(value, str):
        copy[value] = copy.pop(key)
    else:
        copy[key] = changed(copy[key], choose, value)
    return copy


VALUES = (
    *(None, True, 0, 1, -1, 3, 1.5, 2**31, 2**63, 10**40, "", "../x", "/etc/passwd", "float64", "\x1b[2J"),
    *([], [0], [-1, 0, 1], [2**62, 2**62], [10**40], ["a"], [[]], {}, {"a": 1}, {"../x": {}}, {"a/b": 1}),
)
"""What else can stand where a document of ours has something."""


def places(document: Any, *, most: int = 3) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything in a document; of long lists and objects, to the first few."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items) if len(document) < 12 else list(items)[:most]:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in places(value))


def put(document: Any, place: tuple[Any, ...], change: Callable[[Any, Any], object]) -> None:
    """Do something to a document at a place: `change` is called with what holds it, and its key there."""
    for key in place[:-1]:
        document = document[key]
    change(document, place[-1])


def changes() -> list[Callable[[Any, Any], object]]:
    """Return everything that is done at a place: another value, another key, nothing at all."""
    others = [lambda holder, key, value=value: holder.__setitem__(key, value) for value in VALUES]
    keys = [
        lambda holder, key, name=name: (
            holder.__setitem__(name, holder.pop(key)) if isinstance(holder, dict) else holder.append(name)
        )
        for name in ("../x", "a/b", "\x1b[2J", "STORE.json", "c" * 300)
    ]
    return [*others, *keys, lambda holder, key: holder.__delitem__(key)]


DOCUMENTS = ("store.json", "manifest.json", "journal/metadata.json", "journal/000000.000003.json")


@pytest.mark.parametrize("name", DOCUMENTS)
@quick
@given(data=st.data(), value=JSON)
def test_documents(forge: Forge, name: str, data: st.DataObject, value: Any) -> None:
    file = forge.home / name
    before = {
        path: path.read_bytes() for path in [file, forge.home / "manifest.json", *forge.home.glob("journal/*.json")]
    }

    def forged(document: dict[str, Any]) -> None:
        new = changed(document, lambda n: data.draw(st.integers(0, n - 1)), value)
        document.clear()
        document.update(new if isinstance(new, dict) else {"x": new})

    try:
        with contextlib.suppress(ValueError, UnicodeEncodeError):  # what canonical JSON cannot say
            forge.edit(name, forged)
            if name == "store.json":
                forge.sign()
        use(forge.path)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def content_of(forge: Forge, name: str) -> dict[str, Any]:
    document = json.loads((forge.home / name).read_bytes())
    del document["sha256"]
    return document


def forged_at(forge: Forge, name: str, place: tuple[Any, ...], change: Callable[[Any, Any], object]) -> None:
    """Change a document at one place, make all checksums right, read everything, and restore it."""
    before = {path: path.read_bytes() for path in [forge.home / name, *forge.home.glob("*.json")]}
    before |= {path: path.read_bytes() for path in forge.home.glob("journal/*.json")}
    try:
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, OSError):  # what cannot be forged
            forge.edit(name, lambda document: put(document, place, change))
            if name != "manifest.json":
                forge.sign()
        use(forge.path)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@pytest.mark.parametrize("name", DOCUMENTS)
@quick
@given(data=st.data())
def test_any_place(forge: Forge, name: str, data: st.DataObject) -> None:
    """Values that a field could be mistaken for, each where it does harm."""
    place = data.draw(st.sampled_from(list(places(content_of(forge, name)))))
    forged_at(forge, name, place, data.draw(st.sampled_from(changes())))


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_place(forge: Forge, name: str) -> None:
    for place in places(content_of(forge, name)):
        for change in changes():
            forged_at(forge, name, place, change)


@quick
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_bytes_of_any_kind(forge: Forge, content: bytes) -> None:
    for name in (*DOCUMENTS, "videos.csv", "failures.csv"):
        file = forge.home / name
        before = file.read_bytes()
        try:
            file.write_bytes(content)
            use(forge.path)
        finally:
            file.write_bytes(before)


@quick
@given(
    rows=st.lists(st.lists(NAMES.filter(lambda text: "\ud800" not in text), max_size=7), max_size=6),
    n_videos=st.integers(0, 6),
)
def test_lists_of_videos(forge: Forge, rows: list[list[str]], n_videos: int) -> None:
    file = forge.home / "videos.csv"
    before = {path: path.read_bytes() for path in forge.home.rglob("*") if path.is_file()}
    try:
        file.write_text("\n".join(["video_id,class,part,path", *(",".join(row) for row in rows)]))
        with contextlib.suppress(ValueError):
            forge.layout(lambda data: data.update(n_videos=n_videos))
        use(forge.path)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@quick
@given(staging=NAMES | st.just("metadata-1-deadbeef"), replaces=JSON, steps=JSON)
def test_intents(forge: Forge, staging: str, replaces: Any, steps: Any) -> None:
    from fsar.pipeline.store.format.identity import checked_json

    before = samples.bytes_of(forge.path.parent)
    intent = forge.home / "journal/metadata.intent"
    try:
        with contextlib.suppress(ValueError):
            intent.write_bytes(checked_json({"staging": staging, "replaces": replaces, "steps": steps}))
        with contextlib.suppress(InputError):
            redo(StoreFiles.at(forge.path), "metadata")
        use(forge.path)
    finally:
        intent.unlink(missing_ok=True)
        shutil.rmtree(forge.home / "staging", ignore_errors=True)
    assert samples.bytes_of(forge.path.parent) == before


@pytest.mark.parametrize(("token", "name"), [("metadata-1-deadbeef", "evil.py"), ("x", "videos.csv")])
def test_an_intent_that_no_writer_made_moves_nothing(forge: Forge, token: str, name: str) -> None:
    before = samples.bytes_of(forge.home)
    try:
        forge.stage(name, token)
        forge.intent(token, name)
        with pytest.raises(InputError, match="fsar did not write it"):
            redo(StoreFiles.at(forge.path), "metadata")
    finally:
        (forge.home / "journal/metadata.intent").unlink(missing_ok=True)
        shutil.rmtree(forge.home / "staging", ignore_errors=True)
    assert samples.bytes_of(forge.home) == before


def test_a_list_of_other_videos_does_not_open(tmp_path: Path) -> None:
    path = samples.write_sample(tmp_path / "a.zarr", samples.videos(5))
    text = (path / "videos.csv").read_text()
    (path / "videos.csv").write_text(text.replace(samples.videos(5)[0].video_id, "other", 1))
    with pytest.raises(InputError, match="does not list the videos that the store was made for"):
        open_store(path)


def test_taps_that_are_one_on_some_disks_do_not_open(forge: Forge) -> None:
    before = (forge.home / "store.json").read_bytes()
    try:
        forge.edit("store.json", lambda data: data["taps"].update(MAP=data["taps"]["map"]))
        with pytest.raises(InputError, match="one name on many disks"):
            open_store(forge.path)
    finally:
        (forge.home / "store.json").write_bytes(before)


@pytest.mark.parametrize(
    "entry", [{"sha256": "0" * 63, "bytes": 1}, {"sha256": "G" * 64, "bytes": 1}, {"sha256": "0" * 64, "bytes": -1}]
)
def test_an_entry_is_a_hash_and_a_size(entry: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a sha256 and a size"):
        check_entry(entry, "the record")


@given(st.text() | NAMES)
def test_a_name_stays_inside_or_is_refused(name: str) -> None:
    home = Path("/somewhere/store.zarr")
    try:
        path = inside(home, checked_name(name))
    except InputError:
        return
    assert path.is_relative_to(home)
    assert path != home
    assert ".." not in path.parts
    assert name.isascii()
    assert name.isprintable()
