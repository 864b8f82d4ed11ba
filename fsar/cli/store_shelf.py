"""`fsar-store push`, `list`, `find` and `head`: what a group shares, and how to share more."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, EXIT_FAILED, json_option, quiet_option, summary
from fsar.cli.store_address import ADDRESS, LOCAL_STORE, STORE, byte_progress
from fsar.cli.store_text import size_text
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.share import Address
    from fsar.pipeline.share.shelf import Match, OnShelf

SHELF_VARIABLE = "FSAR_SHELF"
WHERE = click.argument("where", type=STORE, required=False, metavar="[DIR|URL]")


@click.command("push")
@click.argument("store", type=LOCAL_STORE)
@click.argument("address", type=ADDRESS, metavar="URL")
@click.option("--dry-run", is_flag=True, help="Say what would be sent where, and stop.")
@json_option
@quiet_option
def push_command(store: Path, address: "Address", dry_run: bool, as_json: bool, quiet: bool) -> int:
    """Verify a store or a pack of frames and put it at an address; print the address to give to others.

    It is written to URL/NAME/IDENTITY/, the manifest last. Nothing that is there is overwritten; interrupted, the same
    command goes on. Absolute paths of videos are made relative on the way.

    \b
    Examples:
      fsar-store push ssv2.zarr s3://team/features
      fsar-store push ssv2.zarr hf://datasets/team/features
      fsar-store push ssv2.frames file:///mnt/shared/features
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.share.push import plan_push, push

    if dry_run:
        target, leaving = plan_push(store, address)
        size = f"{len(leaving.entries)} files, {size_text(leaving.n_bytes)}"
        text = f"{target.pinned(leaving.identity)}: {size}, nothing sent"
        data = {
            "address": str(target.pinned(leaving.identity)),
            "files": len(leaving.entries),
            "bytes": leaving.n_bytes,
        }
        summary(data, text, as_json=as_json)
        return EXIT_DONE
    report = push(store, address, progress=byte_progress("push", quiet=quiet))
    lines = [
        report.address,
        f"  {count_of(report.n_files, 'file')} ({size_text(report.n_bytes)}) sent, {report.n_kept} were there",
    ]
    if report.n_relative:
        lines.append(
            f"  the paths of {report.n_relative} videos were made relative, so its identity is not that of {store}"
        )
    data = {
        "address": report.address,
        "identity": report.identity,
        "files": report.n_files,
        "bytes": report.n_bytes,
        "kept": report.n_kept,
        "relative_paths": report.n_relative,
    }
    summary(data, "\n".join(lines), as_json=as_json)
    return EXIT_DONE


@click.command("list")
@WHERE
@json_option
def list_command(where: "Path | Address | None", as_json: bool) -> int:
    """Show the stores and packs in a folder or below an address: recipe, taps, videos, size, and which runs read them.

    Without DIR or URL: $FSAR_SHELF, else this folder. The exit code is 1 when a store cannot be read.

    \b
    Examples:
      fsar-store list /mnt/shared/features
      fsar-store list s3://team/features
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.share.shelf import list_shelf

    place = where or os.environ.get(SHELF_VARIABLE) or Path()
    stores = list_shelf(place)
    lines = [line for store in stores for line in _store_lines(store)] or [f"{place}: no stores"]
    summary({"where": str(place), "stores": [store.as_json() for store in stores]}, "\n".join(lines), as_json=as_json)
    return EXIT_FAILED if any(store.problem for store in stores) else EXIT_DONE


@click.command("find")
@WHERE
@click.option(
    "--backbone", default="", help="As encode takes it, or a part of it: open_clip:ViT-B-16/openai, ViT-B-16."
)
@click.option("--tap", "taps", multiple=True, help="A tap it must have; repeatable.")
@click.option("--split", default="", help="Split (name or CSV): how many of its videos are there.")
@click.option("--frames", "n_slots", type=click.IntRange(min=1), help="Frames stored of a video.")
@click.option("--size", type=click.IntRange(min=1), help="Pixels after the crop.")
@json_option
def find_command(where: "Path | Address | None", taps: tuple[str, ...], as_json: bool, **wish: Any) -> int:
    """Tell whether the group has features of a kind already, before a GPU is used.

    The exit code is 1 when nothing fits. Without DIR or URL: $FSAR_SHELF, else this folder.

    \b
    Example:
      fsar-store find s3://team/features --backbone open_clip:ViT-B-16/openai --tap pooled --split ssv2-cmn
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.share.shelf import Wish, find

    place = where or os.environ.get(SHELF_VARIABLE) or Path()
    matches = find(place, Wish(taps=taps, **wish))
    lines = [line for match in matches for line in _match_lines(match)] or [f"{place}: nothing fits"]
    data = {"matches": [{**m.store.as_json(), "videos": m.n_found, "videos_wanted": m.n_wanted} for m in matches]}
    summary(data, "\n".join(lines), as_json=as_json)
    return EXIT_DONE if matches else EXIT_FAILED


@click.command("head")
@click.argument("address", type=ADDRESS, metavar="URL")
@json_option
def head_command(address: "Address", as_json: bool) -> int:
    """Show what is at an address, in one or two round trips: identity, recipe, taps, videos, size.

    \b
    Example:
      fsar-store head https://data.lab.org/ssv2.zarr
    """  # noqa: D301 - click wants the backspace itself
    return show_at(address, as_json=as_json)


def show_at(address: "Address", *, as_json: bool) -> int:
    """Print what is known of a store or a pack at an address by its documents alone."""
    from fsar.pipeline.share.shelf import look

    store = look(address)
    summary(store.as_json(), "\n".join(_store_lines(store)), as_json=as_json)
    return EXIT_DONE


def _store_lines(store: "OnShelf") -> list[str]:
    if store.problem:
        return [f"{store.name}: {store.problem}"]
    parts = ", ".join(f"{part or 'no part'} {count}" for part, count in store.parts.items())
    taps = ", ".join(f"{name} {tap['shape']} {tap['dtype']}" for name, tap in store.taps.items())
    versions = f", {store.n_versions} versions" if store.n_versions > 1 else ""
    lines = [
        f"{store.name}: {size_text(store.n_bytes)}{f', {store.pushed}' if store.pushed else ''}{versions}",
        f"  {store.address}" + ("" if store.identity in store.address else f" (sha256={store.identity})"),
        f"  {store.recipe_line}",
        f"  {f'taps {taps}; ' if taps else ''}videos {parts}; {store.n_failed} failed",
    ]
    return [*lines, f"  read by {', '.join(store.runs)}"] if store.runs else lines


def _match_lines(match: "Match") -> list[str]:
    share = f"{match.n_found} of {match.n_wanted} videos"
    return [f"{share}: {match.store.address}", f"  {match.store.recipe_line}"]
