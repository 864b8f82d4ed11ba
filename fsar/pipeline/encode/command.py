"""A recipe as the command that makes it again."""

from collections.abc import Mapping, Sequence
from typing import Any


def encode_command(recipe: Mapping[str, Any], taps: Sequence[str], out: str = "NEW.zarr") -> str:
    """Return the line that encodes a catalog (or a pack) as a store's recipe says, but with these taps."""
    options = " ".join(f"--tap {tap}" for tap in taps)
    source = "NAME.frames" if recipe.get("packed") else "catalog.csv"
    return f"fsar-prep encode {source} --backbone {backbone_spec(recipe)} {_settings(recipe)}{options} --out {out}"


def backbone_spec(recipe: Mapping[str, Any]) -> str:
    """Return the backbone of a recipe as the command line writes it."""
    library, backbone, tag = (recipe.get(key, "") for key in ("library", "backbone", "pretrained"))
    if not library:
        return str(backbone or "BACKBONE")
    if str(tag).startswith("random"):
        seed = str(tag).partition("@")[2]
        return f"random:{library}/{backbone}{'' if seed in ('', '0') else f'@{seed}'}"
    if library == "hf":
        return f"hf:{backbone}" if tag == "file" else f"hf:{backbone}@{tag}"
    return f"{library}:{backbone}/{'FILE' if tag == 'file' else tag}"


def has_text_tower(recipe: Mapping[str, Any]) -> bool:
    """Return whether the model of a recipe has a text tower in the space of its pictures."""
    return bool(recipe.get("text_sha256")) or recipe.get("library", "open_clip") == "open_clip"


def _settings(recipe: Mapping[str, Any]) -> str:
    """Return the options that repeat a recipe, those that are at their defaults aside."""
    options = {name: recipe.get(field) for field, name in _OPTION_OF.items()}
    if clip := recipe.get("clip"):
        del options["frames"]
        n_clips = recipe["n_slots"] // clip["steps"]
        options |= {"clips": n_clips, "clip-length": clip["length"], "clip-stride": clip["stride"]}
    if recipe.get("packed"):
        del options["decoder"]
    chosen = [f"--{name} {value}" for name, value in options.items() if value not in (None, _DEFAULTS.get(name))]
    flags = [f"--{name.replace('_', '-')}" for name in ("flip", "fold_batch_norm") if recipe.get(name)]
    if "antialias" in recipe:  # whatever the default for a backbone is, these are the store's
        flags.append("--antialias" if recipe["antialias"] else "--no-antialias")
        chosen.append(f"--arithmetic {recipe.get('arithmetic', 'float32')}")
    flags += [f"--normalise {name}" for name, mean in _NORMALISATIONS.items() if list(recipe.get("mean", ())) == mean]
    if recipe.get("n_views", 1) > 1 and not recipe.get("jitter", True):
        flags.append("--no-jitter")
    return " ".join([*chosen, *flags, ""]) if chosen or flags else ""


_OPTION_OF = {
    "n_slots": "frames",
    "size": "size",
    "resize": "resize-to",
    "resize_width": "resize-width",
    "resize_mode": "resize",
    "interpolation": "interpolation",
    "sampler": "sampler",
    "n_views": "views",
    "seed": "seed",
    "decoder": "decoder",
    "precision": "precision",
    "dtype": "dtype",
}
"""Field of a recipe -> option of `fsar-prep encode`."""
_NORMALISATIONS = {"half": [0.45, 0.45, 0.45], "none": [0.0, 0.0, 0.0]}
"""Mean of those that no library has: for the others the default is right."""
_DEFAULTS = {
    "sampler": "uniform-center",
    "views": 1,
    "seed": 0,
    "resize-width": 0,
    "decoder": "pyav",
    "dtype": "float16",
}
