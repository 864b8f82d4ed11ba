"""Class names to text vectors: one table of templates x classes in a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fsar.documents import parse_csv, read_text
from fsar.errors import InputError, unknown_name
from fsar.pipeline.text.templates import TemplateSet, cleaned_name, published_name

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore, TextTable
    from fsar.splits import Split

POOLINGS = ("cls", "pooler", "mean")
NAME_FORMS: dict[str, Callable[[str], str]] = {"verbatim": str, "published": published_name, "cleaned": cleaned_name}
PUBLISHED_SETS = ("clip-fsar", "emp-net")
"""Template sets of papers whose lists of class names are known."""
TWO_TOWERS = ("open_clip", "hf")
"""Libraries of models with a text tower in the space of their pictures."""
DEFAULT_BERT = "bert-base-cased"


class TextEncoder(Protocol):
    """Sentences to vectors."""

    def describe(self) -> dict[str, Any]:
        """Return what made the vectors: model, sha256 of its weights, pooling."""
        ...

    def n_too_long(self, sentences: Sequence[str]) -> int:
        """Return how many of the sentences are longer than the encoder reads."""
        ...

    def encode(self, sentences: Sequence[str], *, cut: bool = False) -> npt.NDArray[np.float32]:
        """Return raw vectors (n_sentences, D), not normalised.

        With `cut`, the end of a sentence that is too long is left out; without it such a sentence is an InputError.
        """
        ...


@dataclass(frozen=True)
class ClassText:
    """A class and the words that stand for it in a prompt."""

    class_name: str
    """As the store or the split has it."""
    text: str
    """What goes into the template."""


def load_text_encoder(
    spec: str, *, weights: Path | None = None, pooling: str | None = None, image_size: int | None = None
) -> TextEncoder:
    """Return a text encoder.

    Args:
        spec: `open_clip:NAME/TAG|FILE`, `hf:REPOSITORY|FOLDER`, `random:open_clip/NAME` or `random:hf/NAME` for the
            text tower of a model that compares pictures with text; `bert`, `bert:FOLDER` or `bert:HUB_NAME` for a
            BERT-family model.
        weights: checkpoint file (of transformers: a folder) of the whole model in place of published weights.
        pooling: how a BERT model's tokens become one vector: `cls`, `pooler` or `mean`; None takes what the folder says
            (sentence-transformers) or `cls`.
        image_size: pixels of the frames that the image tower saw. It shapes that tower, and the weights of a random
            model are drawn for both towers in one go.

    Raises:
        InputError: unknown encoder or pooling, weights that cannot be fetched, a checkpoint without a text tower.

    """
    if pooling is not None and pooling not in POOLINGS:
        raise unknown_name("pooling", pooling, POOLINGS)
    kind = encoder_kind(spec)
    if kind == "bert":
        from fsar.pipeline.text.bert import BertEncoder

        return BertEncoder(spec.partition(":")[2] or DEFAULT_BERT, pooling)
    if pooling is not None:
        raise InputError(f"--pooling is for BERT models; {spec} has its own")
    if kind == "open_clip":
        from fsar.pipeline.text.clip import ClipTextEncoder

        return ClipTextEncoder(spec, weights, image_size)
    from fsar.pipeline.text.hf import HfTextEncoder

    return HfTextEncoder(spec, weights, image_size)


def encoder_kind(spec: str) -> Literal["bert", "open_clip", "hf"]:
    """Return which library has the text encoder of this name; raises InputError where none has."""
    if spec.partition(":")[0] == "bert":
        return "bert"
    if spec.startswith(("open_clip:", "random:open_clip/")):
        return "open_clip"
    if spec.startswith(("hf:", "random:hf/")):
        return "hf"
    raise InputError(
        f"text encoder {spec!r} must be open_clip:NAME/TAG|FILE, hf:REPOSITORY|FOLDER, random:open_clip/NAME, "
        "random:hf/NAME, or bert:FOLDER|NAME"
    )


def make_table(
    name: str,
    encoder: TextEncoder,
    classes: Sequence[ClassText],
    templates: TemplateSet,
) -> TextTable:
    """Return the table of raw vectors (templates, classes, D) of every prompt."""
    from fsar.pipeline.store import TextTable

    if not classes:
        raise InputError("there are no classes to write text for")
    sentences = [template.replace("{}", row.text) for template in templates.templates for row in classes]
    vectors = encoder.encode(sentences).reshape(len(templates.templates), len(classes), -1)
    described = {
        **encoder.describe(),
        "template_set": templates.name,
        "texts": [row.text for row in classes],
        "cleaned_names": [cleaned_name(row.class_name) for row in classes],
    }
    names = tuple(row.class_name for row in classes)
    return TextTable(name=name, vectors=vectors, class_names=names, templates=templates.templates, encoder=described)


def default_names(templates: TemplateSet) -> str:
    """Return the form of class names that the published prompts of a template set have."""
    return "published" if templates.name in PUBLISHED_SETS else "verbatim"


def class_texts(
    store: FeatureStore,
    *,
    split: Split | None = None,
    file: Path | None = None,
    names: str = "verbatim",
) -> list[ClassText]:
    """Return the classes of a store in the order of its rows, then those of a split that the store lacks.

    A `file` (CSV with columns class,text, or one class a line) says which words stand for a class; classes that it does
    not name keep their own in the form `names`: verbatim, published or cleaned.
    """
    if names not in NAME_FORMS:
        raise unknown_name("form of class names", names, NAME_FORMS)
    listed = [video.class_name for video in store.videos]
    if split is not None:
        listed += [class_name for part in split.parts.values() for class_name in part]
    texts = read_class_file(file) if file is not None else {}
    known = dict.fromkeys([*listed, *texts])
    form = NAME_FORMS[names]
    return [ClassText(name, texts.get(name, form(name))) for name in known]


def read_class_file(path: Path) -> dict[str, str]:
    """Return class -> text of a CSV with columns class,text, or of a file with one class a line."""
    text = read_text(path)
    lines = text.splitlines()
    if lines and lines[0].strip().lower() == "class,text":
        pairs = [(cells[0].strip(), cells[1].strip()) for _, cells in parse_csv(text, path, ("class", "text"))[1]]
    else:
        pairs = [(line.strip(), line.strip()) for line in lines if line.strip()]
    texts = dict(pairs)
    if not texts or not all(texts) or not all(texts.values()):
        raise InputError(f"{path} must have a class on every line, or columns class,text with both filled")
    if len(texts) < len(pairs):
        raise InputError(f"{path} names a class twice")
    return texts


def check_same_model(recipe: Mapping[str, Any], encoder: Mapping[str, Any]) -> None:
    """Raise InputError when a CLIP text tower does not belong to the image tower that a store was made with.

    BERT models live in a space of their own and pass, as do stores of models that never had a text tower. A store whose
    checkpoint held the image tower alone cannot be checked by hash; then the model names must agree.
    """
    if encoder["kind"] not in TWO_TOWERS or not (recipe.get("text_sha256") or recipe.get("library") == "open_clip"):
        return
    stored = {key: str(recipe.get(key, "")) for key in ("text_sha256", "weights_sha256", "backbone")}
    if stored["text_sha256"]:
        same = stored["text_sha256"] == encoder["text_sha256"]
    else:
        same = stored["backbone"].removesuffix("-quickgelu") == str(encoder["backbone"]).removesuffix("-quickgelu")
    if not same:
        raise InputError(
            f"this text tower is not of the model that made the store: {encoder['backbone']} ({encoder['pretrained']}, "
            f"sha256 {encoder['text_sha256'][:12]}) != {stored['backbone']} ({recipe.get('pretrained')}, "
            f"sha256 {stored['text_sha256'][:12] or 'unknown'}); pass --allow-mismatch if you mean it"
        )
