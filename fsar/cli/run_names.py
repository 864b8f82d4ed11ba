"""Names in a run file (heads, networks, splits, templates, ...): looked up before its first stage starts.

What may be a file or folder is left to the stage that reads it: an earlier one may make it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError, unknown_name

if TYPE_CHECKING:
    from fsar.cli.run_file import Stage


def check_names(stages: "Sequence[Stage]", folder: Path, *, where: str) -> None:
    """Raise InputError, with the stage and the key, for the first name that nobody has.

    Args:
        stages: All of the file, for one may name what another makes.
        folder: Where they will run.
        where: The file, for the message.
    """
    made = {text for stage in stages for text in stage.values.get("out", ())}
    for stage in stages:
        for key, texts in stage.values.items():
            for text in texts:
                try:
                    _look_up(stage, key, text, made, folder)
                except InputError as error:
                    raise InputError(f"{where}, [{stage.name}]: {key}: {error}") from None


def _look_up(stage: "Stage", key: str, text: str, made: Collection[str], folder: Path) -> None:
    if key in NAMES:
        NAMES[key](text)
    elif key in NAMES_OR_FILES and not _may_be_file(text, made, folder):
        NAMES_OR_FILES[key](text)
    elif key == "device" and "cluster" not in stage.values:
        _device(text)
    elif key == "preset":
        _preset(text, stage.values["head"][0])
    elif key == "option" and stage.name == "train":
        _option(text, stage.values["head"][0])


def _may_be_file(text: str, made: Collection[str], folder: Path) -> bool:
    return text in made or Path(text).name != text or bool(Path(text).suffix) or (folder / text).exists()


def _head(text: str) -> None:
    from fsar.heads.head import head_type

    head_type(text)


def _run_or_head(text: str) -> None:
    from fsar.heads.head import list_heads

    if text not in list_heads():
        raise unknown_name("run folder or head", text, list_heads())


def _backbone(text: str) -> None:
    from fsar.heads.finetune.settings import LAST_BLOCKS
    from fsar.pipeline.backbones.names import check_known

    if not text.startswith(LAST_BLOCKS):
        check_known(text)


def _text_encoder(text: str) -> None:
    from fsar.pipeline.backbones.names import check_known
    from fsar.pipeline.text.tables import encoder_kind

    if encoder_kind(text) != "bert":
        check_known(text)


def _split(text: str) -> None:
    from fsar.splits import load_split

    load_split(text)


def _templates(text: str) -> None:
    from fsar.pipeline.text.templates import load_templates

    load_templates(text)


def _sampler(text: str) -> None:
    from fsar.pipeline.video.sample import is_random_sampler

    is_random_sampler(text)


def _pixels(text: str) -> None:
    from fsar.pipeline.encode.image_choice import AS_TRAINED
    from fsar.pipeline.pixels.published import list_pipelines

    if text not in (known := [AS_TRAINED, *list_pipelines()]):
        raise unknown_name("way to prepare pixels", text, known)


def _images(text: str) -> None:
    from fsar.heads.finetune.images import list_images

    if text not in list_images():
        raise unknown_name("pixel pipeline", text, list_images())


def _decoder(text: str) -> None:
    from fsar.pipeline.video.decode import get_decoder

    get_decoder(text)


def _device(text: str) -> None:
    from fsar.device import resolve_device

    resolve_device(text)


def _preset(text: str, head: str) -> None:
    from fsar.heads.recipes.presets import get_preset

    if text != "published":  # which one depends on the split
        get_preset(text, head)


def _option(text: str, head: str) -> None:
    from fsar.heads.setup.options import typed_options

    name, _, value = text.partition("=")
    typed_options(head, {name: value})


NAMES: Mapping[str, Callable[[str], None]] = {
    "head": _head,
    "backbone": _backbone,
    "finetune": _backbone,
    "encoder": _text_encoder,
    "text-encoder": _text_encoder,
    "sampler": _sampler,
    "pixels": _pixels,
    "images": _images,
    "decoder": _decoder,
}
NAMES_OR_FILES: Mapping[str, Callable[[str], None]] = {
    "heads": _run_or_head,
    "compare": _run_or_head,
    "split": _split,
    "templates": _templates,
}
