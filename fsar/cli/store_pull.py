"""`fsar-store pull` and `cache`: stores from elsewhere on this disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, json_option, quiet_option, summary
from fsar.cli.packs import PACK_SUFFIX
from fsar.cli.store_address import ADDRESS, byte_progress
from fsar.cli.store_text import size_text
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.share import Address


@click.command("pull")
@click.argument("address", type=ADDRESS, metavar="URL")
@click.option("--out", type=click.Path(path_type=Path), help="Where to. [default: the store's name, in this folder]")
@click.option("--tap", "taps", multiple=True, help="Only this tap; repeatable. (A chunk of HDF5 holds all taps.)")
@click.option("--part", "parts", multiple=True, help="Only chunks of this split part (train, val, test); repeatable.")
@click.option("--class", "classes", multiple=True, help="Only chunks of this class; repeatable.")
@click.option("--split", help="Split (name or CSV): only chunks of its videos; --part and --class are then its own.")
@click.option("--update", is_flag=True, help="Replace a copy by what is at the address now; equal files stay.")
@json_option
@quiet_option
def pull_command(address: "Address", out: Path | None, update: bool, as_json: bool, quiet: bool, **chosen: Any) -> int:
    """Copy a store, or some of its taps, parts and classes, from an address to this disk.

    Every file is verified while it comes. Interrupted, the same command goes on where it stopped. Whole chunks come: a
    copy of a part may hold some more videos. What a partial copy lacks is an error that names the command to fetch it.

    \b
    Examples:
      fsar-store pull https://data.lab.org/ssv2.zarr
      fsar-store pull s3://team/features/ssv2.zarr --tap pooled --part test --out ssv2-test.zarr
      fsar-store pull https://data.lab.org/ssv2.zarr#sha256=63ab... --out ssv2.zarr
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.share import Selection, pull

    address.require_store_name()
    selection = Selection(chosen["taps"], chosen["parts"], chosen["classes"], chosen["split"] or "")
    path = out or Path(address.name)
    report = pull(address, path, selection, update=update, progress=byte_progress("pull", quiet=quiet))
    data = {
        "path": str(report.path),
        "address": report.address,
        "identity": report.identity,
        "files": report.n_files,
        "bytes": report.n_bytes,
        "kept": report.n_kept,
        "whole": report.is_whole,
    }
    noun = "pack" if address.name.endswith(PACK_SUFFIX) else "store"
    state = f"the whole {noun}" if report.is_whole else "a partial copy"
    text = (
        f"{path}: {state} of {report.address}, {count_of(report.n_files, 'file')} ({size_text(report.n_bytes)}) fetched"
    )
    summary(data, text + (f", {report.n_kept} were here" if report.n_kept else ""), as_json=as_json)
    return EXIT_DONE


@click.command("cache")
@click.option("--list", "listing", is_flag=True, help="Show what is in the cache (the default).")
@click.option("--prune", is_flag=True, help="Remove what was not used lately.")
@click.option(
    "--days",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0, max=36500),
    help="With --prune: how long unused; 0 for all.",
)
@json_option
def cache_command(listing: bool, prune: bool, days: float, as_json: bool) -> int:
    """Show or clear what was read from addresses ($FSAR_CACHE, one folder for each identity).

    \b
    Examples:
      fsar-store cache --list
      fsar-store cache --prune --days 0
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.share import cache

    if listing and prune:
        raise click.UsageError("give --list or --prune, not both")
    items = cache.prune(older_than_days=days) if prune else cache.list_cache()
    stores = [
        {
            "identity": item.identity,
            "source": item.source,
            "path": str(item.path),
            "bytes": item.n_bytes,
            "used": item.used,
        }
        for item in items
    ]
    total = sum(item.n_bytes for item in items)
    lines = [
        f"{cache.cache_folder()}: {count_of(len(items), 'store')}{' removed' if prune else ''}, {size_text(total)}"
    ]
    lines += [f"  {item.source or item.path}: {size_text(item.n_bytes)}" for item in items]
    data = {"folder": str(cache.cache_folder()), "removed" if prune else "stores": stores, "bytes": total}
    summary(data, "\n".join(lines), as_json=as_json)
    return EXIT_DONE
