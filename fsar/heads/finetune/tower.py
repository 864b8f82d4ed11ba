"""The backbone as a module that trains: normalised frames in, the features that a head reads out."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fsar.heads.batch import Features
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.backbones.taps import TapExtractor

BatchNormMode = Literal["train", "eval"]


class Tower(nn.Module):
    """A backbone and the taps of it that fill the roles of a head.

    `train()` puts batch norm into the mode `batch_norm`: "train" normalises each call by its own frames and moves the
    running statistics, as all published methods do; "eval" keeps the statistics that the weights came with.
    """

    input_dims = 3
    """Dimensions of one input: a frame (3, H, W), or of towers that see clips (T, 3, H, W)."""

    def __init__(self, backbone: Backbone, taps: Mapping[str, str], *, batch_norm: BatchNormMode = "train") -> None:
        """Hook the taps.

        Args:
            backbone: As loaded; its module becomes part of this one.
            taps: Role of the head -> tap of the backbone.
            batch_norm: See above.

        Raises:
            InputError: the backbone has no such tap.
        """
        super().__init__()
        self.backbone = backbone
        self.module = backbone.module
        self.batch_norm = batch_norm
        self._extractor = TapExtractor(backbone, list(dict.fromkeys(taps.values())))
        names = dict(zip(dict.fromkeys(taps.values()), self._extractor.taps, strict=True))
        self.taps = {role: names[tap] for role, tap in taps.items()}
        if backbone.video is not None:
            self.input_dims = 4

    def forward(self, frames: Tensor) -> Features:
        """Return role -> (..., *shape) for frames (..., 3, H, W), all of them in one call of the backbone.

        A tower that sees clips (..., T, 3, H, W) gives a feature for each of their frames, (..., T, *shape).
        """
        features = self._extractor(frames.reshape(-1, *frames.shape[-self.input_dims :]))
        lead = frames.shape[: -min(self.input_dims, 3)]  # of clips with the axis of their frames
        return {role: features[tap].reshape(*lead, *features[tap].shape[1:]) for role, tap in self.taps.items()}

    def embed(self, calls: Sequence[Tensor]) -> list[Features]:
        """Return the features of each of several (..., 3, H, W), in as many calls of the backbone."""
        return [self(frames) for frames in calls]

    @property
    def frames_per_input(self) -> int:
        """Frames that the tower sees together."""
        return 1 if self.backbone.video is None else self.backbone.video.length

    def train(self, mode: bool = True) -> "Tower":
        """Set the mode; batch norm follows `batch_norm`, and keeps its statistics where its weights are frozen."""
        super().train(mode)
        for norm in batch_norms(self.module):
            if self.batch_norm == "eval" or not any(weight.requires_grad for weight in norm.parameters()):
                norm.eval()
        return self

    @property
    def whole(self) -> Backbone:
        """The backbone that a training leaves behind."""
        return self.backbone

    @property
    def is_frozen(self) -> bool:
        """True if no weight of the backbone trains."""
        return not any(parameter.requires_grad for parameter in self.module.parameters())

    @property
    def couples_frames(self) -> bool:
        """True if, in its present mode, the features of a frame depend on chance or on the other frames of the call."""
        dropout = [m for m in self.module.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
        drop_path = [m for m in self.module.modules() if float(getattr(m, "drop_prob", 0) or 0) > 0]
        return any(module.training for module in (*batch_norms(self.module), *dropout, *drop_path))


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms inside `module`."""
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]
