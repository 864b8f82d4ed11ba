"""Small models of transformers in folders, as repositories have them, and what transformers itself gives for them."""

import json
from pathlib import Path

import torch
import transformers
from transformers.utils import logging

from fsar.device import seeded
from fsar.pipeline.backbones.hf.build import FAMILIES, OWN_MODELS

logging.disable_progress_bar()
CLASSIFIERS = {"videomae": "VideoMAEForVideoClassification", "vjepa2": "VJEPA2ForVideoClassification"}
PROCESSORS = {
    "videomae": ("VideoMAEImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "timesformer": ("VideoMAEImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "vivit": ("VivitImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}),
    "vjepa2": ("VJEPA2VideoProcessor", {"crop_size": 32}),
    "xclip": ("VideoMAEImageProcessor", {"size": {"shortest_edge": 35}, "crop_size": 32}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    "siglip2": ("Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 16}),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32},
                                     "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "dinov3_vit": ("DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "dinov3_convnext": ("DINOv3ViTImageProcessor", {"size": {"height": 64, "width": 64}}),
}  # fmt: skip
PROCESSORS["dinov2_with_registers"] = PROCESSORS["dinov2"]
WORDS = ["a", "photo", "of", "archery", "running", "push", "pull", "left", "right", "up", "down", "circle", "square"]


def config_of(kind: str) -> dict:
    return json.loads((OWN_MODELS / f"{kind}-tiny.json").read_text())


def make_model(folder: Path, kind: str, *, classifies: bool = False, shards: int = 1) -> Path:
    """Write a small model with noise on all weights: as they are initialised, zeros would hide much."""
    config = transformers.CONFIG_MAPPING[kind].from_dict(config_of(kind))
    name = CLASSIFIERS[kind] if classifies else FAMILIES[kind].model
    with seeded(3):
        model = getattr(transformers, name)(config, **({} if classifies else FAMILIES[kind].options))
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    n_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=n_bytes // shards + 1 if shards > 1 else "5GB")
    processor, options = PROCESSORS[kind]
    getattr(transformers, processor)(**options).save_pretrained(folder)
    if FAMILIES[kind].text:
        make_tokenizer(kind).save_pretrained(folder)
    return folder


def make_tokenizer(kind: str):
    """Return a tokenizer of whole words; the last number ends a text, as CLIP's pooling expects."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    end = int(config_of(kind)["text_config"]["vocab_size"]) - 1
    vocabulary = {"<pad>": 0, "<unk>": 2, **{word: 3 + i for i, word in enumerate(WORDS)}, "<end>": end}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )


def library_model(folder: Path, **changed):
    """Return the model as transformers loads it from a folder, with its classifier if it was saved with one."""
    config = transformers.AutoConfig.from_pretrained(folder, **changed)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder, config=config).eval()


def library_features(folder: Path, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return pooled features and last map as the forward of transformers gives them for prepared input."""
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    model = library_model(folder, **({"crop_size": pixels.shape[-1]} if kind == "vjepa2" else {}))
    with torch.no_grad():
        return globals()[f"_{'text_image' if kind in ('clip', 'siglip') else kind}"](model, pixels)


def _maps(tokens, n_before, n_steps=0):
    tokens = tokens[:, n_before:]
    side = int((tokens.shape[1] // (n_steps or 1)) ** 0.5)
    if not n_steps:
        return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
    rows = [tokens[:, step * side * side : (step + 1) * side * side] for step in range(n_steps)]
    return torch.stack([row.transpose(1, 2).reshape(len(tokens), -1, side, side) for row in rows], 2)


def _classifier_sees(model, **inputs):
    seen = []
    model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(**inputs)
    return seen[0]


def _videomae(model, pixels):
    if hasattr(model, "classifier"):
        tokens = model.videomae(pixels).last_hidden_state
        return {"pooled": _classifier_sees(model, pixel_values=pixels), "map": _maps(tokens, 0, 4)}
    tokens = model(pixels).last_hidden_state
    return {"pooled": tokens.mean(1), "map": _maps(tokens, 0, 4)}


def _vjepa2(model, pixels):
    n_steps = pixels.shape[1] // 2
    if hasattr(model, "classifier"):
        tokens = model.vjepa2.get_vision_features(pixels)
        return {"pooled": _classifier_sees(model, pixel_values_videos=pixels), "map": _maps(tokens, 0, n_steps)}
    tokens = model.get_vision_features(pixels)
    return {"pooled": tokens.mean(1), "map": _maps(tokens, 0, n_steps)}


def _timesformer(model, pixels):
    tokens = model(pixels).last_hidden_state
    n_steps = pixels.shape[1]
    by_place = tokens[:, 1:].reshape(len(tokens), -1, n_steps, tokens.shape[-1])
    return {"pooled": tokens[:, 0], "map": _maps(by_place.transpose(1, 2).flatten(1, 2), 0, n_steps)}


def _vivit(model, pixels):
    tokens = model(pixels).last_hidden_state
    return {"pooled": tokens[:, 0], "map": _maps(tokens, 1, 4)}


def _xclip(model, pixels):
    frames = model.get_video_features(pixels)
    last = frames.last_hidden_state.reshape(*pixels.shape[:2], *frames.last_hidden_state.shape[1:])[:, :, 1:]
    return {"pooled": frames.pooler_output, "map": _maps(last.flatten(1, 2), 0, pixels.shape[1])}


def _text_image(model, pixels):
    found = model.get_image_features(pixel_values=pixels)
    n_before = 1 if model.config.model_type == "clip" else 0
    return {"pooled": found.pooler_output, "map": _maps(found.last_hidden_state, n_before)}


def _siglip2(model, pixels):
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    patches = torch.stack([convert_image_to_patches(picture, 8) for picture in pixels])
    shapes, mask = torch.full((len(pixels), 2), pixels.shape[2] // 8), torch.ones(patches.shape[:2], dtype=torch.int32)
    found = model.get_image_features(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
    return {"pooled": found.pooler_output, "map": _maps(found.last_hidden_state, 0)}


def _dino(model, pixels):
    found = model(pixels)
    n_before = 1 + getattr(model.config, "num_register_tokens", 0)
    return {"pooled": found.pooler_output, "map": _maps(found.last_hidden_state, n_before)}


_dinov2 = _dinov2_with_registers = _dinov3_vit = _dinov3_convnext = _dino
