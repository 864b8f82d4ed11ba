"""Videos that cannot be used: each gets its reason and one line, and none is patched over."""

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from fsar.pipeline.video.decode import VideoError, decode_clip, get_decoder
from fsar.pipeline.video.pyav import iterate_frames
from tests.pipeline.test_decode import require
from tests.videos import cut_file, read_number, write_audio, write_clip


def reason_of(path: Path, **options) -> str:
    with pytest.raises(VideoError) as caught:
        decode_clip(path, np.arange, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def overwrite(path: Path, *, at: float, n_bytes: int) -> Path:
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + n_bytes] = np.random.default_rng(0).bytes(n_bytes)
    path.write_bytes(bytes(data))
    return path


def write_fast_start(path: Path, n_frames: int = 40) -> Path:
    """A file whose index is in front, so that a cut does not make it unreadable at once."""
    from fsar.pipeline.video.transcode import ConvertSettings, transcode

    source = write_clip(path.with_suffix(".avi"), n_frames=n_frames)
    transcode(source, path, ConvertSettings())
    return path


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_files_that_are_no_videos(tmp_path, decoder):
    (tmp_path / "text.webm").write_text("not a video\n" * 50)
    (tmp_path / "zero.webm").touch()
    write_audio(tmp_path / "sound.webm")
    assert reason_of(tmp_path / "text.webm", decoder=decoder) == "not-a-video"
    assert reason_of(tmp_path / "zero.webm", decoder=decoder) == "empty"
    assert reason_of(tmp_path / "sound.webm", decoder=decoder) == "no-video-stream"
    assert reason_of(tmp_path / "absent.webm", decoder=decoder) == "missing"


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_a_download_that_broke_off_is_truncated(tmp_path, suffix, fraction):
    path = cut_file(write_clip(tmp_path / f"clip{suffix}", n_frames=40), fraction)
    assert reason_of(path) == "truncated"
    assert reason_of(path, decoder="decord") == "truncated"


def test_an_mp4_that_breaks_off_is_not_accepted(tmp_path):
    assert reason_of(cut_file(write_fast_start(tmp_path / "front.mp4"), 0.6)) == "truncated"
    assert reason_of(cut_file(write_clip(tmp_path / "back.mp4"), 0.9)) == "not-a-video"


def test_an_avi_that_breaks_off_is_not_accepted(tmp_path):
    path = write_clip(tmp_path / "clip.avi", n_frames=60)
    assert reason_of(cut_file(path, 0.8)) in ("truncated", "not-a-video")


@pytest.mark.parametrize("at", [0.35, 0.5, 0.65])
def test_damage_inside_h264_is_found_though_ffmpeg_conceals_it(tmp_path, at):
    path = write_clip(tmp_path / "clip.mp4", n_frames=40, size=(192, 128))
    assert reason_of(overwrite(path, at=at, n_bytes=4)) in ("damaged", "corrupt")


@pytest.mark.parametrize("suffix", [".webm", ".avi"])
def test_a_corrupt_middle_is_found_by_counting(tmp_path, suffix):
    path = write_clip(tmp_path / f"clip{suffix}", n_frames=40, size=(192, 128))
    assert reason_of(overwrite(path, at=0.5, n_bytes=1500)) in ("truncated", "damaged", "corrupt")


def test_a_whole_clip_is_never_called_truncated(tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.4, 30)).tolist()
    for suffix in (".webm", ".mp4", ".mkv"):
        path = write_clip(tmp_path / f"clip{suffix}", n_frames=30, vfr=times)
        assert decode_clip(path, np.arange, fallback=False).n_frames == 30


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_a_decoder_that_does_not_agree_is_not_used_for_that_file(tmp_path, monkeypatch, name):
    require(name)
    path = write_clip(tmp_path / "clip.webm")

    def wrong(self, path, indices):
        return np.zeros((len(indices), 64, 96, 3), np.uint8), 16

    module = f"fsar.pipeline.video.{name}.{name.capitalize()}Reader.read"
    monkeypatch.setattr(module, wrong)
    clip = decode_clip(path, np.arange, decoder=name)
    assert [read_number(frame) for frame in clip.frames] == list(range(16))
    assert reason_of(path, decoder=name, fallback=False) == "disagreement"
    monkeypatch.setattr(module, lambda self, path, indices: (np.zeros((15, 64, 96, 3), np.uint8), 15))
    assert reason_of(path, decoder=name, fallback=False) == "disagreement"


def test_the_error_is_the_first_decoders(tmp_path):
    (tmp_path / "text.webm").write_text("no video")
    with pytest.raises(VideoError, match="not a video that can be read"):
        decode_clip(tmp_path / "text.webm", np.arange, decoder="pyav", fallback=True)


def test_bad_frame_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    assert reason_of(tmp_path / "empty") == "empty"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.jpg").write_bytes(b"no picture")
    assert reason_of(tmp_path / "broken") == "corrupt"
    with pytest.raises(VideoError, match="not a folder of frames"):
        get_decoder("images").decode(tmp_path / "absent", np.arange)


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(VideoError("truncated", "ends\nearly")))
    assert (error.reason, str(error)) == ("truncated", "ends early")


def test_threads_decode_side_by_side(tmp_path):
    paths = [write_clip(tmp_path / f"{index}.webm") for index in range(4)]
    (tmp_path / "bad.webm").write_text("no video")
    found: list[int] = []

    def work(path: Path) -> None:
        for _ in range(3):
            found.append(decode_clip(path, np.arange).n_frames)
            with pytest.raises(VideoError):
                decode_clip(tmp_path / "bad.webm", np.arange, fallback=False)

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [16] * 12


def test_frames_can_be_streamed(tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    seen = [(index, read_number(frame)) for index, frame in iterate_frames(path, lambda n: np.array([9, 3, 3]))]
    assert seen == [(3, 3), (9, 9)]
    with pytest.raises(VideoError):
        list(iterate_frames(cut_file(write_clip(tmp_path / "cut.webm", n_frames=40), 0.5), np.arange))
