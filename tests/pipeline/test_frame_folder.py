"""Folders of pictures: which of them are the frames, in what order, and what their pixels mean."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsar.pipeline.video.decode import VideoError, decode_clip
from fsar.pipeline.video.frame_folder import list_frames
from fsar.pipeline.video.picture import read_picture


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"picture")
    return folder


def names(folder: Path) -> list[str]:
    return [path.name for path in list_frames(folder)]


@pytest.mark.parametrize(
    "others",
    [
        ["flow_x_00001.jpg", "flow_y_00001.jpg"],
        ["x_00001.jpg", "y_00001.jpg"],
        ["u_1.png", "v_1.png"],
        ["flow_00001.png"],
        ["00001_flow_x.jpg"],
        ["tvl1_flow_x_3.jpg"],
        ["folder.jpg"],
        ["thumbnail.png", "Cover.JPG"],
        ["notes.txt", ".hidden_00003.jpg"],
    ],
)
def test_flow_and_thumbnails_beside_frames_are_no_frames(tmp_path, others):
    touch(tmp_path, "img_00001.jpg", "img_00002.jpg", *others)
    assert names(tmp_path) == ["img_00001.jpg", "img_00002.jpg"]


@pytest.mark.parametrize(
    "files",
    [
        ["00001.jpg", "00001.png"],  # the same frame twice, or a mask
        ["00001.jpg", "00001.JPG"],
        ["00001.jpg", "00001.jpeg"],
        ["1.jpg", "01.jpg"],
        ["img_1.jpg", "depth_1.jpg"],
        ["frame1.jpg", "mask_frame1.jpg"],
        ["v1.9.jpg", "v1.10.jpg"],  # counts, or decimals
    ],
)
def test_what_cannot_be_told_apart_is_refused(tmp_path, files):
    touch(tmp_path, *files)
    with pytest.raises(VideoError) as caught:
        list_frames(tmp_path)
    assert caught.value.reason == "ambiguous"
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "ordered",
    [
        ["frame_0.0s.png", "frame_0.25s.png", "frame_0.5s.png", "frame_0.75s.png", "frame_10.0s.png"],
        ["0.0.jpg", "0.25.jpg", "0.5.jpg", "1.0.jpg"],
        ["frame_0s.png", "frame_0.5s.png", "frame_1s.png"],
        ["0.00.jpg", "0.25.jpg", "0.50.jpg", "10.00.jpg"],
        ["img_9.jpg", "img_10.jpg", "img_100.jpg"],
        ["shot1_1.jpg", "shot1_2.jpg", "shot2_1.jpg", "shot10_1.jpg"],
        ["a.jpg", "B.jpg", "c.jpg"],
        ["1.TIF", "2.tiff", "3.tif"],
    ],
)
def test_frames_are_ordered_by_what_their_numbers_mean(tmp_path, ordered):
    touch(tmp_path, *reversed(ordered))
    assert names(tmp_path) == ordered


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("pgm", np.uint16)], ids=["png", "tif", "pgm"]
)
def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path, suffix, dtype):
    for value in (0, 10, 21, 255):
        file = tmp_path / f"{value}.{suffix}"
        Image.fromarray(np.full((4, 6), value * 257, dtype)).save(file)
        assert np.unique(read_picture(file)).tolist() == [value]
        assert read_picture(file).shape == (4, 6, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_eight_bits_becomes_rgb(tmp_path, mode):
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    image.save(tmp_path / f"1.{suffix}")
    assert (read_picture(tmp_path / f"1.{suffix}") > 250).all()


def test_numbers_that_are_no_light_are_refused(tmp_path):
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(tmp_path / "1.tif")
    with pytest.raises(VideoError, match="mode 'F'") as caught:
        read_picture(tmp_path / "1.tif")
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, orientation):
    """Pillow's own transposition is the judge."""
    from PIL import ImageOps

    picture = np.random.default_rng(0).integers(0, 255, (6, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture).save(tmp_path / "1.png", exif=exif)
    with Image.open(tmp_path / "1.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_picture(tmp_path / "1.png"), expected)
    np.testing.assert_array_equal(decode_clip(tmp_path, lambda n: np.arange(n)).frames[0], expected)


@pytest.mark.parametrize("size", [(20000, 12000), (16384, 8193)], ids=["refused by Pillow", "refused by us"])
def test_a_picture_that_is_too_large_fails_with_its_name(tmp_path, size):
    Image.new("1", size).save(tmp_path / "1.png")
    with pytest.raises(VideoError, match=r"1\.png") as caught:
        decode_clip(tmp_path, lambda n: np.arange(n))
    assert caught.value.reason == "too-large"


def test_a_broken_picture_fails_with_its_name(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "1.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:300])
    with pytest.raises(VideoError, match=r"1\.jpg"):
        decode_clip(tmp_path, lambda n: np.arange(n))
