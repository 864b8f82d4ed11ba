"""What a store of a backbone's features would say of itself, before anything is encoded."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsar.errors import InputError, unknown_name
from fsar.heads.episodes.split_parts import STATUS_OK
from fsar.heads.finetune.videos import VideoSet
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.encode.recipe import describe_backbone
from fsar.pipeline.pixels.published import PixelPipeline
from fsar.pipeline.store import TapSpec, VideoRow, recipe_id

if TYPE_CHECKING:
    from fsar.pipeline.store import TextTable


class LiveStore:
    """The videos of a set as rows, the taps of a backbone as features, class text of its text tower.

    It answers what the setup of a head and of episodes asks of a feature store; features are made while training.
    """

    n_views = 1

    def __init__(
        self,
        videos: VideoSet,
        backbone: Backbone,
        images: PixelPipeline,
        *,
        n_frames: int,
        text: Mapping[str, "TextTable"] | None = None,
    ) -> None:
        self._set, self._backbone, self._images = videos, backbone, images
        self.n_slots = n_frames
        self.status = np.full(len(videos.videos), STATUS_OK, np.uint8)
        self._text = dict(text or {})
        taps = backbone.taps()
        if backbone.video is not None:
            taps = [tap for tap in taps if tap.startswith("steps.")]
        extractor = TapExtractor(backbone, taps)
        self.taps = {tap: TapSpec(shape, "float32") for tap, shape in extractor.shapes().items()}
        extractor.close()
        self._row_of: dict[str, int] = {}

    @property
    def path(self) -> Path:
        """The catalog or the pack."""
        return self._set.path

    @property
    def address(self) -> str:
        """The same as text."""
        return str(self._set.path)

    @property
    def videos(self) -> list[VideoRow]:
        """Row -> video."""
        return self._set.videos

    @property
    def n_videos(self) -> int:
        """Number of rows."""
        return len(self._set.videos)

    @property
    def recipe(self) -> dict[str, Any]:
        """The backbone that training starts from, and how frames become its input."""
        images = self._images
        return {
            **describe_backbone(self._backbone),
            "n_slots": self.n_slots,
            "images": images.name,
            "size": images.size,
            "test_images": asdict(images.test),
            "samplers": [images.train_sampler, images.test_sampler],
        }

    @property
    def recipe_id(self) -> str:
        """The hash of the recipe."""
        return recipe_id(self.recipe)

    def row_of(self, video_id: str) -> int:
        """Return the row of a video; raises InputError with the nearest ids."""
        if not self._row_of:
            self._row_of = {video.video_id: row for row, video in enumerate(self.videos)}
        if video_id not in self._row_of:
            raise unknown_name("video", video_id, self._row_of, n_listed=3)
        return self._row_of[video_id]

    def duplicates(self) -> list[list[int]]:
        """Return groups of rows with the same content."""
        return self._set.duplicates()

    def text_tables(self) -> list[str]:
        """Return the names of the text tables."""
        return sorted(self._text)

    def text(self, name: str) -> "TextTable":
        """Return a text table."""
        if name not in self._text:
            raise InputError(f"no text table {name!r}")
        return self._text[name]
