"""Sentences around a class name, and two ways to write the name itself."""

import re
from dataclasses import dataclass
from pathlib import Path

from fsar.errors import InputError, unknown_name

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
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in lines:
        if line.count("{}") != 1:
            raise InputError(f"{path}: a template needs exactly one {{}} for the class name, got {line!r}")
    if not lines:
        raise InputError(f"{path} has no templates: write one a line, with {{}} for the class name")
    return TemplateSet(path.stem, tuple(lines))


def cleaned_name(name: str) -> str:
    """Return a class name as words: brackets and underscores dropped, `ApplyEyeMakeup` split, spaces single."""
    words = name if re.search(r"[\s_]", name) else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[\[\]_]+", " ", words).split())
