import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fsar
from fsar.splits import Place, Split, match_videos


def test_classes_match_in_any_spelling():
    split = Split("s", {"train": {"Closing something": ["3", "1"]}})
    matching = match_videos(
        split, [("1", "closing [something]"), ("2", "Closing something"), ("3", "closing_something")]
    )
    assert matching.places == [Place("train", "Closing something", 1), None, Place("train", "Closing something", 0)]
    assert matching.missing == {}
    assert matching.found == {"train": {"Closing something": 2}}


def test_a_listed_video_of_another_class_is_missing():
    matching = match_videos(Split("s", {"train": {"walk": ["1"], "run": ["2"]}}), [("1", "run"), ("2", "run")])
    assert matching.places == [None, Place("train", "run", 0)]
    assert matching.missing == {"train": {"walk": ["1"]}}


def test_kinetics_ids_match_with_and_without_their_times():
    split = Split("s", {"train": {"air drumming": ["-VtLx-mcPds_000012_000022", "-AZ9WaV2Ozk"]}})
    videos = [("-VtLx-mcPds", "air_drumming"), ("-AZ9WaV2Ozk_000060_000070", "air_drumming")]
    assert [place.order for place in match_videos(split, videos).places] == [0, 1]


def test_an_exact_id_wins_over_a_loose_one():
    split = Split("s", {"train": {"a": ["-VtLx-mcPds_000012_000022"]}})
    videos = [("-VtLx-mcPds_000099_000109", "a"), ("-VtLx-mcPds_000012_000022", "a")]
    assert match_videos(split, videos).places == [None, Place("train", "a", 0)]


def test_two_loose_candidates_are_not_guessed_between():
    split = Split("s", {"train": {"a": ["-VtLx-mcPds"]}})
    videos = [("-VtLx-mcPds_000099_000109", "a"), ("-VtLx-mcPds_000012_000022", "a")]
    assert match_videos(split, videos).missing == {"train": {"a": ["-VtLx-mcPds"]}}


def test_ids_of_class_trees_match_by_their_last_component():
    split = Split("s", {"train": {"walk": ["001"]}, "test": {"run": ["002"]}})
    matching = match_videos(split, [("walk/001", "walk"), ("run/001", "run"), ("run/002", "run")])
    assert matching.places == [Place("train", "walk", 0), None, Place("test", "run", 0)]


def test_file_names_may_stand_for_ids():
    split = Split("s", {"train": {"walk": ["walk/001.mp4", "v1.2"]}})
    assert [place.order for place in match_videos(split, [("001", "walk"), ("v1.2", "walk")]).places] == [0, 1]


def test_whole_classes_take_every_video_in_natural_order():
    matching = match_videos(Split("s", {"val": {"walk": None}}), [("clip10", "Walk"), ("clip9", "walk"), ("x", "run")])
    assert matching.places == [Place("val", "walk", 1), Place("val", "walk", 0), None]


def test_numbered_classes_match_by_id_from_either_side():
    named, numbered = [("5", "Closing something")], [("5", "train0")]
    by_name, by_number = Split("s", {"train": {"Closing something": ["5"]}}), Split("s", {"train": {"train0": ["5"]}})
    for split, videos in ((by_name, numbered), (by_number, named), (by_number, numbered)):
        assert match_videos(split, videos).places[0] is not None


def test_a_class_that_is_absent_is_missing_whole():
    matching = match_videos(fsar.load_split("ssv2-cmn"), [])
    assert sum(len(ids) for classes in matching.missing.values() for ids in classes.values()) == 10000
    assert set(matching.found["test"].values()) == {0}


@pytest.mark.parametrize("name", ["ssv2-cmn", "kinetics100-clipfsar"])
def test_a_dataset_that_is_complete_misses_nothing_in_any_order(name):
    split = fsar.load_split(name)
    listed = [
        (video_id, Place(part, class_name, k))
        for part, class_name, ids in split.classes()
        for k, video_id in enumerate(ids)
    ]
    shuffled = [listed[k] for k in np.random.default_rng(0).permutation(len(listed))]
    matching = match_videos(split, [(video_id, place.class_name.upper()) for video_id, place in shuffled])
    assert matching.places == [place for _, place in shuffled]
    assert matching.missing == {}


IDS = st.lists(st.sampled_from([f"clip{k}" for k in range(12)]), unique=True, max_size=12)


@settings(max_examples=50, deadline=None)
@given(listed=IDS.filter(bool), at_hand=IDS)
def test_found_and_missing_add_up(listed, at_hand):
    matching = match_videos(Split("s", {"test": {"a": listed}}), [(video_id, "a") for video_id in at_hand])
    assert matching.missing.get("test", {}).get("a", []) == [video_id for video_id in listed if video_id not in at_hand]
    assert matching.found["test"]["a"] == len(set(listed) & set(at_hand))
    assert [place is not None for place in matching.places] == [video_id in listed for video_id in at_hand]
