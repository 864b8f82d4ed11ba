"""Packs that somebody forged or damaged: one clear error, nothing read outside them, nothing huge allocated."""

import csv
import hashlib
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from fsar.errors import InputError
from fsar.pipeline.packs import FramePack
from fsar.pipeline.packs.index import MAX_SIDE
from fsar.pipeline.packs.jpeg import encode_jpeg, jpeg_shape
from fsar.pipeline.packs.layout import PackSettings, data_name, index_name
from fsar.pipeline.packs.verify import verify_pack
from fsar.pipeline.store.format.files import videos_sha256
from fsar.pipeline.store.format.identity import checked_json, parse_checked_json
from fsar.pipeline.video.clip import VideoError
from tests.pipeline.packs.samples import packed, tree, write_videos


@pytest.fixture
def path(tmp_path):
    return packed(tmp_path, write_videos(tmp_path, (6, 3, 6)), PackSettings(frames=4))


def forge_index(path, **changes):
    """Change arrays of the first index; a function gets the old array."""
    file = path / index_name(0)
    arrays = load(file.read_bytes())
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy()) if callable(change) else change
    file.write_bytes(save(arrays))


def forge_pack(path, **changes):
    value = parse_checked_json((path / "pack.json").read_bytes(), "")
    (path / "pack.json").write_bytes(checked_json(value | changes))


def at(place, value):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": at(1, 99)}, "do not cover its frames"),
        ({"first": at(-1, 1 << 40)}, "do not cover its frames"),
        ({"offset": at(1, 1 << 50)}, "do not cover the .* bytes"),
        ({"offset": at(1, -5)}, "do not cover the .* bytes"),
        ({"offset": at(-1, 7)}, "do not cover the .* bytes"),
        ({"shape": at((0, 0), 0)}, "shape is not within"),
        ({"shape": at((0, 0), MAX_SIDE + 1)}, "shape is not within"),
        ({"shape": at((0, slice(None)), MAX_SIDE)}, "shape is not within"),
        ({"status": at(0, 3)}, "status does not fit"),
        ({"status": at(0, 2)}, "status does not fit"),
        ({"frame_index": at(0, -1)}, "outside its video"),
        ({"frame_index": at(3, 600)}, "outside its video"),
        ({"frame_index": at(1, 0)}, "not in order"),
        ({"n_frames": lambda array: array[:2]}, "n_frames of another shape"),
        ({"crc32c": lambda array: array.astype(np.float64)}, "does not hold the arrays"),
        ({"extra": np.zeros(3)}, "does not hold the arrays"),
    ],
)
def test_an_index_that_lies_is_refused(path, changes, message):
    forge_index(path, **changes)
    with pytest.raises(InputError, match=message):
        FramePack.open(path).frames("clip0")


def test_index_files_that_are_none(path):
    for data in (b"", b"\xff" * 40, (1 << 60).to_bytes(8, "little") + b"{}", save({})):
        (path / index_name(0)).write_bytes(data)
        with pytest.raises(InputError, match="is damaged"):
            FramePack.open(path).frames("clip0")


@pytest.mark.parametrize("name", [data_name(0), index_name(0), "pack.json", "videos.csv"])
def test_only_plain_files_are_opened(path, name, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes((path / name).read_bytes())
    (path / name).unlink()
    (path / name).symlink_to(secret)
    with pytest.raises(InputError, match="not a plain file but a link"):
        FramePack.open(path).frames("clip0")
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(InputError, match="not a plain file but"):
        FramePack.open(path).frames("clip0")
    (path / name).unlink()
    (path / name).mkdir()
    with pytest.raises((InputError, IsADirectoryError)):
        FramePack.open(path).frames("clip0")


def test_files_beyond_their_cap_are_not_read(path, monkeypatch):
    monkeypatch.setattr("fsar.pipeline.packs.layout.MAX_VIDEOS_BYTES", 10)
    with pytest.raises(InputError, match=r"videos\.csv has \d+ bytes, more than the 10"):
        FramePack.open(path)


def test_a_flipped_byte_names_the_frame_and_the_video(path):
    data = bytearray((path / data_name(0)).read_bytes())
    data[200] ^= 1
    (path / data_name(0)).write_bytes(data)
    pack = FramePack.open(path)
    with pytest.raises(VideoError, match="frame 0 of clip0 is damaged"):
        pack.frames("clip0")
    assert pack.frames("clip2").shape == (4, 64, 96, 3)
    found = verify_pack(path)
    assert [(problem.file, problem.what) for problem in found.problems] == [
        (data_name(0), "damaged: its bytes have changed")
    ]
    assert found.videos_hit == ["clip0", "clip1", "clip2"]


def with_first_frame(path, jpeg):
    """Put another JPEG in the first frame's place, with index and checksum to fit."""
    import google_crc32c

    arrays = load((path / index_name(0)).read_bytes())
    data = (path / data_name(0)).read_bytes()
    (path / data_name(0)).write_bytes(jpeg + data[arrays["offset"][1] :])
    grown = len(jpeg) - int(arrays["offset"][1])
    forge_index(
        path,
        offset=lambda array: np.concatenate([array[:1], array[1:] + grown]),
        crc32c=at(0, google_crc32c.value(jpeg)),
    )


def bomb(jpeg, height, width):
    """Return a JPEG whose header claims another size."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + height.to_bytes(2) + width.to_bytes(2) + jpeg[place + 4 :]


def test_a_jpeg_that_claims_another_size_is_never_decoded(path):
    jpeg = bytes(FramePack.open(path).jpegs("clip0", [0])[0])
    for height, width in ((65500, 65500), (64, 97)):
        with_first_frame(path, bomb(jpeg, height, width))
        with pytest.raises(VideoError, match="not the JPEG it should be"):
            FramePack.open(path).frames("clip0")
    progressive, grey = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (96, 64)).save(progressive, "JPEG", progressive=True)
    Image.new("L", (96, 64)).save(grey, "JPEG")
    for other in (progressive.getvalue(), grey.getvalue(), b"\x89PNG\r\n\x1a\n" + b"x" * 60, b"\xff\xd8\xff"):
        with_first_frame(path, other)
        with pytest.raises(VideoError, match="not the JPEG it should be"):
            FramePack.open(path).frames("clip0")
    with_first_frame(path, jpeg[: len(jpeg) // 2])
    with pytest.raises(VideoError, match="frame 0 of clip0 cannot be decoded"):
        FramePack.open(path).frames("clip0")


def test_headers_are_read_as_pillow_reads_them():
    for shape in ((8, 8), (17, 300), (1, 1)):
        jpeg = encode_jpeg(np.zeros((*shape, 3), np.uint8), 90)
        assert jpeg_shape(memoryview(jpeg)) == shape
        assert all(jpeg_shape(memoryview(jpeg[:end])) in (None, shape) for end in range(len(jpeg)))
    assert jpeg_shape(memoryview(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 3)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "of pack format 2, this fsar reads format 1"),
        ({"shards": [0, 1]}, "does not list the videos"),
        ({"shards": [0, 3, 2]}, "must begin at 0 and ascend"),
        ({"shards": [1, 3]}, "must begin at 0 and ascend"),
        ({"shards": "3"}, "must begin at 0 and ascend"),
        ({"shards": [0, "x"]}, "must begin at 0 and ascend"),
        ({"settings": {"frames": 8, "shell": "rm"}}, "damaged or of another version"),
        ({"settings": {"frames": 8, "sampler": 3}}, "sampler of a pack must be"),
        ({"settings": []}, "damaged or of another version"),
        ({"n_videos": 2}, "does not list the videos"),
    ],
)
def test_a_forged_pack_json(path, changes, message):
    forge_pack(path, **changes)
    with pytest.raises(InputError, match=message):
        FramePack.open(path)


def test_damage_of_the_lists(path):
    text = (path / "pack.json").read_text()
    (path / "pack.json").write_text(text.replace('"quality":95', '"quality":94'))
    with pytest.raises(InputError, match="does not match its own checksum"):
        FramePack.open(path)
    (path / "pack.json").write_text(text)
    (path / "videos.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"videos\.csv is damaged"):
        FramePack.open(path)


def test_a_video_listed_twice(path):
    rows = list(csv.reader(io.StringIO((path / "videos.csv").read_text())))
    rows[2][0] = rows[1][0]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    (path / "videos.csv").write_text(text.getvalue())
    from fsar.pipeline.store import VideoRow

    videos = [VideoRow(*row[:4]) for row in rows[1:]]
    forge_pack(path, videos_sha256=videos_sha256(videos))
    with pytest.raises(InputError, match="lists a video twice"):
        FramePack.open(path)


def test_missing_files_are_named(path):
    whole = tree(path)
    for name, message in (
        (data_name(0), "is missing"),
        (index_name(0), "is missing"),
        ("manifest.json", "not finished"),
    ):
        (path / name).unlink()
        with pytest.raises(InputError, match=message):
            FramePack.open(path).frames("clip0")
        if name != "manifest.json":
            assert (name, "missing") in [(problem.file, problem.what) for problem in verify_pack(path).problems]
        (path / name).write_bytes(whole[name])
    assert FramePack.open(path, allow_unsealed=True).frames("clip0").shape[0] == 4
    assert not verify_pack(path).problems


def test_verify_finds_foreign_files_and_a_forged_manifest(path):
    (path / "frames" / "extra").write_bytes(b"x")
    assert [(p.file, p.what) for p in verify_pack(path).problems] == [("frames/extra", "foreign: no file of this pack")]
    (path / "frames" / "extra").unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    data = (path / data_name(0)).read_bytes()
    del manifest["sha256"]
    manifest["files"]["../../etc/passwd"] = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 10}
    manifest["files"][data_name(0)] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / "manifest.json").write_bytes(checked_json(manifest))
    assert any("../../etc/passwd" in problem.file + problem.what for problem in verify_pack(path).problems)


def test_verify_reads_frames_against_their_index(path):
    forge_index(path, crc32c=at(0, 1))
    entry = {"sha256": hashlib.sha256((path / index_name(0)).read_bytes()).hexdigest()}
    manifest = parse_checked_json((path / "manifest.json").read_bytes(), "")
    manifest["files"][index_name(0)] |= entry
    (path / "manifest.json").write_bytes(checked_json(manifest))
    problems = verify_pack(path).problems
    assert [problem.videos for problem in problems] == [("clip0",)]
    assert "frame 0 of clip0 is damaged" in problems[0].what
