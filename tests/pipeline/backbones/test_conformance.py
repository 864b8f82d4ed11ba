"""What every backbone must do. A new one joins by a line in `cases.py`; a library without a case fails here."""

import pytest
import torch

from fsar.pipeline.backbones.hf.build import FAMILIES
from fsar.pipeline.backbones.spec import LIBRARIES
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.backbones.torchvision_video import VIDEO_NETWORKS
from tests.pipeline.backbone_helpers import add_tiny_clips
from tests.pipeline.backbones.cases import CASES, load

close = torch.testing.assert_close


def marked():
    return [pytest.param(name, marks=pytest.mark.slow if case.slow else ()) for name, case in CASES.items()]


@pytest.fixture(scope="module", params=marked())
def loaded(request, tmp_path_factory):
    add_tiny_clips(tmp_path_factory.mktemp("clips"))
    case = CASES[request.param]
    return case, load(case, tmp_path_factory.mktemp("models"))


def inputs(backbone, n=2):
    shape = (3, backbone.size, backbone.size)
    shape = shape if backbone.video is None else (backbone.video.length, *shape)
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def extract(backbone, *taps, batch):
    extractor = TapExtractor(backbone, taps)
    with torch.inference_mode():
        features = extractor(batch)
    extractor.close()
    return features


def test_every_library_and_every_network_for_clips_has_a_case():
    assert {name.partition(":")[0].partition(" ")[0] for name in CASES} == set(LIBRARIES)
    assert {name.partition(":")[2].partition(" ")[0] for name in CASES if name.startswith("hf:")} == set(FAMILIES)
    assert {name.partition(":")[2] for name in CASES if name.startswith("torchvision:")} == set(VIDEO_NETWORKS)


def test_features_are_what_the_library_itself_gives(loaded):
    case, backbone = loaded
    batch = inputs(backbone)
    with torch.inference_mode():
        own = case.own(backbone, batch)
    found = extract(backbone, *own, batch=batch)
    for tap, values in own.items():
        close(found[tap], values, msg=lambda text, tap=tap: f"{tap}: {text}")
    assert found["pooled"].shape == (2, backbone.dim)
    assert found["pooled"].std() > 0


def test_one_input_gives_the_same_alone_and_among_others(loaded):
    _, backbone = loaded
    batch = inputs(backbone)
    together, alone = (extract(backbone, "pooled", batch=b)["pooled"] for b in (batch, batch[1:]))
    close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_taps_have_the_shapes_that_are_announced(loaded):
    case, backbone = loaded
    assert set(case.taps) <= set(backbone.taps())
    batch = inputs(backbone)
    steps = [tap for tap in backbone.taps() if tap.startswith("steps.")]
    whole = [tap for tap in backbone.taps() if tap not in steps]
    for taps, n_slots in ((whole, 1), (steps, case.n_steps)):
        if taps:
            extractor = TapExtractor(backbone, taps)
            shapes = extractor.shapes()
            assert extractor.n_steps() == n_slots
            extractor.close()
            for tap, values in extract(backbone, *taps, batch=batch).items():
                assert tuple(values.shape) == (2 * n_slots, *shapes[tap]), tap


def test_time_steps_are_slices_of_the_map_in_order(loaded):
    _, backbone = loaded
    if backbone.video is None:
        return
    batch = inputs(backbone)
    grid = extract(backbone, "map", batch=batch)["map"]  # (B, C, t, h, w)
    steps = extract(backbone, "steps.map", "steps.tokens", "steps.map4max", batch=batch)
    for clip in range(2):
        for step in range(grid.shape[2]):
            row, piece = clip * grid.shape[2] + step, grid[clip, :, step]
            close(steps["steps.map"][row], piece)
            close(steps["steps.tokens"][row], piece.flatten(1).T)
    if backbone.points.steps_module is None:
        pooled = extract(backbone, "steps.pooled", batch=batch)["steps.pooled"]
        close(pooled, steps["steps.map"].mean((2, 3)))


def test_frames_of_a_clip_in_another_order_are_another_clip(loaded):
    _, backbone = loaded
    if backbone.video is not None:
        batch = inputs(backbone, 1)
        forward, backward = (extract(backbone, "pooled", batch=b)["pooled"] for b in (batch, batch.flip(1)))
        assert not torch.allclose(forward, backward, rtol=1e-4, atol=0)
