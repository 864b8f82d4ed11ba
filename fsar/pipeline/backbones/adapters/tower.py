"""A tower of frames that becomes one of clips: adapters between its blocks let the frames of a video see each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.pipeline.backbones.adapters.deformable import (
    STAGE_HEADS,
    STAGES,
    TRANSFORMER,
    TRANSFORMER_HEADS,
    DeformableAdapter,
)
from fsar.pipeline.backbones.adapters.depthwise import DepthwiseAdapter
from fsar.pipeline.backbones.base import Backbone, TapPoints, VideoInput
from fsar.pipeline.backbones.weights import state_sha256

AdapterKind = Literal["st-adapter", "d2st-adapter"]
ADAPTER_KINDS: tuple[AdapterKind, ...] = ("st-adapter", "d2st-adapter")
STAGE_NAMES = ("layer1", "layer2", "layer3", "layer4")
OWN_WEIGHTS: dict[AdapterKind, tuple[str, ...]] = {
    "st-adapter": (),
    "d2st-adapter": ("class_embedding", "cls_token", "ln_post", "norm"),
}
"""What else of the tower trains with the adapters in the released code, by open_clip's and timm's names."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """Which adapters a tower has."""

    kind: AdapterKind
    n_frames: int
    """Frames T of a clip."""
    projected: bool = True
    """Whether the features of a CLIP model go through its last projection; D2ST-Adapter was published without it."""

    def facts(self) -> dict[str, str]:
        """Return the entries of a weights file that say so."""
        return {
            "adapters": self.kind,
            "adapter_frames": str(self.n_frames),
            "adapter_projection": str(self.projected).lower(),
        }


class InTokens(nn.Module):
    """An adapter in front of or behind a transformer block, as a hook of it."""

    def __init__(self, adapter: nn.Module, n_frames: int, n_prefix: int, *, batch_first: bool) -> None:
        super().__init__()
        self.adapter = adapter
        self.n_frames, self.n_prefix, self.batch_first = n_frames, n_prefix, batch_first

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens of all frames, (V * T, L, W) or (L, V * T, W), with what the adapter adds."""
        frames = tokens if self.batch_first else tokens.transpose(0, 1)
        side = isqrt(frames.shape[1] - self.n_prefix)
        if side * side != frames.shape[1] - self.n_prefix:
            raise ValueError(f"adapters need a square of patches, got {frames.shape[1] - self.n_prefix}")
        clips = frames.reshape(-1, self.n_frames, *frames.shape[1:])
        frames = (clips + self.adapter(clips, self.n_prefix, side)).flatten(0, 1)
        return frames if self.batch_first else frames.transpose(0, 1)

    def before(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Change what a block takes."""
        return self(inputs[0]), *inputs[1:]

    def behind(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Change what a block gives."""
        changed: Tensor = self(output)
        return changed


class InMaps(nn.Module):
    """An adapter behind a stage of a ResNet, as a hook of it."""

    def __init__(self, adapter: nn.Module, n_frames: int) -> None:
        super().__init__()
        self.adapter, self.n_frames = adapter, n_frames

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (V * T, C, h, w) with what the adapter adds."""
        tokens = (
            maps.flatten(2).transpose(1, 2).reshape(-1, self.n_frames, maps.shape[2] * maps.shape[3], maps.shape[1])
        )
        added = self.adapter(tokens, 0, maps.shape[-1]).flatten(0, 1)
        return maps + added.transpose(1, 2).view_as(maps)

    def behind(self, stage: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Change what a stage gives."""
        changed: Tensor = self(output)
        return changed


class Adapters(nn.Module):
    """All that is added to a tower."""

    def __init__(self, layers: Iterable[nn.Module], temporal_embedding: nn.Parameter | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.temporal_embedding = temporal_embedding
        """(1, T, W), added to all tokens of a frame in front of the first norm; None where there is none."""

    def place_in_time(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tell the tokens (V * T, L, W) that a module takes which frame they are of."""
        assert self.temporal_embedding is not None
        tokens, n_frames = inputs[0], self.temporal_embedding.shape[1]
        clips = tokens.unflatten(0, (-1, n_frames)) + self.temporal_embedding.unsqueeze(2)
        return clips.flatten(0, 1), *inputs[1:]


class AdaptedTower(nn.Module):
    """A tower and its adapters: clips (V, T, 3, H, W) to the mean of their frames' features (V, D)."""

    def __init__(self, tower: nn.Module, adapters: Adapters, adaptation: Adaptation) -> None:
        super().__init__()
        self.tower, self.adapters, self.adaptation = tower, adapters, adaptation
        self.steps = nn.Identity()
        """Gives the feature of each frame, (V, T, D)."""
        self.left_out: nn.Parameter | None = None
        """The projection of a CLIP model that its features do not go through."""
        if not adaptation.projected and isinstance(projection := getattr(tower, "proj", None), nn.Parameter):
            self.left_out = projection
            tower.register_parameter("proj", None)

    def forward(self, clips: Tensor) -> Tensor:
        """Return (V, D)."""
        frames = self.tower(clips.flatten(0, 1))
        steps: Tensor = self.steps(frames.unflatten(0, clips.shape[:2]))
        return steps.mean(1)

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that train with the adapters: theirs, and what the released code adds to them."""
        wanted = OWN_WEIGHTS[self.adaptation.kind]
        own = [p for name, p in self.tower.named_parameters() if name.partition(".")[0] in wanted]
        return [*self.adapters.parameters(), *own]


def with_adapters(backbone: Backbone, adaptation: Adaptation) -> Backbone:
    """Return a backbone whose tower has adapters in it; their weights come from torch's current generator.

    It takes clips of `n_frames` frames, and its slots are the frames of a clip: "steps.pooled" where it had "pooled".

    Raises:
        InputError: a backbone that has no place for them.
    """
    if backbone.video is not None:
        raise InputError(f"{backbone.library}:{backbone.name} sees clips: adapters go into networks of single frames")
    if adaptation.n_frames < 1:
        raise InputError(f"clips must have at least 1 frame, got {adaptation.n_frames}")
    stages = [getattr(backbone.module, name, None) for name in STAGE_NAMES]
    if backbone.points.blocks:
        adapters = _in_transformer(backbone, adaptation)
    elif adaptation.kind == "d2st-adapter" and all(isinstance(stage, nn.Module) for stage in stages):
        adapters = _in_resnet(backbone, [stage for stage in stages if stage is not None], adaptation.n_frames)
    else:
        needed = "transformer" if adaptation.kind == "st-adapter" else "transformer or a ResNet with layer1 to layer4"
        raise InputError(f"{adaptation.kind} needs a {needed}; {backbone.library}:{backbone.name} is none")
    module = AdaptedTower(backbone.module, adapters, adaptation).eval()
    width = backbone.dim if module.left_out is None else len(module.left_out)
    points = TapPoints(backbone.points.map_module, _grid_of(adaptation.n_frames), module.steps)
    return replace(
        backbone, module=module, dim=width, points=points, video=VideoInput(adaptation.n_frames, fixed_length=True),
        weights_sha256=state_sha256(module.state_dict()),
    )  # fmt: skip


def _in_transformer(backbone: Backbone, adaptation: Adaptation) -> Adapters:
    tower, blocks, first = backbone.module, backbone.points.blocks, backbone.points.batch_first
    width, n_prefix = _token_width(backbone), _n_prefix(backbone)
    layers = [
        InTokens(_token_adapter(adaptation.kind, width), adaptation.n_frames, n_prefix, batch_first=first)
        for _ in blocks
    ]
    for layer, block in zip(layers, blocks, strict=True):
        if adaptation.kind == "st-adapter":
            block.register_forward_pre_hook(layer.before)
        else:
            block.register_forward_hook(layer.behind)
    if adaptation.kind == "st-adapter":
        return Adapters(layers)
    adapters = Adapters(layers, nn.Parameter(torch.zeros(1, adaptation.n_frames, width)))
    place = getattr(tower, "ln_pre", None) or getattr(tower, "norm_pre", None)
    if not isinstance(place, nn.Module):
        raise InputError(f"d2st-adapter does not know where {backbone.library}:{backbone.name} begins")
    place.register_forward_pre_hook(adapters.place_in_time)
    return adapters


def _token_adapter(kind: AdapterKind, width: int) -> nn.Module:
    if kind == "st-adapter":
        return DepthwiseAdapter(width)
    return DeformableAdapter(width, TRANSFORMER_HEADS, TRANSFORMER, of_maps=False)


def _in_resnet(backbone: Backbone, stages: Sequence[nn.Module], n_frames: int) -> Adapters:
    widths = _stage_widths(backbone, stages)
    layers = [
        InMaps(DeformableAdapter(width, n_heads, pathways, of_maps=True), n_frames)
        for width, n_heads, pathways in zip(widths, STAGE_HEADS, STAGES, strict=True)
    ]
    for layer, stage in zip(layers, stages, strict=True):
        stage.register_forward_hook(layer.behind)
    return Adapters(layers)


def _stage_widths(backbone: Backbone, stages: Sequence[nn.Module]) -> list[int]:
    widths: list[int] = []
    hooks = [stage.register_forward_hook(lambda _, __, maps: widths.append(maps.shape[1])) for stage in stages]
    with torch.no_grad():
        backbone.module(backbone.example())
    for hook in hooks:
        hook.remove()
    return widths


def _token_width(backbone: Backbone) -> int:
    norms = [child for child in backbone.points.blocks[0].modules() if isinstance(child, nn.LayerNorm)]
    if not norms:
        raise InputError(f"{backbone.library}:{backbone.name} has blocks without layer norms: no adapters fit there")
    return int(norms[0].normalized_shape[0])


def _n_prefix(backbone: Backbone) -> int:
    """Return how many tokens stand in front of the patches."""
    if hasattr(backbone.module, "num_prefix_tokens"):  # timm
        return int(backbone.module.num_prefix_tokens)  # type: ignore[arg-type]
    if hasattr(backbone.module, "class_embedding"):  # open_clip
        return 1
    raise InputError(f"{backbone.library}:{backbone.name} does not say which of its tokens are patches")


def _grid_of(n_frames: int) -> Any:
    """Return what makes maps of clips (V, C, T, h, w) of maps of frames."""
    return lambda maps: maps.unflatten(0, (-1, n_frames)).transpose(1, 2)
