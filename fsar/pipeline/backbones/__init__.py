"""Backbones: `load_backbone("open_clip:ViT-B-16/openai")`."""

from fsar.pipeline.backbones.base import Backbone, TapPoints, VideoInput, refuse_clips
from fsar.pipeline.backbones.load import load_backbone
from fsar.pipeline.backbones.spec import BackboneSpec, parse_spec
from fsar.pipeline.backbones.weights import load_exactly, read_weights, save_weights, state_sha256

__all__ = [
    "Backbone",
    "BackboneSpec",
    "TapPoints",
    "VideoInput",
    "load_backbone",
    "load_exactly",
    "parse_spec",
    "read_weights",
    "refuse_clips",
    "save_weights",
    "state_sha256",
]
