"""What can be named: the networks of every library, with what is known of them before one is made."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from fsar.errors import InputError, unknown_name
from fsar.pipeline.backbones.spec import LIBRARIES


@dataclass(frozen=True)
class NamedBackbone:
    """A network that a library knows by name."""

    library: str
    name: str
    size: int | None
    """Pixels of its input; None where the library says it only of the network itself."""
    clip_length: int | None = None
    """Frames of a clip; None for single frames."""
    weights: tuple[str, ...] = ()
    """Tags of published weights; of transformers none, where repositories hold them."""

    @property
    def spec(self) -> str:
        """Return its name as commands take it, but for a tag; of transformers, where no weights have one, at random."""
        return f"random:hf/{self.name}" if self.library == "hf" else f"{self.library}:{self.name}"


def find_backbones(pattern: str = "", library: str | None = None) -> list[NamedBackbone]:
    """Return the networks that a pattern fits, in the order of libraries and names.

    Args:
        pattern: a name, a part of one, or a pattern with `*`, `?` or `[...]`; `LIBRARY:` before it chooses a library,
            and `/TAG` behind it is no part of it. A name that is one exactly stands for itself alone.
        library: one of them; None for all that are installed.

    Raises:
        InputError: unknown library, or nothing that fits (with the nearest names).

    """
    chosen, rest = _parted(pattern)
    library = chosen or library
    if library is not None and library not in LIBRARIES:
        raise unknown_name("backbone library", library, LIBRARIES)
    listed = [each for name in LIBRARIES if library in (None, name) for each in _LISTS[name]()]
    exact = [each for each in listed if each.name == rest]
    found = exact or [each for each in listed if _fits(each.name, rest)]
    if not found:
        where = f"{library} backbone" if library else "backbone"
        raise unknown_name(where, rest, {each.name for each in listed})
    return found


def is_exact(pattern: str, found: list[NamedBackbone]) -> bool:
    """Whether a pattern is the name of what was found."""
    return bool(pattern) and all(each.name == _parted(pattern)[1] for each in found)


def check_known(text: str) -> None:
    """Raise InputError unless the library of a backbone's name is one of ours and has such a network.

    Weights are not looked at: a file may be yet to be made. Nor are repositories and folders of transformers.
    """
    library, name = _parted(text)
    if library not in LIBRARIES:
        raise unknown_name(f"backbone library in {text!r}:", library, [*LIBRARIES, "random"])
    if library != "hf" or (text.startswith("random:") and "/" not in name):
        importlib.import_module(f"fsar.pipeline.backbones.{LIBRARIES[library]}").check_name(name)


def _parted(pattern: str) -> tuple[str, str]:
    """Return the library, empty where none is named, and the name in LIBRARY:NAME/TAG and random:LIBRARY/NAME@SEED."""
    if pattern.startswith("random:"):
        library, _, name = pattern.removeprefix("random:").partition("@")[0].partition("/")
        return library, name
    library, _, rest = pattern.rpartition(":")
    return library, rest.partition("/")[0]


def _fits(name: str, pattern: str) -> bool:
    wild = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    return fnmatch.fnmatchcase(name.lower(), wild.lower())


def _open_clip() -> Iterator[NamedBackbone]:
    import open_clip

    from fsar.pipeline.backbones.open_clip import OWN_MODELS

    for path in sorted(OWN_MODELS.glob("*.json")):
        open_clip.add_model_config(path)
    for name in sorted(open_clip.list_models()):
        size = open_clip.get_model_config(name)["vision_cfg"].get("image_size", 224)
        tags = tuple(open_clip.list_pretrained_tags_by_model(name))
        yield NamedBackbone("open_clip", name, int(size if isinstance(size, int) else size[0]), weights=tags)


def _torchvision() -> Iterator[NamedBackbone]:
    import torchvision

    from fsar.pipeline.backbones.torchvision import list_names
    from fsar.pipeline.backbones.torchvision_video import VIDEO_NETWORKS, evaluation_image

    for name in list_names():
        tags = tuple(weights.name for weights in torchvision.models.get_model_weights(name))
        family = VIDEO_NETWORKS.get(name)
        size = 224 if family is None else evaluation_image(name, None).size
        yield NamedBackbone("torchvision", name, size, family.video.length if family else None, tags)


def _timm() -> Iterator[NamedBackbone]:
    import timm

    tags: dict[str, list[str]] = {}
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        tags.setdefault(name, []).append(tag)
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name)
        yield NamedBackbone(
            "timm", name, int(config.input_size[-1]) if config else None, weights=tuple(tags.get(name, ()))
        )


def _hf() -> Iterator[NamedBackbone]:
    from fsar.pipeline.backbones.hf.build import describe_names

    try:
        yield from (NamedBackbone("hf", *facts) for facts in describe_names())
    except InputError:  # transformers, an extra, is not installed
        return


_LISTS = {"open_clip": _open_clip, "torchvision": _torchvision, "timm": _timm, "hf": _hf}
