import hashlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.store import TapSpec, VideoRow, canonical_json, differing_fields, recipe_id
from fsar.pipeline.store.format import files
from fsar.pipeline.store.format.files import read_videos, videos_csv, videos_sha256
from fsar.pipeline.store.format.identity import checked_json, parse_checked_json
from fsar.pipeline.store.format.layout import plan_layout

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_recipe_has_one_text_and_one_id() -> None:
    assert canonical_json({"b": [1, 0.5], "a": "é"}) == '{"a":"é","b":[1,0.5]}'
    assert recipe_id({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert recipe_id({"a": 1, "b": 2}) == recipe_id({"b": 2, "a": 1})


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"mean": float("nan")})


def test_differences_are_named_by_field() -> None:
    a = {"sampler": "trx", "crop": {"size": 224, "mode": "center"}, "same": (1, 2)}
    b = {"sampler": "dense", "crop": {"size": 112, "mode": "center"}, "same": [1, 2], "new": None}
    assert differing_fields(a, b) == ["sampler: 'trx' != 'dense'", "crop.size: 224 != 112", "new: (absent) != None"]
    assert differing_fields(a, a) == []


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON, max_size=4), st.data())
def test_checked_files_notice_any_changed_byte(value: dict, data: st.DataObject) -> None:
    written = checked_json(value)
    assert parse_checked_json(written, "file") == value
    position = data.draw(st.integers(0, len(written) - 1))
    changed = bytearray(written)
    changed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InputError, match="file is damaged"):
        parse_checked_json(bytes(changed), "file")


def test_chunks_are_about_as_big_as_asked_and_never_many_rows() -> None:
    def rows(*shape: int, chunk_bytes: int = 32 << 20) -> int:
        taps = {"small": TapSpec((4,)), "big": TapSpec(shape)}
        return plan_layout(taps, n_views=1, n_slots=8, recipe={}, chunk_bytes=chunk_bytes).chunk_rows

    assert rows(197, 512) == 20  # 1.6 MB a row
    assert rows(512) == 256  # 8 kB a row
    assert rows(197, 512, chunk_bytes=1000) == 1


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", ".hidden", "é"])
def test_tap_names_must_be_file_names_everywhere(name: str) -> None:
    with pytest.raises(InputError, match="tap's name must consist of"):
        plan_layout({name: TapSpec((1,))}, n_views=1, n_slots=1, recipe={}, chunk_bytes=1)


@pytest.mark.parametrize("bad", [{"shape": (0,)}, {"shape": (1,), "dtype": "float64"}])
def test_impossible_taps_are_refused(bad: dict) -> None:
    with pytest.raises(InputError, match="a tap's"):
        TapSpec(**bad)


def test_importing_stores_is_light() -> None:
    heavy = ("torch", "zarr", "h5py", "google_crc32c", "safetensors")
    code = f"import sys, fsar.pipeline.store; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("n_videos", [0, 1, 3, 4])
def test_the_hash_of_rows_is_that_of_their_whole_list(n_videos, monkeypatch) -> None:
    videos = [VideoRow(f'v{index}, "é"', "a class", "", f"{index}.mp4") for index in range(n_videos)]
    whole = hashlib.sha256(canonical_json([video.cells() for video in videos]).encode()).hexdigest()
    monkeypatch.setattr(files, "HASHED_ROWS", 3)
    assert videos_sha256(videos) == whole


def test_rows_come_back_from_their_table_wherever_its_columns_stand(tmp_path) -> None:
    videos = [VideoRow('a, "b"\n', "class", "train", "x/é.mp4"), VideoRow("c", "class", "", "y.mp4")]
    table = tmp_path / "videos.csv"
    table.write_bytes(videos_csv(videos))
    assert read_videos(table, 2) == videos
    assert len(read_videos(table, 1)) == 2  # one more than announced shows that there are more
    table.write_text("path,note,part,class,video_id\n\ny.mp4,?,,class,c\n")
    assert read_videos(table, 1) == videos[1:]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'video_id'"),
        ("video_id,class,part\na,b,c\n", "no column 'path'"),
        ("video_id,class,part,path\na,b,c\n", "a line with 3 cells"),
        ("video_id,class,part,path\na,b,c,\xff\n", "can't decode byte"),
    ],
)
def test_a_damaged_table_of_videos_is_said_so(tmp_path, text, words) -> None:
    table = tmp_path / "videos.csv"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words):
        read_videos(table, 1)
