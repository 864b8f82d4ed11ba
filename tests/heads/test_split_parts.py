"""Which videos of a store can be drawn: duplicates, and classes held out for validation."""

import numpy as np
import pytest

from fsar.errors import InputError, count_of
from fsar.heads.episodes.split_parts import store_parts
from fsar.pipeline.store.duplicates import groups_of_equal
from tests.heads.stores import PARTS, make_store, ordered_features, ordered_store, rows_of


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """Rows 0 and 3 are one file (both of class a0), 1 and 61 too (train and val), 2 and 5 differ, 6 has failed."""
    videos = rows_of(PARTS, 6)
    hashes = list(range(1, len(videos) + 1))
    hashes[3], hashes[61], hashes[6] = hashes[0], hashes[1], hashes[5]
    features = {"pooled": ordered_features(videos)}
    return make_store(tmp_path_factory.mktemp("store") / "s.zarr", features, videos, hashes=hashes, failed=[6])


def test_a_copy_is_never_drawn_beside_its_original(doubled):
    parts = store_parts(doubled)
    assert doubled.duplicates() == [[0, 3], [1, 61]]
    assert parts.pool("train").rows_of(0).tolist() == [0, 1, 2, 4, 5]
    assert parts.pool("val").rows_of(0).tolist() == list(range(60, 66))  # the other part keeps its own
    assert parts.duplicates == {"a0-3": "a0-0"}
    assert any("a0-3 is a0-0" in note for note in parts.notes())
    assert store_parts(doubled, allow_duplicates=True).pool("train").counts[0] == 6


def test_stores_that_do_not_know_their_sources_have_no_duplicates(tmp_path):
    assert ordered_store(tmp_path / "s.zarr", n_videos=2).duplicates() == []
    assert groups_of_equal(np.zeros((0, 32), np.uint8), np.zeros(0, np.int64)) == []


def test_a_share_of_the_training_classes_becomes_the_validation_part(tmp_path):
    parts = {"train": PARTS["train"], "test": PARTS["test"]}
    videos = rows_of(parts, 3)
    whole = store_parts(make_store(tmp_path / "s.zarr", {"pooled": ordered_features(videos)}, videos))
    held = whole.with_val_share(0.3)
    train, val = held.pool("train"), held.pool("val")
    assert len(val.class_names) == 3
    assert sorted([*train.class_names, *val.class_names]) == sorted(PARTS["train"])
    assert not set(train.rows.tolist()) & set(val.rows.tolist())
    assert whole.with_val_share(0.3).pool("val").class_names == val.class_names
    for name in val.class_names:
        place = whole.pool("train").class_names.index(name)
        own = whole.pool("train").rows_of(place)
        assert val.rows_of(val.class_names.index(name)).tolist() == own.tolist()


def test_classes_held_out_stay_when_others_join(tmp_path):
    few = {"train": PARTS["train"][:8], "test": PARTS["test"]}
    held = []
    for number, parts in enumerate((few, {**few, "train": PARTS["train"]})):
        videos = rows_of(parts, 2)
        store = make_store(tmp_path / f"{number}.zarr", {"pooled": ordered_features(videos)}, videos)
        held.append(set(store_parts(store).with_val_share(0.5).pool("val").class_names))
    assert len(held[0] - held[1]) <= 1  # only where a newcomer comes before it


@pytest.mark.parametrize(
    ("share", "message"),
    [(0.0, "between 0 and 1"), (1.0, "between 0 and 1"), (0.95, "leave fewer than 2 to train on")],
)
def test_a_share_that_leaves_nothing_is_refused(tmp_path, share, message):
    videos = rows_of({"train": PARTS["train"]}, 2)
    store = make_store(tmp_path / "s.zarr", {"pooled": ordered_features(videos)}, videos)
    with pytest.raises(InputError, match=message):
        store_parts(store).with_val_share(share)


def test_a_split_with_a_validation_part_keeps_it(doubled):
    with pytest.raises(InputError, match="has a validation part: leave --val-share out"):
        store_parts(doubled).with_val_share(0.2)


def test_numbers_have_their_nouns():
    assert [count_of(n, "video") for n in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]
    assert count_of(2, "class") == "2 classes"
    assert count_of(1234, "entry", "entries") == "1,234 entries"
