"""Clips as a pack would have stored them, for recipes whose frames came from a pack."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError
from fsar.pipeline.encode.clip_task import ClipTask
from fsar.pipeline.encode.recipe import Recipe, task_of

if TYPE_CHECKING:
    from fsar.pipeline.packs.layout import PackSettings


@dataclass(frozen=True)
class PackedFirst(ClipTask):
    """A video of which a pack stores some frames, among which the recipe's sampler then chooses."""

    settings: "PackSettings" = field(kw_only=True)

    def indices(self, n_frames: int) -> npt.NDArray[np.int32]:
        """Return the frames of every view, (V, T), as positions in the video itself."""
        from fsar.pipeline.packs.make import PackTask, stored_indices

        stored = stored_indices(PackTask(self.video_id, Path(self.path), self.settings), n_frames)
        return stored[super().indices(len(stored))].astype(np.int32)


def pack_settings_of(recipe: Recipe) -> "PackSettings | None":
    """Return how the frames of a recipe were packed; None where videos were read."""
    if recipe.packed is None:
        return None
    from fsar.pipeline.packs.layout import PackSettings

    try:
        return PackSettings(**recipe.packed)
    except TypeError as error:
        raise InputError(f"the recipe does not say how its frames were packed: {error}") from error


def one_clip(path: Path, recipe: Recipe) -> ClipTask:
    """Return what is decoded of a clip, so that the network sees of it what it saw of the videos of a store."""
    packed = pack_settings_of(recipe)
    if packed is None:
        return task_of(path.stem, str(path), recipe)
    wanted = (path.stem, str(path), recipe.sampler, recipe.n_slots, 1, recipe.seed)
    return PackedFirst(*wanted, clip=recipe.clip_shape, settings=packed)


def as_packed(frame: npt.NDArray[np.uint8], settings: "PackSettings") -> npt.NDArray[np.uint8]:
    """Return a frame (H, W, 3) as it comes out of a pack: shrunk, and through JPEG."""
    from fsar.pipeline.packs.jpeg import decode_jpeg, encode_jpeg, shrink

    small = shrink(frame, settings.short_side)
    found = np.empty_like(small)
    decode_jpeg(memoryview(encode_jpeg(small, settings.quality)), found)
    return found
