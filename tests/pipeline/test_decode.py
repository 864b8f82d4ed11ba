"""Decoders: the right frames, upright, at the right times, the same from every library."""

from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.video.decode import Clip, decode_clip, get_decoder, list_decoders
from fsar.pipeline.video.frame_folder import natural_key
from tests.videos import numbered_frame, read_number, write_clip

FORMATS = {
    "vp9": {"suffix": ".webm"},
    "vp8": {"suffix": ".webm", "codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "h264": {"suffix": ".mp4"},
    "h264-b-frames": {"suffix": ".mp4", "options": {"preset": "veryfast"}},
    "hevc": {"suffix": ".mp4", "codec": "libx265"},
    "mpeg4": {"suffix": ".avi"},
    "mjpeg": {"suffix": ".avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "full-range": {"suffix": ".mp4", "options": {"color_range": "pc"}},
    "bt709": {"suffix": ".mp4", "options": {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}},
    "odd-width": {"suffix": ".webm", "size": (107, 60)},
    "4:4:4": {"suffix": ".mp4", "size": (97, 63), "pix_fmt": "yuv444p"},
    "rotated-90": {"suffix": ".mp4", "rotation": 90},
    "rotated-180": {"suffix": ".mp4", "rotation": 180},
    "rotated-270": {"suffix": ".mp4", "rotation": 270},
    "variable-rate": {"suffix": ".mp4", "vfr": [0.1 * i + 0.02 * (i % 3) for i in range(16)]},
    "with-sound": {"suffix": ".webm", "audio": True},
}
ROUNDING_DIFFERS = {
    "odd-height": {"suffix": ".webm", "size": (96, 63)},
    "10-bit": {"suffix": ".mp4", "pix_fmt": "yuv420p10le"},
    "hevc-10-bit": {"suffix": ".mp4", "codec": "libx265", "pix_fmt": "yuv420p10le"},
}


def make(folder: Path, options: dict) -> Path:
    options = dict(options)
    return write_clip(folder / f"clip{options.pop('suffix')}", **options)


def require(name: str) -> None:
    """Skip if a decoder's library is not on this machine."""
    from fsar.pipeline.video.decord import import_decord
    from fsar.pipeline.video.torchcodec import import_torchcodec

    try:
        {"decord": import_decord, "torchcodec": import_torchcodec}.get(name, lambda: None)()
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("options", [*FORMATS.values(), *ROUNDING_DIFFERS.values()], ids=[*FORMATS, *ROUNDING_DIFFERS])
def test_pyav_returns_the_frames_that_were_asked_for(tmp_path, options):
    path = make(tmp_path, options)
    clip = decode_clip(path, lambda n_frames: np.array([n_frames - 1, 0, 7, 7]), fallback=False)
    turns = options.get("rotation", 0) // 90
    stored_upright = [np.rot90(frame, turns) for frame in clip.frames]  # undo the clockwise turn
    assert [read_number(frame) for frame in stored_upright] == [15, 0, 7, 7]
    assert clip.indices.tolist() == [15, 0, 7, 7]
    assert clip.n_frames == 16
    expected_times = np.array(options.get("vfr", np.arange(16) / 12))[clip.indices]
    np.testing.assert_allclose(clip.times_seconds, expected_times, atol=1.1e-3)


@pytest.mark.parametrize("name", ["torchcodec", "decord"])
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_decoders_agree_to_the_bit(tmp_path, options, name):
    require(name)
    path = make(tmp_path, options)
    expected, found = (get_decoder(decoder).decode(path, np.arange) for decoder in ("pyav", name))
    assert_same(expected, found)


@pytest.mark.parametrize("options", ROUNDING_DIFFERS.values(), ids=ROUNDING_DIFFERS)
def test_decoders_differ_by_chroma_rounding_at_most(tmp_path, options):
    """FFmpeg versions interpolate the colour of odd heights and of 10 bits differently; brightness agrees."""
    path = make(tmp_path, options)
    expected = get_decoder("pyav").decode(path, np.arange)
    for name in ("torchcodec", "decord"):
        require(name)
        found = get_decoder(name).decode(path, np.arange)
        difference = np.abs(expected.frames.astype(int) - found.frames)
        assert difference.mean() < 1
        assert np.quantile(difference, 0.99) <= 10


@pytest.mark.shared
@pytest.mark.parametrize("name", ["torchcodec", "decord"])
def test_decoders_agree_on_real_clips(shared, name):
    require(name)
    clips = [*sorted((shared / "data" / "clips").glob("*.mp4"))[:2], *sorted(shared.rglob("*.webm"))[::20]]
    assert clips
    for path in clips:
        wanted = [get_decoder(decoder).decode(path, lambda n: np.arange(0, n, 9)) for decoder in ("pyav", name)]
        assert_same(*wanted)


def assert_same(expected: Clip, found: Clip) -> None:
    assert found.n_frames == expected.n_frames
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.times_seconds, expected.times_seconds, atol=1e-6)
    np.testing.assert_array_equal(found.frames, expected.frames)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_av1_decodes(tmp_path, suffix, capfd):
    path = write_clip(tmp_path / f"clip{suffix}", codec="libsvtav1")
    clip = decode_clip(path, np.arange)
    assert [read_number(frame) for frame in clip.frames] == list(range(16))


def test_colours_are_those_that_were_drawn(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", n_frames=2, pix_fmt="yuv444p", options={"crf": "1"})
    clip = decode_clip(path, np.arange)
    assert np.abs(clip.frames[1].astype(int) - numbered_frame(1, (96, 64))).mean() < 3


def test_nothing_is_printed(tmp_path, capfd):
    decode_clip(write_clip(tmp_path / "clip.webm"), np.arange)
    capfd.readouterr()
    for name in ("pyav", "decord"):
        require(name)
        get_decoder(name).decode(tmp_path / "clip.webm", np.arange)
    assert capfd.readouterr() == ("", "")


def test_a_folder_of_pictures_is_read_in_natural_order(tmp_path):
    from PIL import Image

    for number in range(12):
        Image.fromarray(numbered_frame(number, (96, 64))).save(tmp_path / f"{number}.jpg")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip = decode_clip(tmp_path, lambda n_frames: np.arange(n_frames), decoder="decord")
    assert [read_number(frame) for frame in clip.frames] == list(range(12))
    assert clip.n_frames == 12
    assert np.isnan(clip.times_seconds).all()


def test_pictures_may_have_any_digits_in_their_names(tmp_path):
    two, ten = tmp_path / "²2.jpg", tmp_path / "²10.jpg"
    assert sorted([ten, two], key=natural_key) == [two, ten]


def test_unknown_decoder_names_the_nearest():
    assert list_decoders()[0] == "pyav"
    with pytest.raises(InputError, match="did you mean decord"):
        get_decoder("decor")


@pytest.mark.parametrize("indices", [[-1], [16], [], [[0]]])
def test_wrong_choices_are_refused(tmp_path, indices):
    path = write_clip(tmp_path / "clip.webm")
    with pytest.raises(ValueError, match="choose must return"):
        decode_clip(path, lambda n_frames: np.array(indices))
