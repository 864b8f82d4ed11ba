"""Backbones: `load_backbone("open_clip:ViT-B-16/openai")`."""

from fsar.pipeline.backbones.base import Backbone, TapPoints, VideoInput, check_trainable
from fsar.pipeline.backbones.load import load_backbone
from fsar.pipeline.backbones.spec import BackboneSpec, parse_spec
from fsar.pipeline.backbones.weights import load_exactly, read_weights, save_weights, state_sha256

__all__ = [
    "Backbone",
    "BackboneSpec",
    "TapPoints",
    "VideoInput",
    "check_trainable",
    "load_backbone",
    "load_exactly",
    "parse_spec",
    "read_weights",
    "save_weights",
    "state_sha256",
]
