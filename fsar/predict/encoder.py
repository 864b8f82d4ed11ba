"""Clips to the features that a head was trained on: the same frames, pixels and weights, each clip computed once."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fsar.device import resolve_device
from fsar.errors import InputError
from fsar.files import write_safetensors
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.encode.clip_task import ClipTask, decode_task
from fsar.pipeline.encode.forward import Forward
from fsar.pipeline.encode.packed_frames import as_packed, one_clip, pack_settings_of
from fsar.pipeline.encode.precision import nearest_precision
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.encode.recorded_backbone import backbone_of
from fsar.pipeline.pixels.prepare import CENTRE
from fsar.pipeline.video.source import source_sha256

CACHE_VERSION = 1


def default_cache() -> Path:
    """Return where features of clips are kept: `$XDG_CACHE_HOME/fsar/predict`, else `~/.cache/fsar/predict`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fsar" / "predict"


class ClipEncoder:
    """Clips to features by one recipe. The backbone is loaded when the first clip is not in the cache."""

    def __init__(
        self,
        recipe: Mapping[str, Any],
        *,
        weights: Path | None = None,
        device: str = "cpu",
        cache: Path | None = None,
        forward: Forward | None = None,
    ) -> None:
        """Keep the recipe.

        Args:
            recipe: As a store records it.
            weights: Checkpoint file, for a recipe whose weights came from one.
            device: Of the forward pass.
            cache: Folder for features by recipe and content of the clip; None to keep none.
            forward: A backbone that is loaded already.
        """
        self.recipe = Recipe.from_dict(recipe)
        self._computed = replace(
            self.recipe, precision=nearest_precision(self.recipe.precision, resolve_device(device))
        )
        self._packed = pack_settings_of(self.recipe)
        self._weights, self._device, self._forward = weights, device, forward
        self._cache = None if cache is None else cache / f"v{CACHE_VERSION}-{self._computed.recipe_id[:16]}"

    @property
    def notes(self) -> list[str]:
        """What the user should know of the features."""
        wanted, computed = self.recipe.precision, self._computed.precision
        if wanted == computed:
            return []
        return [f"clips are encoded with {computed} on {self._device}, which has no {wanted}, that of the features"]

    def check(self) -> None:
        """Load the backbone now; raises InputError if it cannot be had or its weights are not those of the recipe."""
        self._loaded()

    def clip(self, path: Path) -> tuple[dict[str, Tensor], list[float]]:
        """Return tap -> (T, *shape) of a clip's first view, and the times of its frames in seconds.

        Raises:
            VideoError: the clip cannot be used; `str(error)` is one line that says why.
        """
        cached = self._cached_file(path)
        if cached is not None and cached.is_file():
            found = _read(cached)
            if found is not None:
                return found
        decoded = decode_task(self._task(path))
        features = self.frames(decoded.frames[decoded.slots[0]])
        times = [float(t) for t in decoded.frame_time[0]]
        if cached is not None:
            write_safetensors(
                cached, {tap: x.contiguous() for tap, x in features.items()}, {"times": json.dumps(times)}
            )
        return features, times

    def frames(self, frames: npt.NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return tap -> (T, *shape) of chosen frames (F, H, W, 3) RGB: those that `indices` names, for T slots."""
        if len(frames) != self.recipe.n_frames_seen:
            raise InputError(f"the recipe takes {self.recipe.n_frames_seen} frames of a clip, got {len(frames)}")
        if self._packed is not None:
            frames = np.stack([as_packed(frame, self._packed) for frame in frames])
        features = self._loaded().start([(frames, CENTRE)]).result()
        return {tap: torch.from_numpy(np.array(values[0])) for tap, values in features.items()}

    def indices(self, n_frames: int, name: str = "") -> list[int]:
        """Return the frames that the network sees of a video by this recipe, in order."""
        return [int(i) for i in self._task(Path(name)).indices(n_frames)[0]]

    def of_slots(self, values: Sequence[float]) -> list[float]:
        """Return of values for every frame that `indices` names those of the slots' first frames."""
        return [float(v) for v in self._task(Path()).of_slots(np.asarray([values]))[0]]

    def close(self) -> None:
        """Give the backbone's threads back."""
        if self._forward is not None:
            self._forward.close()

    def _loaded(self) -> Forward:
        if self._forward is None:
            extractor = TapExtractor(backbone_of(self.recipe, self._weights), self.recipe.taps)
            self._forward = Forward(extractor, self._computed, self._device)
        return self._forward

    def _task(self, path: Path) -> ClipTask:
        return one_clip(path, self.recipe)

    def _cached_file(self, path: Path) -> Path | None:
        if self._cache is None or not path.exists():
            return None
        # A random sampler draws by the clip's name.
        key = hashlib.sha256(f"{source_sha256(path)} {path.stem}".encode(errors="surrogateescape")).hexdigest()
        return self._cache / f"{key}.safetensors"


def _read(path: Path) -> tuple[dict[str, Tensor], list[float]] | None:
    """Return the features of a cache file; None if it is damaged: it is made again then."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            times = json.loads((file.metadata() or {})["times"])
            return {tap: file.get_tensor(tap) for tap in file.keys()}, times  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError):
        return None


def roles_of(
    features: Sequence[Mapping[str, Tensor]], taps: Mapping[str, str], frames: Sequence[int]
) -> dict[str, Tensor]:
    """Return role -> (V, T, ...) float32 of clips with features tap -> (slots, ...), at the slots `frames`."""
    return {role: torch.stack([clip[tap][list(frames)].float() for clip in features]) for role, tap in taps.items()}
