"""ST-Adapter: a convolution over time in a bottleneck, in front of frozen blocks."""

from torch import Tensor, nn


class DepthwiseAdapter(nn.Module):
    """The addition of an ST-Adapter to the patches in front of a block's attention.

    Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022,
    https://arxiv.org/abs/2206.13559: each channel of the bottleneck, half as wide as the tokens, is a weighted sum over
    three neighbouring frames. The class token is left alone. It adds nothing at first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        own = width // 2
        self.fc1, self.fc2 = nn.Linear(width, own), nn.Linear(own, width)
        self.conv = nn.Conv3d(own, own, (3, 1, 1), padding=(1, 0, 0), groups=own)
        for parameter in (self.conv.weight, self.conv.bias, self.fc1.bias, self.fc2.bias):
            assert parameter is not None
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, n_prefix: int, side: int) -> Tensor:
        """Return what is added to tokens (V, T, L, W) whose last side x side are patches."""
        own = self.fc1(tokens[:, :, n_prefix:]).permute(0, 3, 1, 2)  # (V, A, T, h * w)
        mixed = self.conv(own.unsqueeze(-1)).squeeze(-1)
        added: Tensor = self.fc2(mixed.permute(0, 2, 3, 1))
        return nn.functional.pad(added, (0, 0, n_prefix, 0))
