import pytest

from fsar.errors import InputError
from fsar.splits import import_lists
from fsar.splits.published import names_like, read_class_names, rename_classes
from fsar.splits.split import Split


@pytest.fixture
def lists(tmp_path):
    def write(**files):
        paths = []
        for name, text in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_text(text)
            paths.append(path)
        return paths

    return write


def test_trx_lists(lists):
    paths = lists(
        trainlist03__txt="brush_hair/a b_1\ncatch/c\nbrush_hair/d\n",
        vallist03__txt="run/e\n",
        testlist03__txt="sit/f\n",
    )
    split = import_lists(paths, name="trx")
    assert split.parts == {
        "train": {"brush_hair": ["a b_1", "d"], "catch": ["c"]},
        "val": {"run": ["e"]},
        "test": {"sit": ["f"]},
    }


def test_numbered_lists_are_ordered_by_class_number_and_named(lists):
    paths = lists(train_few_shot__txt="train10/78687\ntrain2/5\n", names__json='{"train2": "Closing something"}')
    split = rename_classes(import_lists(paths[:1], name="clip-fsar"), read_class_names(paths[1]))
    assert split.parts["train"] == {"Closing something": ["5"], "train10": ["78687"]}


def test_names_that_join_classes_or_fit_none_are_refused():
    split = Split("s", {"train": {"train0": ["1", "2"], "train1": ["3"]}, "test": {"test0": ["9"]}})
    for second in ("foo", "FOO_"):
        with pytest.raises(InputError, match="'train0' and 'train1' would both be named"):
            rename_classes(split, {"train0": "foo", "train1": second})
    with pytest.raises(InputError, match="names for 'bogus', but the lists hold 'train0'"):
        rename_classes(split, {"bogus": "foo"})
    known = Split("known", {"train": {"walk": ["1", "2", "3"]}, "test": {"run": ["9"]}})
    with pytest.raises(InputError, match="would both be named 'walk'"):
        rename_classes(split, names_like(split, known))


def test_path_lists_take_class_and_id_from_the_path(lists):
    text = "train1//val_256/arm_wrestling/x.mp4\ntrain0//train_256/air_drumming/-VtLx-mcPds_000012_000022.mp4\n"
    split = import_lists(lists(train_few_shot__txt=text), name="kinetics")
    assert split.parts["train"] == {"air_drumming": ["-VtLx-mcPds_000012_000022"], "arm_wrestling": ["x"]}


def test_a_folder_of_several_classes_does_not_name_them(lists):
    text = "test1//videos/x.mp4\ntest0//videos/y.mp4\ntest1//videos/z.mp4\n"
    split = import_lists(lists(test_few_shot__txt=text), name="flat")
    assert split.parts["test"] == {"test0": ["y"], "test1": ["x", "z"]}


def test_hcl_class_files_give_order_and_must_agree(lists):
    paths = lists(train__list="b c/1\na,d/2", train_class__txt="a,d\nb c\n")
    assert list(import_lists(paths, name="hcl").parts["train"]) == ["a,d", "b c"]
    paths = lists(train__list="b/1\n", train_class__txt="a\nb\n")
    with pytest.raises(InputError, match="class 'a' is in only one of class file and video list"):
        import_lists(paths, name="hcl")


def test_class_files_alone_mean_every_video(lists):
    assert import_lists(lists(test_class__txt="run\nsit\n"), name="hcl").parts["test"] == {"run": None, "sit": None}


def test_several_csv_files_combine(lists):
    paths = lists(one__csv="part,class,video_id\ntrain,walk,1\n", two__csv="part,class,video_id\ntest,run,*\n")
    assert import_lists(paths, name="both").parts == {"train": {"walk": ["1"]}, "val": {}, "test": {"run": None}}


def test_the_part_may_be_given(lists):
    assert import_lists(lists(mine__txt="run/1\n"), name="mine", part="val").parts["val"] == {"run": ["1"]}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("trainlist__txt", "run/1\n\nwalk\n", r"trainlist\.txt, line 3: must be class/video, got 'walk'"),
        ("trainlist__txt", "run/1/2\n", "line 1: must be class/video"),
        ("trainlist__txt", "run/1\nrun/1\n", r"line 2: video '1' is listed already in .*line 1"),
        ("trainlist__txt", "run/1\nwalk/1\n", "video '1' is listed twice"),
        ("trainlist__txt", "test3/1\n", "line 1: a test class in a list of train"),
        ("trainlist__txt", "train3//x.mp4\n", "line 1: must be like train0//folder/clip.mp4"),
        ("trainlist__txt", "train3//a/x.mp4\ntrain3//b/y.mp4\n", "class number 3 is 'a' elsewhere, here 'b'"),
        ("mine__txt", "run/1\n", "neither the line nor the file's name says train, val or test: give --part"),
        ("trainlist__txt", " \n", "is empty"),
    ],
)
def test_a_malformed_list_is_refused_with_its_line(lists, file, text, message):
    with pytest.raises(InputError, match=message):
        import_lists(lists(**{file: text}), name="bad")


def test_numbered_classes_are_named_by_the_split_that_holds_their_videos():
    known = Split("known", {"train": {"walk": ["1", "2"], "run": ["3"]}})
    assert names_like(Split("s", {"test": {"test7": ["3"], "sit": ["9"]}}), known) == {"test7": "run"}
    with pytest.raises(InputError, match="videos of class 'val0' are not in split 'known': give --names"):
        names_like(Split("s", {"val": {"val0": ["4"]}}), known)
    with pytest.raises(InputError, match="are in 2 classes in split 'known'"):
        names_like(Split("s", {"val": {"val0": ["1", "3"]}}), known)


def test_class_names_from_lines(lists):
    (path,) = lists(classid2name__txt="train0 bending sth\ntest1,closing, slowly\n")
    assert read_class_names(path) == {"train0": "bending sth", "test1": "closing, slowly"}
    with pytest.raises(InputError, match="line 1: must be like"):
        read_class_names(lists(bad__txt="bending\n")[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ApplyEyeMakeup/v_A_g08_c01.avi 1\nArchery/v_B_g08_c01.avi 3\n",
            {"ApplyEyeMakeup": ["v_A_g08_c01"], "Archery": ["v_B_g08_c01"]},
        ),
        (
            "ApplyEyeMakeup/v_A_g01_c01.avi\nArchery/v_B_g01_c01.avi\n",
            {"ApplyEyeMakeup": ["v_A_g01_c01"], "Archery": ["v_B_g01_c01"]},
        ),
        (
            "ApplyEyeMakeup/v_A_g08_c01 120 0\nArchery/v_B 99 1\n",
            {"ApplyEyeMakeup": ["v_A_g08_c01"], "Archery": ["v_B"]},
        ),
        ("data/rawframes/Clean and Jerk/v 1\t30 7\n", {"Clean and Jerk": ["v 1"]}),
        ("videos/run/x.y.MP4 4\nvideos/sit/z.webm 5\n", {"run": ["x.y"], "sit": ["z"]}),
        ("run/a 1\nrun/b\n", {"run": ["a 1", "b"]}),  # not every line has a number: it belongs to the name
        ("run/a.mp4\nrun/b\n", {"run": ["a", "b"]}),
        ("1 ApplyEyeMakeup\n2 Archery\n", {"ApplyEyeMakeup": None, "Archery": None}),
    ],
)
def test_lists_of_ucf101_and_mmaction(lists, text, expected):
    assert import_lists(lists(trainlist01__txt=text), name="mine").parts["train"] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v_A_g08_c01.avi 1\n", r"line 1: a video without the folder of its class: must be class/video, got 'v_A"),
        ("v_A_g08_c01.avi\n", "line 1: a video without the folder of its class"),
        (
            "run/a.mp4 1\nb.mp4 1\n",
            r"line 2: a video without the folder of its class: must be class/video, got 'b\.mp4'",
        ),
        ("videos/a.mp4 1\nvideos/b.mp4 2\n", r"line 2: label 2 in folder 'videos', which has label 1 in .*line 1"),
    ],
)
def test_lists_that_name_no_class_are_refused_with_their_line(lists, text, message):
    with pytest.raises(InputError, match=message):
        import_lists(lists(trainlist01__txt=text), name="bad")


def test_parts_and_headings_may_have_capitals_and_longer_words(lists):
    paths = lists(mine__csv="Part,Class,Video_ID\nTraining,walk,1\nVALIDATION,run,2\nTest,sit,*\n")
    assert import_lists(paths, name="mine").parts == {
        "train": {"walk": ["1"]},
        "val": {"run": ["2"]},
        "test": {"sit": None},
    }


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(lists, separator, name):
    paths = lists(mine__csv=separator.join(("part", "class", "video_id")) + "\n")
    with pytest.raises(InputError, match=f"it is separated by {name}: write commas"):
        import_lists(paths, name="mine")
