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
