"""Sentences around a class name, and three ways to write the name itself."""

import re
from dataclasses import dataclass
from pathlib import Path

from fsar.documents import read_text
from fsar.errors import InputError, unknown_name
from fsar.splits import class_key

TEMPLATES: dict[str, tuple[str, ...]] = {
    "clip-fsar": ("a photo of {}",),
    "emp-net": (
        "a photo of action {}",
        "a picture of action {}",
        "Human action of {}",
        "{}, an action",
        "{} this is an action",
        "{}, a video of action",
        "Playing action of {}",
        "{}",
        "Playing a kind of action, {}",
        "Doing a kind of action, {}",
        "Look, the human is {}",
        "Can you recognize the action of {}?",
        "Video classification of {}",
        "A video of {}",
        "The man is {}",
        "The woman is {}",
    ),
    "plain": ("{}",),
    "hcl": ("{}",),
}
"""Published prompts, in the order of the papers' code. CLIP-MEI uses CLIP-FSAR's."""


@dataclass(frozen=True)
class TemplateSet:
    """Named prompts, each with one `{}` for the class name."""

    name: str
    templates: tuple[str, ...]

    def prompts(self, text: str) -> list[str]:
        """Return every template filled with `text`."""
        return [template.replace("{}", text) for template in self.templates]


def load_templates(name_or_file: str) -> TemplateSet:
    """Return a published set by name, or the lines of a text file. Blank lines are skipped.

    Raises InputError for an unknown name, an empty file, or a line without exactly one `{}`.
    """
    if name_or_file in TEMPLATES:
        return TemplateSet(name_or_file, TEMPLATES[name_or_file])
    path = Path(name_or_file)
    if not path.is_file():
        raise unknown_name("template set (or file of templates)", name_or_file, TEMPLATES)
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    for line in lines:
        if line.count("{}") != 1:
            raise InputError(f"{path}: a template needs exactly one {{}} for the class name, got {line!r}")
    if not lines:
        raise InputError(f"{path} has no templates: write one a line, with {{}} for the class name")
    return TemplateSet(path.stem, tuple(lines))


PLACEHOLDERS = (
    "something similar to other things that are already on the table",
    "something that cannot actually stand upright",
    "something else that cannot support it",
    "something that is not tearable",
    "something unbendable",
    "something in it",
    "something soft",
    "something",
    "somewhere",
    "some substance",
    "one of many similar things on the table",
    "number of",
    "part",
)
"""What Something-Something V2 writes in brackets in its templates, longer before shorter, as both splits need it."""

_PLACEHOLDER = re.compile(rf"\b(?:{'|'.join(PLACEHOLDERS)})\b", re.IGNORECASE)
_IS_TEMPLATE = re.compile(r"\b(?:something|somewhere|some substance|one of many similar things)\b", re.IGNORECASE)


ODD_NAMES = (
    "draw_sword",
    "ride_bike",
    "shake_hands",
    "shoot_bow",
    "Blow DryHair",
    "Walking WithDog",
    "Cutting in Kitchen",
)
"""Classes of HMDB51 and UCF101 whose published prompts are not the name as words."""


def published_name(name: str) -> str:
    """Return a class name as the prompts of CLIP-FSAR, CLIP-MEI and EMP-Net have it.

    Placeholders of Something-Something V2 get their brackets: `Moving part of something` is `Moving [part] of
    [something]` in the dataset's templates, while its labels and most split lists have none. Names of folders become
    words, but for the few that did not in the published lists. Names with blanks and no placeholder stay as they are.
    """
    odd = {class_key(odd): odd for odd in ODD_NAMES}.get(class_key(name))
    if odd is not None or "[" in name:
        return odd or name
    if _IS_TEMPLATE.search(name):
        return _PLACEHOLDER.sub(lambda found: f"[{found[0]}]", name)
    return name if " " in name else cleaned_name(name)


def cleaned_name(name: str) -> str:
    """Return a class name as words: brackets and underscores dropped, `ApplyEyeMakeup` split, spaces single."""
    words = name if re.search(r"[\s_]", name) else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[\[\]_]+", " ", words).split())
