import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.splits import Split, class_key, read_split_csv
from fsar.splits.compare import compare_splits


def write(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Closing [something]", "closing_something"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("hurling (sport)", "hurling_(sport)"),
        ("Tilting something so it doesn't fall", "tilting [something] so it doesn't fall"),
    ],
)
def test_spellings_of_one_class_have_one_key(one, other):
    assert class_key(one) == class_key(other)


def test_different_classes_have_different_keys():
    assert class_key("Moving something up") != class_key("Moving something down")
    assert class_key("+") != class_key("-")


def test_parts_are_always_the_three_in_order():
    split = Split("mine", {"test": {"b": ["2"]}, "train": {"a": None}})
    assert list(split.parts) == ["train", "val", "test"]
    assert [(part, name) for part, name, _ in split.classes()] == [("train", "a"), ("test", "b")]


def test_a_class_in_two_parts_is_refused():
    with pytest.raises(InputError, match=r"class 'Run Fast' of test is 'run_fast' of train again"):
        Split("mine", {"train": {"run_fast": None}, "test": {"Run Fast": None}})


def test_a_video_in_two_parts_is_refused():
    with pytest.raises(InputError, match=r"video '7' is listed twice, in train class 'a' and in test class 'b'"):
        Split("mine", {"train": {"a": ["7"]}, "test": {"b": ["7"]}})


def test_a_video_twice_in_one_class_is_refused():
    with pytest.raises(InputError, match=r"video '7' is listed twice"):
        Split("mine", {"train": {"a": ["7", "7"]}})


def test_counts_are_checked():
    with pytest.raises(InputError, match=r"train class 'a': 1 videos, must be 2"):
        Split("mine", {"train": {"a": ["7"]}}, expected_counts={"train": {"a": 2}})


def test_a_user_csv_is_read(tmp_path):
    split = read_split_csv(
        write(tmp_path, "\ufeffpart,class,video_id\ntrain,walk,1\ntrain,walk,2\n\ntest,run,*\ntest,sit,\n")
    )
    assert split.parts == {"train": {"walk": ["1", "2"]}, "val": {}, "test": {"run": None, "sit": None}}
    assert split.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part,class\ntrain," + "x" * 200_000, "not CSV: field larger than"),
        ("train,walk,1\n", r"mine\.csv, line 1: no column 'part'; the header must have part,class, got 'train,walk,1'"),
        ("", "the header must have part,class$"),
        ("part,class,video_id\nvald,walk,1\n", r"line 2: unknown part 'vald': did you mean val"),
        ("part,class,video_id\ntrain,walk,1\ntrain,,1\n", "line 3: the class is empty"),
        ("part,class,video_id\ntrain,walk,1,9\n", "line 2: more cells than the header has"),
        ("part,class,video_id\ntrain,walk,1\ntrain,walk,*\n", "line 3: class 'walk' is given whole and by its videos"),
        ("part,class,video_id\n", "has no classes"),
    ],
)
def test_a_malformed_csv_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_split_csv(write(tmp_path, text))


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"part\xff\xfe")
    with pytest.raises(InputError, match="must be UTF-8 text: byte 4 is not"):
        read_split_csv(path)


NAMES = st.text(st.sampled_from("abcdefgh, \"';é"), min_size=1, max_size=6).filter(lambda name: name.strip() == name)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=3), min_size=1, max_size=5))
def test_csv_keeps_any_split(tmp_path_factory, classes):
    try:
        split = Split(
            "any", {"val": {f"{name}": [f"{name}/{v}" for v in sorted(ids)] for name, ids in classes.items()}}
        )
    except InputError:  # two of the drawn names have one key
        return
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_text(split.to_csv())
    assert read_split_csv(path).sha256 == split.sha256


def test_a_comparison_names_what_leaks():
    first = Split("first", {"train": {"walk": ["1", "2"], "run": None}, "test": {"sit": ["5"]}})
    second = Split("second", {"train": {"sit": ["5"]}, "test": {"Walk": ["2", "3"]}})
    comparison = compare_splits(first, second)
    assert comparison.classes["train", "test"] == ["walk"]
    assert comparison.videos["train", "test"] == 1
    assert comparison.leaks == [("train", "test"), ("test", "train")]
    assert "1 classes (walk): train in first, test in second" in comparison.to_text()
    assert compare_splits(first, first).to_text() == "first and first are equal"
