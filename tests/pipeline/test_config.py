import pytest

from fsar.cli.run_file import STAGES, Key, Stage, read_config
from fsar.errors import InputError


def whole_number(text):
    if not text.isdigit():
        raise InputError(f"{text!r} is not a whole number")


KEYS = {
    key.name: key
    for key in (
        Key("catalog", is_argument=True, required=True, is_path=True),
        Key("names", is_argument=True, takes_many=True),
        Key("out", required=True, is_path=True),
        Key("frames", check=whole_number),
        Key("tap", takes_many=True),
        Key("short-side"),
        Key("pair", n_values=2, is_path=True),
        Key("quiet", is_flag=True),
        Key("flip", is_flag=True, off="--no-flip"),
    )
}


@pytest.fixture
def read(tmp_path):
    def read_text(text, *overrides):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return read_config(path, lambda stage: KEYS, overrides)

    return read_text


def test_a_table_becomes_a_command_line(read):
    text = """
        [encode]
        tap = ["pooled", "map"]
        out = "a b.zarr"
        catalog = "catalog.csv"
        frames = 8
        short_side = 240
        names = [1, 2]
        quiet = true
        flip = false
    """
    line = "catalog.csv|1|2|--out|a b.zarr|--frames|8|--tap|pooled|--tap|map|--short-side|240|--quiet|--no-flip"
    assert read(text) == [Stage("encode", tuple(line.split("|")))]


def test_an_option_of_two_values_is_written_once(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '[encode]\ncatalog = "c"\nout = "o"\npair = ["a", "b"]'
    assert read(text)[0].arguments[-3:] == ("--pair", "a", "b")
    here = ("--pair", str(tmp_path / "x"), str(tmp_path / "y"))
    assert read(text, 'encode.pair=["x", "y"]')[0].arguments[-3:] == here


def test_flags_that_are_off_leave_no_trace(read):
    assert read('[encode]\ncatalog = "c"\nout = "o"\nquiet = false')[0].arguments == ("c", "--out", "o")


def test_stages_run_in_pipeline_order_and_repeat_in_file_order(read):
    table = '\ncatalog = "c"\nout = "{}"\n'
    text = "".join(
        f"[[{name}]]" + table.format(k) for k, name in enumerate(("eval", "train", "train", "index", "synth"))
    )
    assert [(stage.name, stage.arguments[-1]) for stage in read(text)] == [
        ("synth", "4"),
        ("index", "3"),
        ("train", "1"),
        ("train", "2"),
        ("eval", "0"),
    ]
    assert STAGES.index("encode") < STAGES.index("text") < STAGES.index("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[encode\n", r"run\.toml is not TOML: .*line 1"),
        ("", "names no stage"),
        ("[encod]\n", "unknown stage 'encod': did you mean encode"),
        ("seed = 1\n", "unknown stage 'seed'"),
        ("encode = 1\n", r"encode must be a table, \[encode\] or \[\[encode\]\]"),
        ('[encode]\ncatalog = "c"\nout = "o"\nframe = 8', r"\[encode\]: unknown key 'frame': did you mean frames"),
        ('[encode]\nout = "o"', r"\[encode\]: key 'catalog' is missing"),
        ('[encode]\ncatalog = "c"', "key 'out' is missing"),
        ('[encode]\ncatalog = "c"\nout = "o"\nframes = "eight"', r"\[encode\]: frames: 'eight' is not a whole number"),
        ('[encode]\ncatalog = "c"\nout = ["o", "p"]', "out takes one value, got 2"),
        ('[encode]\ncatalog = "c"\nout = "o"\npair = "a"', "pair takes 2 values, got 1"),
        ('[encode]\ncatalog = "c"\nout = "o"\nquiet = "yes"', "quiet must be true or false, got 'yes'"),
        ('[encode]\ncatalog = "c"\nout = true', "out must be text or a number, got True"),
        ('[encode]\ncatalog = "c"\nout = {a = 1}', "out must be text or a number"),
        ('[encode]\ncatalog = "c"\nout = "o"\nshort_side = 1\nshort-side = 2', "key 'short-side' is given twice"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_place(read, text, message):
    with pytest.raises(InputError, match=message):
        read(text)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config .*run\.toml"):
        read_config(tmp_path / "run.toml", lambda stage: KEYS)


def test_overrides_replace_values_in_every_table_of_a_stage(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '[[encode]]\ncatalog = "c"\nout = "o"\n[[encode]]\ncatalog = "d"\nout = "p"\nshort_side = 1\n'
    stages = read(text, "encode.frames=4", "encode.short-side=2", "encode.catalog=mine.csv", "encode.quiet=true")
    mine = str(tmp_path / "mine.csv")
    rest = ("--frames", "4", "--short-side", "2", "--quiet")
    assert [stage.arguments for stage in stages] == [
        (mine, "--out", "o", *rest[:2], *rest[2:]),
        (mine, "--out", "p", *rest),
    ]


def test_an_override_that_names_a_file_here_is_that_file(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").touch()
    (stage,) = read('[encode]\ncatalog = "c"\nout = "o"\n', "encode.tap=mine.csv")
    assert stage.arguments[-1] == str(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frames=4", "must be like index.videos=/data/videos"),
        ("encode.frames", "must be like"),
        ("train.frames=4", "unknown stage 'train'"),
        ("encode.frame=4", "unknown key 'frame': did you mean frames"),
    ],
)
def test_a_wrong_override_is_refused(read, override, message):
    with pytest.raises(InputError, match=message):
        read('[encode]\ncatalog = "c"\nout = "o"', override)


MATRIX = """
[[train]]
catalog = "c"
out = "runs/{short-side}/{frames}-frames"
[train.each]
short-side = ["a.zarr", "b.zarr"]
frames = [1, 5]

[[train]]
catalog = "d"
out = "p"
"""


def test_a_table_is_repeated_for_every_combination(read):
    found = [(stage.arguments[0], *stage.arguments[2:]) for stage in read(MATRIX)]
    assert found == [
        ("c", "runs/a/1-frames", "--frames", "1", "--short-side", "a.zarr"),
        ("c", "runs/a/5-frames", "--frames", "5", "--short-side", "a.zarr"),
        ("c", "runs/b/1-frames", "--frames", "1", "--short-side", "b.zarr"),
        ("c", "runs/b/5-frames", "--frames", "5", "--short-side", "b.zarr"),
        ("d", "p"),
    ]


def test_overrides_reach_repeated_values(read):
    stages = read(MATRIX.replace("{short-side}", "s"), "train.each.frames=[2, 3]", "train.short_side=x")
    assert [stage.arguments[0] + stage.arguments[2] for stage in stages] == [
        "cruns/s/2-frames",
        "cruns/s/3-frames",
        "dp",
        "dp",
    ]
    assert all(stage.arguments[-2:] == ("--short-side", "x") for stage in stages)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ("[train.each]\nframes = []", "must be a table of arrays"),
        ("[train.each]\nframes = 1", "must be a table of arrays"),
        ("each = 3", "must be a table of arrays"),
        ('[train.each]\ncatalog = ["x"]', "'catalog' stands in the table and in its each"),
        ("[train.each]\nframe = [1]", "unknown name in braces 'frames': did you mean frame"),
        ("[train.each]\nshort-side = [1]", "unknown name in braces 'frames'"),
    ],
)
def test_a_wrong_repetition_is_refused(read, each, message):
    with pytest.raises(InputError, match=message):
        read('[train]\ncatalog = "c"\nout = "{frames}"\n' + each)
    with pytest.raises(InputError, match=r"only train\.each is"):
        read('[train]\ncatalog = "c"\nout = "o"', "train.every.frames=[1]")
