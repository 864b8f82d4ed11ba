import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from fsar.errors import InputError
from fsar.pipeline.pixels.colour import Jitter
from fsar.pipeline.pixels.prepare import CENTRE, View, draw_view, prepare
from fsar.pipeline.pixels.spec import CLIP_MEAN, CLIP_STD, ImageSpec, resized_shape

LEVEL = 1 / 255


def picture(height=60, width=107, n=2, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (n, height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy()


@pytest.mark.parametrize("mode", ["squash", "short-side"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(60, 107), (91, 40), (256, 256)])
def test_geometry_is_torchvisions(mode, antialias, interpolation, shape):
    frames = picture(*shape)
    spec = ImageSpec(mode, 48, 40, interpolation, antialias)
    floats = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    target = [48, 48] if mode == "squash" else [48]
    resized = functional.resize(floats, target, interpolation=v2.InterpolationMode(interpolation), antialias=antialias)
    expected = functional.center_crop(resized, [40, 40]).clamp(0, 1)
    torch.testing.assert_close(prepare(frames, spec), expected, atol=1e-5, rtol=0)


def test_open_clips_own_transform_up_to_its_rounding_to_8_bits():
    transform = open_clip.image_transform(64, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    frames = 64 + picture(90, 120, n=1) // 2  # Pillow clips between its two passes, which bicubic overshoots would show
    spec = ImageSpec("short-side", 64, 64, "bicubic", True, CLIP_MEAN, CLIP_STD)
    difference = (prepare(frames, spec)[0] - transform(Image.fromarray(frames[0]))).abs()
    assert difference.max() <= 2 * LEVEL / min(CLIP_STD)
    assert difference.mean() <= LEVEL / min(CLIP_STD)


def test_clip_fsars_geometry_on_a_hand_made_picture():
    frames = np.zeros((1, 256, 256, 3), np.uint8)
    frames[0, 16, 16] = 255
    prepared = prepare(frames, ImageSpec())
    assert prepared.shape == (1, 3, 224, 224)
    assert prepared[0, :, 0, 0].tolist() == [1, 1, 1]
    assert prepared.sum() == 3


def test_mean_and_std_are_taken_off():
    frames = np.full((1, 8, 8, 3), 255, np.uint8)
    spec = ImageSpec("squash", 8, 8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    assert prepare(frames, spec)[0, :, 0, 0].tolist() == [1.0, 3.0, 0.5]


def test_views_crop_flip_and_colour_as_they_say():
    frames = picture(48, 48)
    spec = ImageSpec("squash", 48, 40)
    whole = prepare(frames, ImageSpec("squash", 48, 48))
    corner = prepare(frames, spec, View(top=0.0, left=0.999))
    torch.testing.assert_close(corner, whole[:, :, :40, 8:])
    flipped = prepare(frames, spec, View(flip=True))
    torch.testing.assert_close(flipped, prepare(frames, spec).flip(3))
    grey = prepare(frames, spec, View(jitter=Jitter(True, (("brightness", 0.5),))))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    expected = functional.adjust_hue(functional.adjust_contrast(prepare(frames, spec), 1.4), -0.2)
    jitter = Jitter(False, (("contrast", 1.4), ("hue", -0.2)))
    torch.testing.assert_close(prepare(frames, spec, View(jitter=jitter)), expected)


def test_every_offset_of_a_random_crop_is_as_likely():
    spec = ImageSpec("squash", 10, 8)
    frames = np.arange(100, dtype=np.uint8).reshape(1, 10, 10, 1).repeat(3, 3)
    seen = []
    for index in range(300):
        view = draw_view(np.random.default_rng([7, index]), flip=False, jitter=False)
        seen.append(round(float(prepare(frames, spec, view)[0, 0, 0, 0]) * 255))
    assert set(seen) == {10 * top + left for top in range(3) for left in range(3)}
    assert min(seen.count(value) for value in set(seen)) > 15


def test_drawn_views_repeat_and_flip_only_when_allowed():
    draws = [draw_view(np.random.default_rng(index), flip=True, jitter=True) for index in range(40)]
    again = [draw_view(np.random.default_rng(index), flip=True, jitter=True) for index in range(40)]
    never = [draw_view(np.random.default_rng(index), flip=False, jitter=False) for index in range(40)]
    assert draws == again
    assert {view.flip for view in draws} == {True, False}
    assert not any(view.flip or view.jitter for view in never)
    assert [view.top for view in draws] == [view.top for view in never]
    orders = {tuple(name for name, _ in view.jitter.factors) for view in draws}
    assert len(orders) > 5
    assert all(0.5 <= factor <= 1.5 for view in draws for name, factor in view.jitter.factors if name != "hue")
    assert all(abs(factor) <= 0.25 for view in draws for name, factor in view.jitter.factors if name == "hue")


def test_short_sides_round_as_torchvision():
    spec = ImageSpec("short-side", 256, 224)
    assert resized_shape(240, 427, spec) == (256, 455)
    assert resized_shape(427, 240, spec) == (455, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "squish"}, "did you mean squash"),
        ({"interpolation": "nearest"}, "unknown interpolation"),
        ({"size": 300}, "between 1 and the resized 256"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
    ],
)
def test_impossible_geometry_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ImageSpec(**options)


def test_the_centre_view_is_the_default():
    frames = picture()
    assert torch.equal(prepare(frames, ImageSpec()), prepare(torch.from_numpy(frames), ImageSpec(), CENTRE))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_pixels():
    frames = picture()
    for mode in ("squash", "short-side"):
        spec = ImageSpec(mode, 48, 40, "bicubic", True)
        view = draw_view(np.random.default_rng(0), flip=True, jitter=True)
        on_gpu = prepare(torch.from_numpy(frames).cuda(), spec, view).cpu()
        torch.testing.assert_close(on_gpu, prepare(frames, spec, view), atol=1e-4, rtol=0)
