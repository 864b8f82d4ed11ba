"""Raw frames that reach the device together are prepared as each clip would be by itself."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class Copies(TorchDispatchMode):
    """Counts copies into a batch."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func is torch.ops.aten.copy_.default and args[0].dtype == torch.float32
        return func(*args, **(kwargs or {}))


def test_clips_of_one_size_are_placed_in_one_go(device):
    clips = [(clip(40, 50, seed), CENTRE) for seed in range(4)]
    batch = torch.empty(4 * T, 3, SIZE, SIZE, device=device)
    with Copies() as copies:
        Staging(device, 1).prepare(clips, SPECS[0], batch)
    assert copies.n == 1
    alone = [prepare(torch.from_numpy(frames).to(device), SPECS[0], view) for frames, view in clips]
    torch.testing.assert_close(batch, torch.cat(alone), rtol=0, atol=1e-6)


def test_a_batch_of_failed_videos_is_black(device):
    batch = torch.ones(2 * T, 3, SIZE, SIZE, device=device)
    Staging(device, 1).prepare([(None, CENTRE), (None, CENTRE)], SPECS[0], batch)
    assert not batch.any()
