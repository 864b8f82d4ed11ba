"""One suite for every kind of place: what is pushed there is what others pull, list and open."""

import json
from pathlib import Path

import numpy as np
import pytest

import fsar
from fsar.errors import InputError
from fsar.pipeline.packs.describe import describe_pack
from fsar.pipeline.packs.verify import verify_pack
from fsar.pipeline.share import Selection, parse_address, pull, push
from fsar.pipeline.share.shelf import Wish, find, list_shelf, look
from fsar.pipeline.share.transport import NotThereError, open_transport
from fsar.pipeline.share.upstream import open_upstream
from fsar.pipeline.share.verify import verify_upstream
from fsar.pipeline.store import extend_store
from fsar.pipeline.store.verify import verify
from tests.pipeline.share.conftest import packed_sample, shared_sample
from tests.pipeline.share.places import PLACES, Place
from tests.pipeline.share.test_pull import same_bytes
from tests.pipeline.store.samples import expected, fill, videos

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # inside huggingface_hub


@pytest.fixture(scope="module", params=PLACES)
def running_place(request, tmp_path_factory):
    with PLACES[request.param](tmp_path_factory.mktemp("place")) as running:
        yield running


@pytest.fixture
def place(running_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in running_place.environment.items():
        monkeypatch.setenv(name, value)
    if running_place.name == "hub":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # this one is on loopback
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return running_place


@pytest.fixture(params=[".zarr", ".h5"])
def mine(request, tmp_path: Path, running_place: Place) -> Path:
    return shared_sample(tmp_path / f"{request.node.originalname[5:25]}{request.param}")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_sample(tmp_path_factory.mktemp("pack"))


def there(place: Place, store: Path):
    return parse_address(f"{place.prefix}/{store.name}")


def pushed(place: Place, store: Path):
    return push(store, parse_address(place.push_prefix))


def test_what_is_pushed_is_what_is_pulled(place, mine, tmp_path):
    report = pushed(place, mine)
    assert report.n_relative == 0
    assert report.identity == fsar.open_store(mine).identity
    out = tmp_path / "out" / mine.name
    copy = pull(there(place, mine), out)
    assert copy.identity == report.identity
    assert same_bytes(mine, out)
    assert verify(out).problems == []
    again = pushed(place, mine)
    assert (again.n_files, again.identity) == (0, report.identity)
    upstream = open_upstream(there(place, mine))
    assert verify_upstream(upstream, lambda n_bytes: None).problems == []


def test_stores_are_opened_in_part(place, mine, tmp_path):
    pushed(place, mine)
    opened = fsar.open_store(str(there(place, mine)))
    np.testing.assert_array_equal(opened.read("map", [7, 0], views=None), expected("map")[[7, 0]])
    assert opened.text_tables() == ["clip"]
    out = tmp_path / "out" / mine.name
    pull(there(place, mine), out, Selection(taps=("pooled",), parts=("test",)))
    np.testing.assert_array_equal(fsar.open_store(out).read("pooled", [9], views=None), expected("pooled")[9:])


def test_packs_of_frames_travel_too(place, pack, tmp_path):
    report = pushed(place, pack)
    assert report.identity == describe_pack(pack)["identity"]
    copy = pull(there(place, pack), tmp_path / "out" / pack.name)
    assert copy.is_whole
    assert same_bytes(pack, copy.path)
    assert verify_pack(copy.path).problems == []
    assert pushed(place, pack).n_files == 0
    assert verify_upstream(open_upstream(there(place, pack)), lambda n_bytes: None).problems == []
    (entry,) = [entry for entry in list_shelf(parse_address(place.prefix)) if entry.name == pack.name]
    assert (entry.identity, entry.parts, entry.n_failed) == (report.identity, {"": 2}, 1)
    assert entry.recipe_line.startswith("3 frames by uniform-center")
    assert pack.name not in {match.store.name for match in find(parse_address(place.prefix), Wish())}
    json.dumps(entry.as_json())


def test_versions_stand_side_by_side(place, mine, tmp_path):
    first = pushed(place, mine)
    with extend_store(mine, [*videos(), *videos(2, prefix="new")]) as writer:
        fill(writer)
        writer.seal()
    rows = [video for video in fsar.open_store(mine).videos if video.path.startswith("/")]
    second = pushed(place, mine)
    assert rows
    assert second.n_relative == len(rows)
    assert look(there(place, mine)).identity == second.identity
    assert look(there(place, mine).pinned(first.identity)).identity == first.identity
    assert fsar.open_store(f"{there(place, mine)}#sha256={first.identity}").n_videos == 10


def test_the_shelf_is_listed_and_searched(place, mine):
    report = pushed(place, mine)
    shelf = parse_address(place.prefix)
    (entry,) = [entry for entry in list_shelf(shelf) if entry.name == mine.name]
    assert entry.identity == report.identity
    assert entry.parts == {"train": 4, "test": 5}
    assert entry.n_failed == 1
    assert entry.pushed.startswith("20")
    assert entry.recipe_line.startswith("random:tiny")
    assert mine.name in {match.store.name for match in find(shelf, Wish("random:tiny", ("map",)))}
    assert not find(shelf, Wish("open_clip:ViT-B-16"))
    assert not find(shelf, Wish("tiny", ("tokens.3",)))
    json.dumps(entry.as_json())


def test_objects(place, tmp_path):
    """The verbs that everything else is made of."""
    address = parse_address(place.push_prefix)
    transport = open_transport(address)
    location = f"{address.location}/verbs/a/b"
    data = np.random.default_rng(0).bytes(300_000)
    assert transport.size(location) is None
    with pytest.raises(NotThereError), transport.get(location) as body:
        next(body.blocks)
    transport.put(location, data)
    with pytest.raises(FileExistsError):
        transport.put(location, b"other")
    assert transport.size(location) == len(data)
    (tmp_path / "file").write_bytes(data)
    transport.put(location, tmp_path / "file", replace=True)
    reading = open_transport(parse_address(place.prefix))
    seen = location.replace(address.location, place.prefix)
    with reading.get(seen) as body:
        assert (body.start, body.n_bytes) == (0, len(data))
        validator = body.validator
        assert b"".join(body.blocks) == data
    with reading.get(seen, start=1000, resume=validator) as body:
        assert data[body.start :] == b"".join(body.blocks)
        knows_ranges = validator and place.name not in (
            "rclone s3",
            "rclone gs",
        )  # which give no part of an object under a condition
        assert body.start == (1000 if knows_ranges else 0)
    with reading.get(seen, start=1000, resume='"something-else"') as body:
        assert body.start == 0
        assert b"".join(body.blocks) == data
    assert reading.children(f"{place.prefix}/verbs") == ["a/"]


def test_a_place_without_stores(place):
    with pytest.raises(FileNotFoundError, match="no finished store"):
        open_upstream(parse_address(f"{place.prefix}/nothing.zarr"))
    with pytest.raises(InputError, match="names no store"):
        open_upstream(parse_address(f"{place.prefix}/nothing"))
