"""Published pipelines against Pillow and torchvision, given the same draws."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as pillow
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from fsar.errors import InputError
from fsar.pipeline.pixels.draws import Draws
from fsar.pipeline.pixels.published import list_pipelines, pixel_pipeline
from fsar.pipeline.pixels.spec import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from fsar.pipeline.pixels.steps import ClipJitter, ColourJitter, Flip, Grey, RandomCrop, RandomResizedCrop
from fsar.pipeline.video.sample import is_random_sampler, sample_indices

LEVEL = 1 / 255
SIZE = 56


def clip(height=70, width=110, n=3, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (n, height // 5 + 1, width // 5 + 1, 3), dtype=np.uint8)
    return coarse.repeat(5, 1).repeat(5, 2)[:, :height, :width].copy()


def visit(name, role, frames, step=4, **options):
    return pixel_pipeline(name, SIZE).train(frames, role, seed=3, step=step, video_id="a/b.webm", **options)


def trx_by_pillow(frames, draws, *, flip):
    """Restate TRX's transforms on Pillow images: resize, flip, crop."""
    pictures = []
    for frame in frames:
        image = Image.fromarray(frame)
        width, height = image.size
        size = (64, int(64 * height / width)) if width < height else (int(64 * width / height), 64)
        image = image.resize(size, Image.Resampling.BILINEAR)
        if flip and draws.uniforms("flip", 1)[0] < 0.5:
            image = ImageOps.mirror(image)
        top, left = draws.uniforms("crop", 2)
        x, y = int(left * (image.width - SIZE + 1)), int(top * (image.height - SIZE + 1))
        pictures.append(pillow.to_tensor(image.crop((x, y, x + SIZE, y + SIZE))))
    return torch.stack(pictures)


@pytest.mark.parametrize("name", ["trx", "strm", "lib", "clip-mei", "clip-mei-ssv2"])
@pytest.mark.parametrize("shape", [(70, 110), (130, 90)])
def test_trx_and_its_relatives_do_what_pillow_does(name, shape):
    frames = clip(*shape)
    for step in range(6):
        expected = trx_by_pillow(frames, Draws(3, step, "a/b.webm"), flip=name != "clip-mei-ssv2")
        for role in ("support", "query"):
            got = visit(name, role, frames, step)
            assert (got - expected).abs().max() <= 1.01 * LEVEL
            assert (got == expected).float().mean() > 0.98
    centred = pillow.center_crop(pillow.resize(Image.fromarray(frames[0]), [64]), [SIZE])
    assert (pixel_pipeline(name, SIZE).evaluate(frames)[0] - pillow.to_tensor(centred)).abs().max() <= 1.01 * LEVEL


def clip_fsar_by_torchvision(frames, draws, *, augmented, mean, std, width):
    """Restate the CLIP-FSAR code base: [0, 1], flip, squash, crop, grey, four changes in drawn order, normalise."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    if augmented and draws.uniforms("flip", 1)[0] < 0.5:
        pixels = functional.hflip(pixels)
    pixels = functional.resize(pixels, [64, width], antialias=False)
    top, left = (int(share * (side - SIZE)) for share, side in zip(draws.uniforms("crop", 2), (64, width), strict=True))
    pixels = functional.crop(pixels, top, left, SIZE, SIZE)
    if augmented:
        jitter = ClipJitter().draw(draws)
        if jitter.grey:
            pixels = functional.rgb_to_grayscale(pixels, 3)
        for name, factor in jitter.factors:
            pixels = getattr(functional, f"adjust_{name}")(pixels, factor)
    return functional.normalize(pixels, mean, std)


@pytest.mark.parametrize(
    ("name", "augmented", "is_clip", "width"),
    [
        ("clip-fsar", (), True, 64),
        ("clip-fsar-half", (), False, 64),
        ("clip-fsar-kinetics", ("query",), True, 64),
        ("hyrsm", ("query",), False, 64),
        ("hyrsm-epic", ("query",), False, 80),
        ("hyrsm++-epic", ("query",), False, 80),
        ("molo", ("query",), False, 64),
        ("emp-net", ("support",), True, 64),
    ],
)
def test_the_clip_fsar_code_base_role_by_role(name, augmented, is_clip, width):
    mean, std = (CLIP_MEAN, CLIP_STD) if is_clip else ([0.45] * 3, [0.225] * 3)
    frames = clip()
    for step in range(5):
        for role in ("support", "query"):
            draws = Draws(3, step, "a/b.webm")
            expected = clip_fsar_by_torchvision(
                frames, draws, augmented=role in augmented, mean=mean, std=std, width=width
            )
            torch.testing.assert_close(visit(name, role, frames, step), expected, atol=2e-5, rtol=0)
    squashed = functional.resize(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255, [64, width], antialias=False)
    expected = functional.normalize(functional.center_crop(squashed, [SIZE, SIZE]), mean, std)
    torch.testing.assert_close(pixel_pipeline(name, SIZE).evaluate(frames), expected, atol=2e-5, rtol=0)


def hcl_by_pillow(image, draws):
    """Restate HCL's type1 with torchvision's functions on a Pillow image."""
    top, left, height, width = RandomResizedCrop(SIZE).box(image.height, image.width, draws)
    image = pillow.resized_crop(image, top, left, height, width, [SIZE, SIZE])
    if draws.uniforms("flip", 1)[0] < 0.5:
        image = pillow.hflip(image)
    if draws.uniforms("jitter", 1)[0] < 0.8:
        for index in draws.order("colour order", 4):
            name = ("brightness", "contrast", "saturation", "hue")[index]
            reach = 0.1 if name == "hue" else 0.4
            factor = (0 if name == "hue" else 1) - reach + 2 * reach * draws.uniforms(name, 1)[0]
            image = getattr(pillow, f"adjust_{name}")(image, factor)
    if draws.uniforms("grey", 1)[0] < 0.2:
        image = pillow.to_grayscale(image, 3)
    return pillow.normalize(pillow.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)


def test_hcl_frame_by_frame():
    frames = clip(n=12)
    got = visit("hcl", "support", frames)
    expected = [
        hcl_by_pillow(Image.fromarray(frame), Draws(3, 4, "a/b.webm").of_frame(index))
        for index, frame in enumerate(frames)
    ]
    difference = (got - torch.stack(expected)).abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert difference.mean() < 1.5 * LEVEL  # Pillow turns hues in whole levels
    assert difference.max() < 12 * LEVEL
    squashed = pillow.to_tensor(pillow.resize(Image.fromarray(frames[0]), [SIZE, SIZE]))
    tested = pixel_pipeline("hcl", SIZE).evaluate(frames)[0]
    assert (tested - pillow.normalize(squashed, IMAGENET_MEAN, IMAGENET_STD)).abs().max() <= 1.01 * LEVEL / 0.224


def test_boxes_are_drawn_as_torchvision_draws_them():
    """The same distribution: torchvision's own draws and ours agree in mean, spread and reach."""
    ours = np.array([RandomResizedCrop(8).box(90, 160, Draws(0, step, "v")) for step in range(2000)])
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(8, scale=(0.2, 1))
    theirs = np.array(
        [[transform.make_params([torch.zeros(3, 90, 160)])[k] for k in ("top", "left", "height", "width")]
         for _ in range(2000)]
    )  # fmt: skip
    torch.random.set_rng_state(generator)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.08)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.08)
    assert (ours[:, 0] + ours[:, 2] <= 90).all()
    assert (ours[:, 1] + ours[:, 3] <= 160).all()


def test_a_box_that_never_fits_is_the_largest_allowed_one_in_the_middle():
    assert RandomResizedCrop(8).box(10, 400, Draws(0, 0, "v")) == (0, 193, 10, 13)
    assert RandomResizedCrop(8).box(400, 10, Draws(0, 0, "v")) == (193, 0, 13, 10)


@pytest.mark.parametrize("name", list_pipelines())
def test_a_visit_depends_on_seed_step_and_video_alone(name):
    pipeline, frames = pixel_pipeline(name, 32), clip()

    def draw(seed, step, video_id):
        return pipeline.train(frames, "query", seed=seed, step=step, video_id=video_id)

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # noqa: NPY002
    visits = {(seed, step, v): draw(seed, step, v) for seed in (0, 1) for step in (0, 1, 2, 3) for v in ("a", "b")}
    assert all(torch.equal(draw(*key), pixels) for key, pixels in reversed(visits.items()))
    assert len({pixels.numpy().tobytes() for pixels in visits.values()}) > 8
    assert (before[0], before[1]) == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert all(pixels.shape == (3, 3, 32, 32) and pixels.dtype == torch.float32 for pixels in visits.values())
    untouched = clip()
    assert (frames == untouched).all()


@pytest.mark.parametrize("name", list_pipelines())
def test_every_frame_is_cut_alike_but_for_hcl(name):
    frames = clip(n=1).repeat(4, 0)
    for role in ("support", "query"):
        got = visit(name, role, frames)
        assert torch.equal(got, got[:1].expand_as(got)) == (name != "hcl")


def test_offsets_reach_the_end_in_trx_and_stop_before_it_in_clip_fsar():
    pixels = torch.arange(40.0).expand(1, 3, 40, 40)
    for reaches_end, offsets in ((True, 9), (False, 8)):
        crop = RandomCrop(32, reaches_end)
        drawn = [int(crop(pixels, Draws(0, step, "v"))[0, 0, 0, 0]) for step in range(400)]
        assert set(drawn) == set(range(offsets))


def test_chances_are_the_published_ones():
    pixels = torch.zeros(1, 3, 2, 2)
    pixels[:, 0, :, 0] = 1
    n = 1000
    flipped = sum(not torch.equal(Flip()(pixels, Draws(0, step, "v")), pixels) for step in range(n))
    greyed = sum(not torch.equal(Grey()(pixels, Draws(0, step, "v")), pixels) for step in range(n))
    assert abs(flipped / n - 0.5) < 0.05
    assert abs(greyed / n - 0.2) < 0.04
    jitters = [ClipJitter().draw(Draws(0, step, "v")) for step in range(n)]
    assert abs(sum(jitter.grey for jitter in jitters) / n - 0.3) < 0.045
    values = {name: [dict(jitter.factors)[name] for jitter in jitters] for name in ("contrast", "hue")}
    assert (min(values["contrast"]), max(values["contrast"])) == pytest.approx((0.5, 1.5), abs=0.02)
    assert (min(values["hue"]), max(values["hue"])) == pytest.approx((-0.25, 0.25), abs=0.02)
    assert len({tuple(name for name, _ in jitter.factors) for jitter in jitters}) == 24
    levels = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    assert (
        abs(sum(not torch.equal(ColourJitter()(levels, Draws(0, s, "v")), levels) for s in range(n)) / n - 0.8) < 0.04
    )


def test_numbers_are_fixed_for_all_time():
    assert Draws(1, 2, "v").uniforms("crop", 2) == [0.3393640557449922, 0.9827371429029146]
    assert Draws(1, 2, "v").of_frame(0).below("x", 1000) == 316
    numbers = Draws(1, 2, "v").uniforms("many", 20)
    assert numbers[:9] == Draws(1, 2, "v").uniforms("many", 9)
    assert len(set(numbers)) == 20


@pytest.mark.parametrize("name", list_pipelines())
def test_frames_are_drawn_by_the_published_rule(name):
    pipeline = pixel_pipeline(name)
    for sampler in (pipeline.train_sampler, pipeline.test_sampler):
        sample_indices(sampler, 40, 8, np.random.default_rng(0))
    draws = [pipeline.indices(40, 8, seed=0, step=step, video_id="v").tolist() for step in range(20)]
    assert (len({tuple(indices) for indices in draws}) > 1) == is_random_sampler(pipeline.train_sampler)
    assert draws == [pipeline.indices(40, 8, seed=0, step=step, video_id="v").tolist() for step in range(20)]


def test_sizes_keep_their_proportion():
    assert pixel_pipeline("trx", 84).test.resize == 96
    assert pixel_pipeline("clip-fsar").test.resize == 256
    assert pixel_pipeline("hyrsm-epic").test.resize_width == 320
    with pytest.raises(InputError, match="did you mean clip-fsar"):
        pixel_pipeline("clipfsar")
    with pytest.raises(InputError, match="at least 8 pixels"):
        pixel_pipeline("trx", 4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list_pipelines())
def test_a_gpu_gives_the_same_pixels(name):
    frames = torch.from_numpy(clip())
    on_gpu = visit(name, "query", frames.cuda()).cpu()
    assert (on_gpu - visit(name, "query", frames)).abs().max() < 12 * LEVEL / 0.224


def test_the_page_names_every_pipeline():
    page = (Path(__file__).resolve().parents[3] / "docs" / "pixels.md").read_text()
    for name in list_pipelines():
        assert f"`{name}`" in page or f"`{name.removesuffix('-kinetics')}`" in page
