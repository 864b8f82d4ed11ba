import pytest
import torch

from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.encode import lanes as engine_lanes
from fsar.pipeline.encode.lanes import Lanes


@pytest.fixture
def three_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_core_has_a_lane_and_closing_gives_the_threads_back(three_cores):
    lanes = Lanes()
    assert (lanes.n_cores, lanes.n_lanes) == (3, 3)
    assert {lanes.submit(torch.get_num_threads).result() for _ in range(6)} == {1}
    lanes.close()
    assert torch.get_num_threads() == 3


def test_more_cores_than_lanes_are_shared(three_cores, monkeypatch):
    monkeypatch.setattr(engine_lanes, "MAX_LANES", 1)
    lanes = Lanes()
    assert lanes.n_lanes == 1
    assert lanes.submit(torch.get_num_threads).result() == 3
    lanes.close()


def test_what_fails_in_a_lane_is_raised_where_the_result_is_wanted(three_cores):
    lanes = Lanes()
    pending = lanes.submit(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        pending.result()
    lanes.close()


def test_lanes_that_share_taps_do_not_mix_their_batches(three_cores):
    extractor = TapExtractor(load_backbone("random:timm/test_resnet", size=32), ["map", "avgpool"])
    batches = list(torch.rand(24, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    alone = [extractor(batch) for batch in batches]
    lanes = Lanes()
    pending = [lanes.submit(extractor, batch) for batch in batches]
    together = [work.result() for work in pending]
    lanes.close()
    extractor.close()
    for first, second in zip(alone, together, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-6)
