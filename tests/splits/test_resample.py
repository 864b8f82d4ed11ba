"""Folds of a benchmark's classes, and classes that mean the same under other names."""

from collections import Counter

import pytest

from fsar.errors import InputError
from fsar.splits import Split, list_splits, load_split
from fsar.splits.alike import alike_classes, words_of
from fsar.splits.resample import resample_split


@pytest.mark.parametrize("name", list_splits())
def test_folds_keep_sizes_classes_and_videos(name):
    split = load_split(name)
    folds = resample_split(split, 5)
    everything = {class_name: ids for _, class_name, ids in split.classes()}
    for fold in folds:
        assert {part: len(of) for part, of in fold.parts.items()} == {part: len(of) for part, of in split.parts.items()}
        assert {class_name: ids for _, class_name, ids in fold.classes()} == everything
    assert len({frozenset(fold.parts["test"]) for fold in folds}) == 5
    tested = Counter(class_name for fold in folds for class_name in fold.parts["test"])
    assert max(tested.values()) - min(tested.get(name, 0) for name in everything) <= 1 + 5 * len(
        split.parts["test"]
    ) // len(everything)


def test_folds_depend_on_the_seed_alone():
    split = load_split("ssv2-cmn")
    assert [f.sha256 for f in resample_split(split, 3)] == [f.sha256 for f in resample_split(split, 3)]
    assert resample_split(split, 3)[0].sha256 != resample_split(split, 3, seed=1)[0].sha256


def test_what_cannot_be_folded_is_said():
    split = load_split("ssv2-cmn")
    with pytest.raises(InputError, match="from 2 to the 100 classes"):
        resample_split(split, 101)
    with pytest.raises(InputError, match="has 1 test classes"):
        resample_split(Split("mine", {"train": {"a": None, "b": None}, "test": {"c": None}}), 2)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("riding a bike", "ride_bike", "same"),
        ("biking", "RideBike", "part"),
        ("Shooting basketball", "shoot basketball", "same"),
        ("BasketballDunk", "dunking basketball", "same"),
        ("playing guitar", "PlayingGuitar", "same"),
        ("running", "jog", "same"),
        ("cartwheeling", "cartwheel", "same"),
        ("playing guitar", "playing trumpet", None),
        ("kick", "kick ball", "part"),
    ],
)
def test_other_spellings_of_one_action_are_found(first, second, kind):
    found = alike_classes([first], [second])
    assert [pair.kind for pair in found] == ([kind] if kind else [])


def test_published_splits_share_what_is_known_of_them():
    """Kinetics trains on what HMDB51 tests: e.g. situps and pushups are there under both."""
    seen = load_split("kinetics100-cmn")
    pairs = alike_classes([*seen.parts["train"], *seen.parts["val"]], load_split("hmdb51-arn").parts["test"])
    assert pairs
    assert all(words_of(pair.first) & words_of(pair.second) for pair in pairs)
