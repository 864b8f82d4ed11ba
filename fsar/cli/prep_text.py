"""`fsar-prep text`: class-text embeddings for a store."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import EXIT_DONE, json_option, summary
from fsar.cli.store_address import LOCAL_STORE
from fsar.errors import count_of

DEFAULT_TEMPLATES = "clip-fsar"


@click.command("text")
@click.argument("store", type=LOCAL_STORE)
@click.option("--encoder", help="open_clip:NAME/TAG|FILE, hf:REPO|FOLDER, random:LIB/NAME, bert:FOLDER|NAME, bert.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Checkpoint (hf: folder) of the CLIP model, in place of a tag."
)
@click.option("--templates", help=f"clip-fsar, emp-net, plain, hcl, or a file [{DEFAULT_TEMPLATES}].")
@click.option("--pooling", type=click.Choice(["cls", "pooler", "mean"]), help="For BERT [the folder's own, else cls].")
@click.option("--table", help="Name of the table [that of the templates].")
@click.option("--classes", "file", type=click.Path(path_type=Path), help="CSV class,text: words for each class.")
@click.option(
    "--names",
    type=click.Choice(["verbatim", "published", "cleaned"]),
    help="How class names stand in prompts: as they are, as in the papers' prompts (SSv2's [something] in brackets), "
    "or as plain words [published for clip-fsar and emp-net, else verbatim].",
)
@click.option(
    "--descriptions",
    type=click.Path(path_type=Path),
    help='JSON {"class": ["a sentence", ...]} in place of prompts: a class is the mean direction of its sentences.',
)
@click.option("--cut", is_flag=True, help="With --descriptions: cut sentences that the encoder cannot read whole.")
@click.option(
    "--level",
    type=click.IntRange(min=0),
    metavar="K",
    help="The tokens that block K of the text tower gives, in place of vectors, for task-adapter++.",
)
@click.option("--split", help="Also the classes of this split that the store lacks.")
@click.option(
    "--import-hcl",
    "hcl_files",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="EMBS.pkl VID2EMBID.json",
    help="HCL's published vectors, in place of --encoder.",
)
@click.option("--average", is_flag=True, help="With --import-hcl: average the texts of a class's videos.")
@click.option("--allow-mismatch", is_flag=True, help="Accept a text tower of another model than the store's.")
@click.option("--overwrite", is_flag=True, help="Replace a table of the same name.")
@json_option
def command(
    store: Path,
    encoder: str | None,
    hcl_files: tuple[Path, Path] | None,
    table: str | None,
    average: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Add a table of class-text vectors to a store.

    Vectors are raw (not normalised), one for each template and class, or one for each class that --descriptions
    describes. The text tower must be that of the model that encoded the videos; BERT models have a space of their own.
    A table takes seconds, so there is no --cluster.

    \b
    Examples:
      fsar-prep text ssv2.zarr --encoder open_clip:ViT-B-16/openai --templates clip-fsar
      fsar-prep text ssv2.zarr --encoder open_clip:ViT-B-16/openai --descriptions ssv2.json --cut
    """  # noqa: D301
    from fsar.errors import InputError
    from fsar.pipeline.store import open_store, write_text
    from fsar.pipeline.text.hcl import read_hcl_text

    if (encoder is None) == (hcl_files is None):
        raise InputError("say where the vectors come from: either --encoder or --import-hcl")
    opened = open_store(store)
    if encoder is not None:
        made = _encode(opened, encoder, table, **options)
    else:
        assert hcl_files is not None
        if options["descriptions"] is not None:
            raise InputError("--descriptions needs an --encoder that reads them")
        videos = [(video.video_id, video.class_name) for video in opened.videos]
        made = read_hcl_text(*hcl_files, videos, name=table or "hcl", average=average)
    write_text(opened.path, made, overwrite=overwrite)
    summary(_data(store, made), _text(store, made), as_json=as_json)
    return EXIT_DONE


def _encode(
    store: Any,
    encoder: str,
    table: str | None,
    *,
    weights: Path | None,
    pooling: str | None,
    templates: str | None,
    split: str | None,
    allow_mismatch: bool,
    names: str | None,
    file: Path | None,
    descriptions: Path | None,
    cut: bool,
    level: int | None,
) -> Any:
    from fsar.errors import InputError
    from fsar.pipeline.text.descriptions import make_description_table
    from fsar.pipeline.text.tables import (
        TWO_TOWERS,
        check_same_model,
        class_texts,
        default_names,
        load_text_encoder,
    )
    from fsar.pipeline.text.templates import load_templates
    from fsar.pipeline.text.tokens import make_text_table
    from fsar.splits import load_split

    if descriptions is not None and any(given is not None for given in (templates, names, file)):
        raise InputError("--descriptions stands in place of --templates, --names and --classes: leave those out")
    if descriptions is not None and level is not None:
        raise InputError("--level keeps the tokens of prompts, and --descriptions averages vectors: leave one out")
    if cut and descriptions is None:
        raise InputError("--cut is for the sentences of --descriptions")
    template_set = load_templates(templates or DEFAULT_TEMPLATES)
    chosen = load_split(split) if split else None
    rows = class_texts(store, split=chosen, file=file, names=names or default_names(template_set))
    image_size = store.recipe["size"] if store.recipe.get("library") in TWO_TOWERS else None
    text_encoder = load_text_encoder(encoder, weights=weights, pooling=pooling, image_size=image_size)
    if not allow_mismatch:
        check_same_model(store.recipe, text_encoder.describe())
    if descriptions is not None:
        class_names = [row.class_name for row in rows]
        return make_description_table(table or "descriptions", text_encoder, class_names, descriptions, cut=cut)
    return make_text_table(table or template_set.name, text_encoder, rows, template_set, level)


def _data(store: Path, table: Any) -> dict[str, Any]:
    shape = list(table.vectors.shape)
    return {"store": str(store), "table": table.name, "shape": shape, "encoder": dict(table.encoder)}


def _text(store: Path, table: Any) -> str:
    n_templates, n_classes, dim = table.vectors.shape
    model = f"{table.encoder['backbone']}, pooling {table.encoder['pooling']}"
    size = f"{count_of(n_templates, 'template')} x {count_of(n_classes, 'class')} x {dim}"
    if (n_cut := table.encoder.get("n_cut")) is not None:
        n_sentences = count_of(sum(table.encoder["n_descriptions"]), "sentence")
        size = f"{n_sentences} ({n_cut} of them cut), {count_of(n_classes, 'class')} x {dim}"
    return f"{store}: text table {table.name}: {size} ({model})"
