"""Clips: which frames a network for clips sees, and what a store records of them."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.encode.encode import EncodeOptions, add_videos, encode, plan
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.store import VideoRow, open_store
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.clips import ClipShape
from tests.pipeline.encode_helpers import fake_decode, made_up_rows, pixels

INLINE = EngineOptions(device="cpu", jobs=0, decode=fake_decode)
R3D = EncodeOptions(backbone="random:torchvision/r3d_18", size=32, clip_length=4, dtype="float32", engine=INLINE)


@given(
    length=st.integers(1, 12),
    stride=st.integers(0, 5),
    n_clips=st.integers(1, 6),
    n_frames=st.integers(1, 80),
    sampler=st.sampled_from(["uniform-center", "uniform-ends", "uniform-random"]),
)
def test_clips_are_whole_in_order_and_inside_the_video(length, stride, n_clips, n_frames, sampler):
    shape = ClipShape(length, stride)
    draw = np.random.default_rng(0)
    if stride and n_frames < (length - 1) * stride + 1:
        with pytest.raises(VideoError, match=rf"the video has {n_frames} frames, a clip of {length} frames") as error:
            shape.frames(sampler, n_frames, n_clips, draw)
        assert error.value.reason == "too-short"
        return
    clips = shape.frames(sampler, n_frames, n_clips, draw).reshape(n_clips, length)
    assert 0 <= clips.min() <= clips.max() < n_frames
    assert (np.diff(clips[:, 0]) >= 0).all()
    steps = np.diff(clips, axis=1)
    assert (steps == stride).all() if stride else (steps >= 0).all()


def test_one_clip_lies_in_the_middle_and_several_are_spread():
    assert ClipShape(4, 2).frames("uniform-center", 21, 1, None).tolist() == [7, 9, 11, 13]
    assert ClipShape(2, 1).frames("uniform-ends", 10, 3, None).tolist() == [0, 1, 4, 5, 8, 9]
    assert ClipShape(4).frames("uniform-center", 8, 1, None).tolist() == [1, 3, 5, 7]


def test_a_slot_is_recorded_by_its_first_frame():
    frames = np.arange(16)[None]
    assert ClipShape(8).first_of_slots(frames).tolist() == [[0, 8]]
    assert ClipShape(8, 1, 4).first_of_slots(frames).tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]
    assert ClipShape(8, 1, 3).first_of_slots(frames[:, :8]).tolist() == [[0, 2, 5]]


@pytest.mark.parametrize(
    ("shape", "message"),
    [((0, 1), "at least 1 frame, got 0"), ((4, -1), "0 \\(spread over the video\\) or more, got -1")],
)
def test_impossible_clips_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        ClipShape(*shape)


def test_a_clip_cannot_be_placed_by_a_rule_for_frames():
    with pytest.raises(InputError, match="unknown sampler for where clips start 'trx'"):
        ClipShape(4, 2).frames("trx", 50, 1, None)


def test_cached_clips_are_those_of_a_live_forward_pass(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b", "bad c"])
    options = dataclasses.replace(R3D, n_clips=2, clip_stride=3)
    encode(rows, tmp_path / "s.zarr", options, quiet=True)
    store = open_store(tmp_path / "s.zarr")
    assert store.recipe["clip"] == {"length": 4, "stride": 3, "steps": 1}
    assert (store.n_slots, store.taps["pooled"].shape) == (2, (512,))
    assert [reason for _, reason, _ in store.failures()] == ["truncated"]
    backbone, spec = load_backbone(R3D.backbone, size=32), Recipe.from_dict(store.recipe).image
    for row, video in enumerate(["a", "b"]):
        starts = [2, 8]  # of 11 places where 10 frames fit in 20
        clips = np.stack([pixels(video, 20)[start : start + 10 : 3] for start in starts])
        live = backbone.module(torch.stack([prepare(clip, spec) for clip in clips]))
        np.testing.assert_allclose(store.read("pooled", [row])[0], live.numpy(), rtol=1e-4, atol=1e-5)
        assert store.frame_index([row])[0, 0].tolist() == starts
        np.testing.assert_allclose(store.frame_time([row])[0, 0], np.array(starts) / 12)


def test_time_steps_become_slots(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b"])
    options = dataclasses.replace(R3D, backbone="random:torchvision/mc3_18", taps=("steps.pooled",), n_clips=2)
    encode(rows, tmp_path / "s.zarr", options, quiet=True)
    store = open_store(tmp_path / "s.zarr")
    assert (store.n_slots, store.taps["steps.pooled"].shape) == (8, (512,))
    backbone = load_backbone(options.backbone, size=32).with_clips_of(4)
    clips = prepare(pixels("b", 20)[store.frame_index([1])[0, 0]], Recipe.from_dict(store.recipe).image)
    with torch.inference_mode():
        steps = TapExtractor(backbone, ["steps.pooled"])(clips.view(2, 4, 3, 32, 32))["steps.pooled"]
    np.testing.assert_allclose(store.read("steps.pooled", [1])[0], steps.numpy(), rtol=1e-4, atol=1e-5)


def test_clips_longer_than_a_video_fail_that_video_alone(tmp_path):
    rows = made_up_rows(tmp_path, ["a"])
    with pytest.raises(
        InputError, match="the video has 20 frames, a clip of 4 frames 9 apart needs 28; take a smaller"
    ):
        encode(rows, tmp_path / "s.zarr", dataclasses.replace(R3D, clip_stride=9), quiet=True)


def test_videos_are_added_with_the_clips_of_the_store(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b"])
    whole, grown = (tmp_path / name for name in ("whole.zarr", "grown.zarr"))
    options = dataclasses.replace(R3D, clip_length=6, clip_stride=2)
    encode(rows, whole, options, quiet=True)
    encode(rows[:1], grown, options, quiet=True)
    add_videos(grown, [VideoRow("b", "class b", "train", str(rows[1].path))], engine=INLINE, quiet=True)
    first, second = (open_store(path).read("pooled", [1]) for path in (whole, grown))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)  # batches of one and of two videos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "random:torchvision/resnet18", "clip_length": None, "n_clips": 2}, "resnet18 sees single frames"),
        ({"backbone": "random:torchvision/resnet18"}, "resnet18 sees single frames: leave --clips"),
        ({"backbone": "random:torchvision/mvit_v2_s", "size": None}, "takes clips of 16 frames, got --clip-length 4"),
        (
            {"backbone": "random:torchvision/mvit_v2_s", "clip_length": None},
            "mvit_v2_s takes frames of 224 pixels, got 32",
        ),
        ({"backbone": "random:torchvision/s3d"}, "s3d cannot take frames of 32 pixels and clips of 4 frames"),
        ({"taps": ("pooled", "steps.pooled")}, "steps.pooled gives a slot for each time step .* make two stores"),
        ({"taps": ("steps.poled",)}, "did you mean steps.pooled"),
        ({"clip_stride": -1}, "stride of a clip must be 0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_made(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        plan(made_up_rows(tmp_path, ["a"]), dataclasses.replace(R3D, **change))


@pytest.mark.parametrize("name", ["r3d_18", "mvit_v1_b", "s3d"])
def test_pictures_are_those_of_torchvision(name):
    image = load_backbone(f"random:torchvision/{name}").image
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    frames = pixels("a", 3).repeat(5, 1).repeat(5, 2)  # 200 x 280
    theirs = transform(torch.from_numpy(frames).permute(0, 3, 1, 2)).transpose(0, 1)
    ours = prepare(frames, image)
    assert ours.shape == theirs.shape
    level = 1 / 255 / min(image.std)
    assert (ours - theirs).abs().max() < 0.51 * level  # torchvision rounds to whole levels after resizing
