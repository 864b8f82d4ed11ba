"""Whether a file is whole, and when its frames are shown."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsar.pipeline.video.decode import VideoError, decode_clip
from fsar.pipeline.video.matroska import wholeness
from fsar.pipeline.video.orientation import Orientation, orientation_of_matrix
from fsar.pipeline.video.probe import seconds_of
from fsar.pipeline.video.times import presentation_seconds
from tests.videos import cut_file, write_clip

FIELD_CASES = {
    "mirrored_hflip.mp4": 20,
    "editlist_closed.mp4": 10,
    "editlist_cut.mp4": 10,
    "avi_repeated_frames.avi": 20,
    "lastlong.webm": 20,
    "h264_bframes.avi": 20,
    "h264_cut.mkv": 20,
    "neg_pts.mkv": 20,
    "second_stream_default.mkv": 20,
    "vfr_pause.mp4": 20,
    "gray_full_range.mkv": 20,
}


@pytest.mark.shared
@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", FIELD_CASES)
def test_files_that_people_reported(shared, name, decoder):
    """Frame i is grey 10 + 11 i (cuts begin later), with a white corner: top right where the file is mirrored."""
    from tests.pipeline.test_decode import require

    require(decoder)
    clip = decode_clip(shared / "cases" / "field" / name, np.arange, decoder=decoder)
    first = 110 if name.startswith("editlist") else 0
    levels = clip.frames[:, 24, 38].mean(axis=1)
    np.testing.assert_allclose(levels, 10 + (first + 11 * np.arange(FIELD_CASES[name])) % 220, atol=2)
    corner = clip.frames[0][5, -5 if "hflip" in name else 5]
    assert corner.mean() > 240
    assert (np.diff(clip.times_seconds) >= 0).all()


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_the_structure_of_matroska_tells_a_cut_and_damage(tmp_path, suffix):
    path = write_clip(tmp_path / f"clip{suffix}", n_frames=30)
    assert wholeness(path) == ("whole", "")
    cut = cut_file(shutil.copy(path, tmp_path / f"cut{suffix}"), 0.7)
    assert wholeness(cut)[0] == "cut"
    data = bytearray(path.read_bytes())
    cluster = data.index(bytes.fromhex("1f43b675"))
    data[cluster + 40 : cluster + 60] = bytes(20)
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(bytes(data))
    assert wholeness(broken)[0] in ("broken", "whole")
    text = tmp_path / f"text{suffix}"
    text.write_text("no video")
    assert wholeness(text) == ("unknown", "")


def test_every_byte_that_is_lost_at_the_end_of_matroska_is_noticed(tmp_path):
    data = write_clip(tmp_path / "clip.mkv", n_frames=12, codec="libx264").read_bytes()
    for n_bytes in range(len(data) - 40, len(data)):
        (tmp_path / "cut.mkv").write_bytes(data[:n_bytes])
        with pytest.raises(VideoError):
            decode_clip(tmp_path / "cut.mkv", np.arange)


def times(stated, decoded=(), **options):
    options = {"start_seconds": 0.0, "frame_seconds": 0.1, **options}
    return presentation_seconds(stated, decoded or [None] * len(stated), **options).round(6).tolist()


def test_times_are_kept_where_they_can_be_right():
    assert times([0.0, 0.1, 0.1, 4.0]) == [0.0, 0.1, 0.1, 4.0]
    assert times([-0.2, -0.1, 0.0]) == [-0.2, -0.1, 0.0]


def test_missing_times_continue_their_neighbours():
    assert times([None, None, 0.0, 0.1]) == [-0.2, -0.1, 0.0, 0.1]
    assert times([0.0, None, None, 1.0]) == [0.0, 0.8, 0.9, 1.0]
    assert times([0.5, None, None]) == [0.5, 0.6, 0.7]
    assert times([None, None, None]) == [0.0, 0.1, 0.2]
    assert times([0.0, None, None, 0.05]) == [0.0, 0.0, 0.0, 0.05]


def test_times_that_go_back_give_way_to_those_of_decoding():
    assert times([0.1, 0.4, 0.3, 0.2], [0.2, 0.3, 0.5, None]) == [0.0, 0.1, 0.3, 0.4]
    assert times([0.1, 0.2, 0.3], [0.2, 0.9, None], has_presentation_times=False) == [0.0, 0.7, 0.8]


def test_display_matrices_turn_and_mirror():
    def of(a, b, c, d):
        return orientation_of_matrix((np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14]) << 16).astype(np.int32).tobytes())

    assert of(1, 0, 0, 1).is_upright
    assert of(-1, 0, 0, 1) == Orientation(flip_columns=True)
    assert of(0, 1, -1, 0) == Orientation(transpose=True, flip_columns=True)  # a quarter turn clockwise
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(of(0, 1, -1, 0).apply(picture), np.rot90(picture, -1))
    np.testing.assert_array_equal(of(0, -1, 1, 0).apply(picture), np.rot90(picture))
    np.testing.assert_array_equal(of(0, 1, 1, 0).apply(picture), picture.T)
    assert of(0, 1, 1, 0).is_mirrored
    assert not of(0, 1, -1, 0).is_mirrored


def test_a_pipe_among_the_videos_keeps_nobody_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="not a regular file"):
        decode_clip(tmp_path / "pipe.mp4", np.arange)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nother.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile other.ts\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile other.ts\n"),
        ("stream.avi", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_a_file_that_leads_to_others_is_no_video(tmp_path, name, text):
    write_clip(tmp_path / "other.ts", n_frames=5, codec="mpeg4")
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError, match="is a list of other files") as error:
        decode_clip(tmp_path / name, np.arange)
    assert error.value.reason == "not-a-video"


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "concat:a|b.mp4", "file:a.mp4"])
def test_no_name_of_a_file_is_an_address(tmp_path, monkeypatch, name):
    shutil.copy(write_clip(tmp_path / "a.mp4", n_frames=5), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(decode_clip(Path(name), np.arange).frames) == 5


def test_links_in_a_ring_are_missing(tmp_path):
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    with pytest.raises(VideoError) as caught:
        decode_clip(tmp_path / "a.mp4", np.arange)
    assert caught.value.reason == "missing"


@given(st.integers(-(2**62), 2**62), st.fractions(min_value=0, max_denominator=2**31))
def test_ticks_are_the_seconds_that_their_product_rounds_to(ticks, base):
    assert seconds_of(ticks, base) == float(ticks * Fraction(base))
