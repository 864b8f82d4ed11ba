"""Resizing and cropping where a video is decoded: its frames are hot there, and few bytes travel."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fsar.pipeline.encode.clip_task import ClipTask, Decode, DecodedClip, view_generator
from fsar.pipeline.jobs.fork_server import fork_server
from fsar.pipeline.pixels.prepare import CENTRE, View, cut_out, draw_view

if TYPE_CHECKING:
    from fsar.pipeline.encode.recipe import Recipe


def view_of(recipe: Recipe, video_id: str, view: int) -> View:
    """Return how a view of a video is cropped and coloured: the first from the centre, others drawn."""
    if view == 0:
        return CENTRE
    generator = view_generator(recipe.seed, f"view of {video_id}", view)
    return draw_view(generator, flip=recipe.flip, jitter=recipe.jitter)


def may_cut(recipe: Recipe) -> bool:
    """Tell whether decode processes should cut out: they have torch, and get whole levels, which are small."""
    return fork_server() is not None and recipe.arithmetic == "uint8"


def decode_and_cut(decode: Decode, recipe: Recipe, task: ClipTask) -> DecodedClip:
    """Decode a video and cut out its views, as the network would be given them otherwise. Raises what `decode` does."""
    clip = decode(task)
    start = time.process_time()
    views = [
        cut_out(clip.of_view(view), recipe.image, view_of(recipe, task.video_id, view)) for view in range(task.n_views)
    ]
    return replace(
        clip,
        frames=np.concatenate(views),
        slots=np.arange(clip.slots.size).reshape(clip.slots.shape),
        cpu_seconds=clip.cpu_seconds + time.process_time() - start,
        is_cut=True,
    )
