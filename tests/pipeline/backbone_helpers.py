"""Tiny models for the tests of backbones, taps and text."""

import json
from pathlib import Path

import open_clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"embed_dim": 24, "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}, "text_cfg": TEXT}
RESNET = {"embed_dim": 24, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT}


def add_tiny_clips(folder: Path) -> None:
    """Teach open_clip two models small enough for tests: `tiny-vit` and `tiny-rn`."""
    for name, config in (("tiny-vit", VIT), ("tiny-rn", RESNET)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
