"""`fsar-prep text`: class-text embeddings for a store."""

from pathlib import Path
from typing import Any, Literal

import click

from fsar.cli.common import EXIT_DONE, json_option, summary


@click.command("text")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--encoder", required=True, help="open_clip:NAME/TAG|FILE, random:open_clip/NAME, bert:FOLDER|NAME, bert."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint of the CLIP model, in place of a tag.")
@click.option("--templates", default="clip-fsar", show_default=True, help="clip-fsar, emp-net, plain, hcl, or a file.")
@click.option("--pooling", help="For BERT: cls, pooler or mean [what the folder says, else cls].")
@click.option("--table", help="Name of the table [that of the templates].")
@click.option("--classes", "file", type=click.Path(path_type=Path), help="CSV class,text: words for each class.")
@click.option("--names", default="verbatim", show_default=True, help="verbatim or cleaned class names in prompts.")
@click.option("--split", help="Also the classes of this split that the store lacks.")
@click.option("--allow-mismatch", is_flag=True, help="Accept a text tower of another model than the store's.")
@click.option("--overwrite", is_flag=True, help="Replace a table of the same name.")
@json_option
def command(
    store: Path,
    encoder: str,
    weights: Path | None,
    templates: str,
    pooling: str | None,
    table: str | None,
    file: Path | None,
    names: Literal["verbatim", "cleaned"],
    split: str | None,
    allow_mismatch: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    r"""Add a table of class-text vectors to a store.

    Vectors are raw (not normalised), one for each template and class. The text tower must be that of the model that
    encoded the videos; BERT models have a space of their own.

    \b
    Example:
      fsar-prep text ssv2.zarr --encoder open_clip:ViT-B-16/openai --templates clip-fsar
    """
    from fsar.pipeline.store import open_store
    from fsar.pipeline.templates import load_templates
    from fsar.pipeline.text import check_same_model, class_texts, load_text_encoder, make_table
    from fsar.splits import load_split

    opened = open_store(store)
    template_set = load_templates(templates)
    classes = class_texts(opened, split=load_split(split) if split else None, file=file, names=names)
    text_encoder = load_text_encoder(encoder, weights=weights, pooling=pooling)
    if not allow_mismatch:
        check_same_model(opened.recipe, text_encoder.describe())
    made = make_table(table or template_set.name, text_encoder, classes, template_set)
    opened.write_text(made, overwrite=overwrite)
    summary(_data(store, made), _text(store, made), as_json=as_json)
    return EXIT_DONE


def _data(store: Path, table: Any) -> dict[str, Any]:
    shape = list(table.vectors.shape)
    return {"store": str(store), "table": table.name, "shape": shape, "encoder": dict(table.encoder)}


def _text(store: Path, table: Any) -> str:
    n_templates, n_classes, dim = table.vectors.shape
    model = f"{table.encoder['backbone']}, pooling {table.encoder['pooling']}"
    return f"{store}: text table {table.name}: {n_templates} templates x {n_classes} classes x {dim} ({model})"
