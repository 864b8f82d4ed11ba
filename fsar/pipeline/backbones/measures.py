"""What a network costs, measured on the network itself: parameters, features, bytes of a video, operations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError, one_line
from fsar.pipeline.backbones.load import builder
from fsar.pipeline.backbones.taps import TapExtractor

if TYPE_CHECKING:
    from fsar.pipeline.backbones.base import Backbone
    from fsar.pipeline.backbones.spec import BackboneSpec

N_FRAMES = 8
"""Frames of a video whose features are counted; of a network for clips it is one clip."""
FLOAT16_BYTES = 2


@dataclass(frozen=True)
class Measures:
    """A network as it is made."""

    size: int
    """Pixels of its input."""
    clip_length: int | None
    """Frames of a clip; None for single frames."""
    n_parameters: int
    """Of what sees pictures."""
    n_text_parameters: int
    """Of what belongs to it besides: its text tower. 0 where there is none."""
    taps: dict[str, tuple[int, ...]]
    """Tap -> shape of one slot. Of transformer blocks the first alone, which stands for all."""
    n_blocks: int
    """Transformer blocks, each of which has taps."""
    n_steps: int
    """Time steps of a clip: slots that taps of steps give. 1 for single frames."""
    n_operations: int
    """Of one frame or clip; a multiplication and the addition after it are two."""

    @property
    def usual_tap(self) -> str:
        """The tap that most heads read: of clips their time steps."""
        return "steps.pooled" if "steps.pooled" in self.taps else "pooled"

    @property
    def video_bytes(self) -> int:
        """Bytes of the usual tap of a video in float16: of 8 frames, or of the time steps of one clip."""
        n_slots = N_FRAMES if self.clip_length is None else self.n_steps
        return n_slots * math.prod(self.taps[self.usual_tap]) * FLOAT16_BYTES


def measure(spec: BackboneSpec) -> Measures:
    """Return the measures of a network with random weights; where its code allows without any memory for them.

    Raises InputError for a network that cannot be made or run.
    """
    try:
        with _without_memory():
            return _measured(builder(spec.library)(spec, None))
    except Exception:  # code that looks at numbers, which nothing has there, fails in whichever way it does
        return _measured_with_memory(spec)


def _measured_with_memory(spec: BackboneSpec) -> Measures:
    try:
        return _measured(builder(spec.library)(spec, None))
    except RuntimeError as error:
        raise InputError(f"{spec.library}:{spec.name} cannot be run: {one_line(error)}") from error


def _measured(backbone: Backbone) -> Measures:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    backbone.module.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), _countable_attention():
        backbone.module(backbone.example())
    named = [tap for tap in backbone.taps() if not tap.startswith("tokens.") or tap.startswith("tokens.0")]
    steps = [tap for tap in named if tap.startswith("steps.")]
    whole, _ = _shapes(backbone, [tap for tap in named if tap not in steps])
    of_steps, n_steps = _shapes(backbone, steps) if steps else ({}, 1)
    seen = sum(parameter.numel() for parameter in backbone.module.parameters())
    return Measures(
        size=backbone.size,
        clip_length=backbone.video.length if backbone.video is not None else None,
        n_parameters=seen,
        n_text_parameters=_text_parameters(backbone, seen),
        taps={**whole, **of_steps},
        n_blocks=len(backbone.points.blocks),
        n_steps=n_steps,
        n_operations=int(counter.get_total_flops()),
    )


def _shapes(backbone: Backbone, taps: list[str]) -> tuple[dict[str, tuple[int, ...]], int]:
    extractor = TapExtractor(backbone, taps)
    shapes, n_steps = extractor.shapes(), extractor.n_steps()
    extractor.close()
    return shapes, n_steps


def _text_parameters(backbone: Backbone, seen: int) -> int:
    whole = backbone.clip or (backbone.text.model if backbone.text is not None else None)
    return sum(parameter.numel() for parameter in whole.parameters()) - seen if whole is not None else 0


@contextmanager
def _without_memory() -> Iterator[None]:
    """Make tensors that have a shape and no numbers, but for short rows that models read while they are made."""
    import torch
    from torch.overrides import TorchFunctionMode

    class RowsOnCpu(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = dict(kwargs or {})
            if function is torch.linspace:  # rates of dropped paths, which become numbers one by one
                given.setdefault("device", "cpu")
            return function(*args, **given)

    with torch.device("meta"), RowsOnCpu():
        yield


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Keep torch's attention to operations that are counted one by one; its fused form is none of them."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
