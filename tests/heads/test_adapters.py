import pytest
import torch

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.head import create_head
from fsar.heads.layers.adapters import make_adapter, positions


@pytest.mark.parametrize("name", ["linear", "mlp", "temporal"])
def test_adapters_work_on_any_number_of_axes_and_frames(name):
    with seeded(0):
        adapter = make_adapter(name, 12, 0.0).eval()
    x = torch.linspace(-1, 1, 2 * 3 * 5 * 12).view(2, 3, 5, 12).sin()
    out = adapter(x)
    assert out.shape[:3] == (2, 3, 5)
    torch.testing.assert_close(out[1, 2], adapter(x[1:, 2:])[0, 0])  # a video does not see the others
    assert adapter(x[:, :, :2]).shape[2] == 2


def test_only_the_temporal_adapter_sees_the_order_of_frames():
    x = torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(0))
    for name, sees in (("linear", False), ("mlp", False), ("temporal", True)):
        with seeded(0):
            adapter = make_adapter(name, 12, 0.0).eval()
        turned = (adapter(x).mean(1) - adapter(x.flip(1)).mean(1)).abs().max()
        assert (turned > 1e-3) == sees


def test_the_linear_adapter_starts_as_the_normalised_features():
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    adapter = make_adapter("linear", 8, 0.5).eval()
    torch.testing.assert_close(adapter(x), torch.nn.functional.layer_norm(x, (8,)))


def test_positions_differ():
    code = positions(8, 16, torch.zeros(1))
    assert torch.pdist(code).min() > 0.5


def test_what_an_adapter_needs():
    with pytest.raises(InputError, match="needs the width of the features"):
        create_head("otam", adapter="linear")
    with pytest.raises(InputError, match="must be one of none, linear, mlp, temporal, got 'conv'"):
        create_head("tsn", adapter="conv", dim=8)
    assert not list(create_head("tsn").parameters())
