"""Several features from one forward pass of a backbone."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError, one_line, unknown_name
from fsar.pipeline.backbones.base import FIRST_TOKENS, Backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

THIRDS = {"early": 1, "middle": 2, "late": 3, "last": 3}
"""Names of block numbers: so many thirds of the depth, so that 12 blocks give EMP-Net's 3, 7 and 11."""
ALL_TOKENS = "tokens.all.raw"
BELOW = -1
"""The number of the block that would give what the first one is given."""


class _ForwardDone(Exception):
    """Raised by the deepest hook when nothing behind it is wanted."""


class TapExtractor:
    """Frames to the named features of a backbone, in one pass of the library's own forward.

    `pooled` (D,) is the tower's output, for CLIP the projected embedding before any normalisation; `map` (C, h, w) the
    last feature map of a ResNet after its ReLU; `avgpool` (C,) its mean over positions; `map4max` (16, C) its 4 x 4
    adaptive maximum in row-major order; `tokens.K` (L, D) every token after transformer block K (from 0) through the
    final normalisation and, for CLIP, the projection; `tokens.K.raw` (L, W) without them. Threads may share one.

    Of clips, `pooled`, `tokens.K` and `map` (C, t, h, w) are of the whole clip. The taps `steps.*` are of each of its t
    time steps: `steps.pooled` (D,), `steps.map` (C, h, w), `steps.map4max` (16, C), `steps.tokens` (h * w, C).
    """

    def __init__(self, backbone: Backbone, taps: Sequence[str]) -> None:
        self.backbone = backbone
        self.taps = resolve_taps(backbone, taps)
        self._thread = threading.local()
        self._handles = [module.register_forward_hook(self._hook(key)) for key, module in self._points().items()]
        if FIRST_TOKENS in self.taps:
            self._handles.append(backbone.points.blocks[0].register_forward_pre_hook(self._hook_of_input()))

    def __call__(self, frames: Tensor) -> dict[str, Tensor]:
        """Return tap -> (B, *shape) for normalised input, in the precision of the forward pass.

        Input are frames (B, 3, size, size), or clips (B, T, 3, size, size); time steps of clips stand one after the
        other, (B * t, *shape).
        """
        captured: dict[str, Tensor] = {}
        self._thread.captured = captured
        with contextlib.suppress(_ForwardDone):
            captured["pooled"] = self.backbone.module(frames)
        self._thread.captured = None
        return {tap: self._feature(tap, captured) for tap in self.taps}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one slot's feature for every tap. Raises InputError for input that does not fit."""
        return {tap: tuple(feature.shape[1:]) for tap, feature in self._tried.items()}

    def n_steps(self) -> int:
        """Return the slots that one input gives: 1, or the time steps of a clip."""
        return max(len(feature) for feature in self._tried.values())

    @functools.cached_property
    def _tried(self) -> dict[str, Tensor]:
        """The features of one black input."""
        import torch

        backbone = self.backbone
        try:
            with torch.inference_mode():
                return self(backbone.example())
        except (RuntimeError, ValueError, AssertionError) as error:
            clips = f" and clips of {backbone.video.length} frames" if backbone.video else ""
            raise InputError(
                f"{backbone.library}:{backbone.name} cannot take frames of {backbone.size} pixels{clips}: "
                f"{one_line(error)}"
            ) from error

    def close(self) -> None:
        """Take the hooks off the backbone."""
        for handle in self._handles:
            handle.remove()

    def _points(self) -> dict[str, nn.Module]:
        points = self.backbone.points
        wanted: dict[str, nn.Module] = {}
        by_module = points.steps_module is not None
        if by_module and "steps.pooled" in self.taps:
            assert points.steps_module is not None
            wanted["steps"] = points.steps_module
        of_map = [tap for tap in self.taps if tap != "pooled" and tap.removeprefix("steps.") in MAP_FEATURES]
        if points.map_module is not None and any(tap != "steps.pooled" or not by_module for tap in of_map):
            wanted["map"] = points.map_module
        for index in sorted({block_index(tap) for tap in self.taps if tap.startswith("tokens.")} - {BELOW}):
            wanted[f"tokens.{index}"] = points.blocks[index]
        return wanted

    def _hook(self, key: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def capture(module: nn.Module, inputs: Any, output: Any) -> None:
            self._capture(key, output)

        return capture

    def _hook_of_input(self) -> Callable[[nn.Module, Any], None]:
        def capture(module: nn.Module, inputs: Any) -> None:
            self._capture(f"tokens.{BELOW}", inputs)

        return capture

    def _capture(self, key: str, output: Any) -> None:
        captured = getattr(self._thread, "captured", None)
        if captured is None:  # the pass is another extractor's
            return
        captured[key] = _tensor(output)
        if "pooled" not in self.taps and len(captured) == len(self._handles):
            raise _ForwardDone

    def _feature(self, tap: str, captured: dict[str, Tensor]) -> Tensor:
        if tap == "pooled":
            return captured["pooled"]
        if tap.startswith("tokens."):
            return self._tokens(tap, captured[f"tokens.{block_index(tap)}"])
        if tap == "steps.pooled" and "steps" in captured:
            return captured["steps"].flatten(0, 1)
        grid = self.backbone.points.grid
        last_map = grid(captured["map"]) if grid is not None else captured["map"]  # (B, C, h, w) or (B, C, t, h, w)
        if self.backbone.video is None or tap == "map":
            return MAP_FEATURES[tap](last_map)
        return MAP_FEATURES[tap.removeprefix("steps.")](last_map.transpose(1, 2).flatten(0, 1))

    def _tokens(self, tap: str, tokens: Tensor) -> Tensor:
        points = self.backbone.points
        tokens = tokens if points.batch_first else tokens.transpose(0, 1)
        if tap.endswith(".raw"):
            return tokens
        assert points.finish is not None  # resolve_taps offers these taps only where it is defined
        return points.finish(tokens)


def _tensor(output: Any) -> Tensor:
    """Return the features among what a module of some library gives: alone, first of several, or by name."""
    output = getattr(output, "last_hidden_state", output)
    return output[0] if isinstance(output, tuple) else output


def max_tokens(last_map: Tensor) -> Tensor:
    """Return the 4 x 4 adaptive maximum of maps (B, C, h, w) as tokens (B, 16, C), row by row (STRM's patches)."""
    import torch.nn.functional as F

    return F.adaptive_max_pool2d(last_map, 4).flatten(2).transpose(1, 2)


MAP_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "avgpool": lambda last_map: last_map.mean((2, 3)),
    "map": lambda last_map: last_map,
    "map4max": max_tokens,
    "pooled": lambda last_map: last_map.mean((2, 3)),
    "tokens": lambda last_map: last_map.flatten(2).transpose(1, 2),
}
"""What can be made of the last feature map (B, C, h, w); the last two of a time step of clips alone."""


def resolve_taps(backbone: Backbone, taps: Sequence[str]) -> tuple[str, ...]:
    """Return the taps under their stored names: `tokens.early`, `.middle`, `.late` become block numbers.

    `tokens.all.raw` becomes `tokens.in.raw` and `tokens.K.raw` of every block.

    Raises InputError for no tap, one given twice, or one that this backbone does not have (with those that it has).
    """
    known = backbone.taps()
    resolved = tuple(name for tap in taps for name in _resolve(backbone, tap))
    for tap in resolved:
        if tap not in known:
            raise InputError(f"{unknown_name('tap', tap, known)}; {backbone.name} has {_summary(known)}")
    steps = [tap for tap in resolved if tap.startswith("steps.")]
    if steps and len(steps) < len(resolved):
        other = next(tap for tap in resolved if tap not in steps)
        raise InputError(f"{steps[0]} gives a slot for each time step and {other} one for each clip: make two stores")
    twice = sorted({tap for tap in resolved if resolved.count(tap) > 1})
    if twice or not resolved:
        raise InputError(f"taps must be named once each, got {', '.join(taps) or 'none'}")
    return resolved


def block_index(tap: str) -> int:
    """Return K of `tokens.K` or `tokens.K.raw`; BELOW of `tokens.in.raw`."""
    return BELOW if tap == FIRST_TOKENS else int(tap.split(".")[1])


def _resolve(backbone: Backbone, tap: str) -> list[str]:
    match = re.fullmatch(r"tokens\.([a-z]+)(\.raw)?", tap)
    n_blocks = len(backbone.points.blocks)
    if tap == ALL_TOKENS and n_blocks:
        return [FIRST_TOKENS, *(f"tokens.{index}.raw" for index in range(n_blocks))]
    if match is None or match[1] not in THIRDS or not n_blocks:
        return [tap]
    return [f"tokens.{max(n_blocks * THIRDS[match[1]] // 3 - 1, 0)}{match[2] or ''}"]


def _summary(known: Sequence[str]) -> str:
    plain = [tap for tap in known if not tap.startswith("tokens.")]
    last = max([block_index(tap) for tap in known if tap.startswith("tokens.")], default=BELOW)
    if last == BELOW:
        return ", ".join(plain)
    span = f"tokens.K.raw for K = 0..{last}"
    return ", ".join([*plain, f"tokens.K and {span}" if f"tokens.{last}" in known else span, FIRST_TOKENS])
