"""`fsar-prep weights`: which file holds published weights, and how to use it without a connection."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import EXIT_DONE, EXIT_FAILED, json_option, summary


@click.command("weights")
@click.argument("backbone")
@click.option("--file", type=click.Path(path_type=Path), help="Also check that this file is the right one and loads.")
@json_option
def command(backbone: str, file: Path | None, as_json: bool) -> int:
    """Say which file holds the weights of BACKBONE, where it comes from and where to put it. Nothing is fetched.

    For machines without a connection: fetch the file elsewhere, bring it here and pass it with --weights FILE to
    encode, tune and text. The exit code is 1 when --file is not what it should be.

    \b
    Examples:
      fsar-prep weights open_clip:ViT-B-16/openai
      fsar-prep weights torchvision:resnet50/IMAGENET1K_V2 --file resnet50-11ad3fa6.pth
    """  # noqa: D301 - click wants the backspace itself
    from fsar.errors import InputError
    from fsar.pipeline.backbones.published import published_weights
    from fsar.pipeline.backbones.spec import parse_spec

    spec = parse_spec(backbone)
    if not spec.tag:
        raise InputError(
            f"{backbone} names no published weights: write LIBRARY:NAME/TAG, like open_clip:ViT-B-16/openai"
        )
    found = published_weights(spec)
    data: dict[str, Any] = {
        "backbone": found.spec,
        "url": found.url,
        "page": found.page,
        "file": found.file_name,
        "sha256": found.sha256,
        "cache": found.cache,
        "cached": str(found.cached) if found.cached else None,
    }
    lines = [
        f"{found.spec}: {found.file_name}",
        f"  from    {found.url}",
        *([f"  page    {found.page} (it lists the files and their hashes)"] if found.page else []),
        f"  sha256  {_hash_text(found.sha256, found.page)}",
        f"  here    {found.cached or f'no; {spec.library} would keep it in {found.cache}'}",
        *_use(found.spec, spec.library, file or found.file_name),
    ]
    if file is not None:
        data["problem"] = _problem(backbone, file, found.sha256)
        lines.append(f"  {file}: {data['problem'] or 'is the right file and loads'}")
    summary(data, "\n".join(lines), as_json=as_json)
    return EXIT_FAILED if data.get("problem") else EXIT_DONE


def _use(name: str, library: str, file: Path | str) -> list[str]:
    if library != "hf":
        return [f"  use it  fsar-prep encode CATALOG --backbone {name} --weights {file} --out STORE"]
    return [
        "  with    config.json, preprocessor_config.json (or video_preprocessor_config.json), and for class text the",
        "          tokenizer's files, all in one folder",
        f"  use it  fsar-prep encode CATALOG --backbone {name} --weights FOLDER --out STORE",
    ]


def _hash_text(sha256: str, page: str) -> str:
    if not sha256:
        return "see the page" if page else "not known"
    return sha256 if len(sha256) == 64 else f"begins with {sha256}"


def _problem(backbone: str, file: Path, sha256: str) -> str | None:
    """Return what is wrong with a file that was brought, None if it loads and its hash is the known one."""
    from fsar.errors import InputError
    from fsar.files import sha256_file
    from fsar.pipeline.backbones import load_backbone

    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    found = sha256_file(file)
    if not found.startswith(sha256):
        return f"its sha256 is {found}, it must be {sha256}{'...' if len(sha256) < 64 else ''}: fetch it again"
    try:
        load_backbone(backbone, weights=file)
    except InputError as error:
        return str(error)
    return None
