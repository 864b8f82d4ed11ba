"""Raw frames that reach the device together are prepared as each clip would be by itself."""

import numpy as np
import pytest
import torch

from fsar.pipeline.encode.staging import Item, Staging, alike
from fsar.pipeline.pixels.prepare import CENTRE, View, draw_view, prepare
from fsar.pipeline.pixels.spec import ImageSpec

T, SIZE = 3, 32
SPECS = [ImageSpec(resize=40, size=SIZE), ImageSpec(resize=40, size=SIZE, arithmetic="uint8", antialias=True)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def clip(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (T, height, width, 3), np.uint8)


def items(seed: int = 0) -> list[Item]:
    """Two clips of one size, apart from each other; one of another size; one that failed; views of their own."""
    jittered = draw_view(np.random.default_rng(3), flip=True, jitter=True)
    flipped = View(0.2, 0.9, flip=True)
    return [
        (clip(40, 50, seed), CENTRE),
        (clip(60, 44, seed + 1), CENTRE),
        (None, CENTRE),
        (clip(40, 50, seed + 2), CENTRE),
        (clip(40, 50, seed + 3), flipped),
        (clip(40, 50, seed + 4), jittered),
        (clip(40, 50, seed + 5), jittered),
    ]


def test_clips_that_one_resize_serves_are_found():
    assert alike(items()) == [[0, 3], [1], [4], [5], [6]]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.arithmetic)
def test_a_batch_holds_what_each_clip_alone_gives(spec, device):
    staging = Staging(device, 2)
    for seed in range(5):  # more batches than buffers, of other sizes
        batch_items = items(10 * seed)[seed % 3 :]
        shape = (len(batch_items) * T, 3, SIZE, SIZE)
        batch = torch.full(shape, 7.0, device=device).contiguous(memory_format=torch.channels_last)
        staging.prepare(batch_items, spec, batch)
        for (frames, view), place in zip(batch_items, batch.split(T), strict=True):
            if frames is None:
                assert not place.any()
            else:
                alone = prepare(torch.from_numpy(frames).to(device), spec, view)
                torch.testing.assert_close(place, alone, rtol=0, atol=1e-6)


def test_a_batch_of_failed_videos_is_black(device):
    batch = torch.ones(2 * T, 3, SIZE, SIZE, device=device)
    Staging(device, 1).prepare([(None, CENTRE), (None, CENTRE)], SPECS[0], batch)
    assert not batch.any()
