"""`fsar-store`: look into stores, check them, finish them, join and copy them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.cluster import (
    ClusterChoice,
    ClusterCommand,
    launch_dry_run,
    run_elsewhere,
    shared_work,
    shared_work_options,
)
from fsar.cli.common import (
    EXIT_DONE,
    EXIT_FAILED,
    echo,
    jobs_option,
    json_option,
    page,
    quiet_option,
    run_command,
    summary,
)
from fsar.cli.packs import PACK_SUFFIX, add_packed, info_packed, verify_packed
from fsar.cli.store_address import LOCAL_STORE, STORE, byte_progress, open_any
from fsar.cli.store_pull import cache_command, pull_command
from fsar.cli.store_shelf import find_command, head_command, list_command, push_command
from fsar.cli.store_text import compare_text, info_text, verify_text
from fsar.cli.store_watch import watch_command
from fsar.errors import InputError, count_of

if TYPE_CHECKING:
    from fsar.pipeline.share import Address
    from fsar.pipeline.store.verify import Verification

PROGRAM = ("fsar-store", "fsar.cli.store")
PARTS = click.option("--part", "parts", multiple=True, help="Only this split part (train, val, test); repeatable.")
CLASSES = click.option("--class", "classes", multiple=True, help="Only this class; repeatable.")
TAPS = click.option("--tap", "taps", multiple=True, help="Only this tap; repeatable.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fsar")
def store() -> None:
    """Look into feature stores, check them by hash, finish, join and copy them."""


@store.command()
@click.argument("path", type=STORE)
@json_option
def info(path: "Path | Address", as_json: bool) -> int:
    """Show recipe, taps, counts, sizes, failures and what is missing; or what a pack of frames holds.

    \b
    Examples:
      fsar-store info ssv2.zarr
      fsar-store info ssv2.frames
    """  # noqa: D301 - click wants the backspace itself
    if Path(path.name).suffix == PACK_SUFFIX:
        return info_packed(path, as_json=as_json)
    from fsar.pipeline.encode.recipe import describe_pixels
    from fsar.pipeline.store.describe import describe_store

    data = describe_store(open_any(path, allow_unsealed=True))
    data["frames"] = describe_pixels(data["recipe"])
    summary(data, info_text(data), as_json=as_json)
    return EXIT_DONE


@store.command()
@click.argument("path", type=STORE)
@json_option
@quiet_option
def verify(path: "Path | Address", as_json: bool, quiet: bool) -> int:
    """Re-read every byte; find changed, missing, cut and foreign files and name the videos hit.

    The exit code is 1 when anything is wrong. A store or a pack of frames that is not sealed is checked as far as it
    goes. There is no --cluster: one core hashes faster than the disks of most clusters deliver.

    \b
    Example:
      fsar-store verify ssv2.zarr
    """  # noqa: D301 - click wants the backspace itself
    import dataclasses

    from fsar.pipeline.store.format.files import StoreFiles
    from fsar.pipeline.store.verify import verify as verify_store
    from fsar.progress import progress

    if isinstance(path, Path) and path.suffix == PACK_SUFFIX:
        result = verify_packed(path, quiet=quiet)
    elif isinstance(path, Path):
        n_files = len(StoreFiles.at(path).names())
        with progress("verify", n_files, unit="files", quiet=quiet) as advance:
            result = verify_store(path, advance=advance)
    else:
        result = _verify_address(path, quiet)
    data = dataclasses.asdict(result) | {"path": str(path), "videos_hit": result.videos_hit}
    summary(data, verify_text(path, result), as_json=as_json)
    return EXIT_FAILED if result.problems else EXIT_DONE


def _verify_address(address: "Address", quiet: bool) -> "Verification":
    from fsar.pipeline.share.upstream import open_upstream
    from fsar.pipeline.share.verify import verify_upstream

    source = open_upstream(address)
    with byte_progress("verify", quiet=quiet)(source.n_bytes) as advance:
        return verify_upstream(source, advance)


@store.command()
@click.argument("path", type=LOCAL_STORE)
@json_option
def seal(path: Path, as_json: bool) -> int:
    """Write the manifest of a complete store, which makes it open for everyone.

    `encode` does this by itself at its end; this command finishes what was interrupted there.

    \b
    Example:
      fsar-store seal ssv2.zarr
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.store import open_writer

    with open_writer(path) as writer:
        writer.seal()
        data = {"path": str(path), "videos": writer.n_videos, "sealed": True}
    summary(data, f"{path}: sealed, {count_of(writer.n_videos, 'video')}", as_json=as_json)
    return EXIT_DONE


@store.command()
@click.argument("a", type=STORE)
@click.argument("b", type=STORE)
@json_option
@quiet_option
def compare(a: "Path | Address", b: "Path | Address", as_json: bool, quiet: bool) -> int:
    """Show how two stores differ: recipe fields, videos, the largest difference of each tap.

    The exit code is 0 when they are equal and 1 when they differ.

    \b
    Example:
      fsar-store compare monday.zarr tuesday.h5
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.store.describe import compare_stores

    data = compare_stores(*(open_any(store, allow_unsealed=True, quiet=quiet) for store in (a, b)))
    summary(data, compare_text(data), as_json=as_json)
    return EXIT_DONE if data["equal"] else EXIT_FAILED


@store.command()
@click.argument("path", type=LOCAL_STORE)
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option("--split", help="Split (name or CSV): only its videos of the catalog.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Checkpoint file that the store was made with, if any."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Frames in a forward pass [by device and pixels].")
@jobs_option
@json_option
@quiet_option
def add(
    path: Path,
    catalog: Path,
    split: str | None,
    weights: Path | None,
    device: str,
    batch_size: int | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Encode the videos of a newer catalog that the store lacks, by the store's own recipe.

    Rows that are there keep their place and their numbers. Interrupted, the same command goes on. The exit code is 1
    when a video failed in this run. A pack of frames (NAME.frames) takes the new videos' frames.

    \b
    Examples:
      fsar-store add ssv2.zarr newer-catalog.csv
      fsar-store add ssv2.frames newer-catalog.csv
    """  # noqa: D301 - click wants the backspace itself
    if path.suffix == PACK_SUFFIX:
        return add_packed(path, catalog, split, jobs, as_json=as_json, quiet=quiet)
    from fsar.pipeline.catalog.catalog import select_rows
    from fsar.pipeline.catalog.duplicates import describe_duplicates
    from fsar.pipeline.encode.encode import add_videos
    from fsar.pipeline.encode.engine import EngineOptions
    from fsar.pipeline.packs.catalog import read_videos, video_rows
    from fsar.pipeline.store import open_store
    from fsar.splits import load_split

    rows = select_rows(read_videos(catalog), load_split(split) if split else None)
    videos = video_rows(rows)
    before = open_store(path, allow_unsealed=True)
    missing = set(before.missing_rows().tolist())
    done = {video.video_id for row, video in enumerate(before.videos) if row not in missing}
    report = add_videos(
        path,
        videos,
        weights=weights,
        engine=EngineOptions(device=device, batch_size=batch_size, jobs=jobs),
        quiet=quiet,
    )
    n_new, n_encoded = report.n_videos - before.n_videos, report.n_videos - report.n_resumed
    failures = [failure for failure in report.failures if failure[0] not in done]
    for video_id, _, reason, message in failures:
        echo(page([f"failed: {video_id} ({reason}): {message}"]), err=True)
    if report.duplicates:
        echo(f"warning: {describe_duplicates(report.duplicates)}", err=True)
    data: dict[str, Any] = {
        "path": str(path),
        "videos": report.n_videos,
        "added": n_new,
        "encoded": n_encoded,
        "failed": len(failures),
    }
    data["duplicates"] = report.duplicates
    counts = f"{n_new} of them new, {n_encoded} encoded now, {len(failures)} failed"
    text = f"{path}: {count_of(report.n_videos, 'video')}, {counts}"
    if len(failures) < len(report.failures):
        text += (
            f" ({len(report.failures) - len(failures)} had failed before: fsar-store retry gives them another chance)"
        )
    summary(data, text, as_json=as_json)
    return EXIT_FAILED if failures else EXIT_DONE


@store.command()
@click.argument("path", type=LOCAL_STORE)
@click.option("--allow-losses", is_flag=True, help="Also where a neighbour's video is no longer on the disk.")
@json_option
def retry(path: Path, allow_losses: bool, as_json: bool) -> int:
    """Make failed videos pending again, so that the next encode tries them once more.

    For videos that were missing, cut or unreadable and have been mended since. Whole chunks become pending: the
    neighbours of a failed video are encoded again, too, and come out as they were.

    \b
    Example:
      fsar-store retry ssv2.zarr
      (then the fsar-prep encode command that made the store, or fsar-store add ssv2.zarr catalog.csv)
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.store.retry import reset_failed

    reset = reset_failed(path, allow_losses=allow_losses)
    text = f"{path}: no video has failed"
    if reset.n_failed:
        text = (
            f"{path}: {count_of(reset.n_failed, 'failed video')} pending again, "
            f"{count_of(reset.n_rows, 'video')} to encode with their neighbours: "
            "run the fsar-prep encode command that made the store, or fsar-store add"
        )
    summary({"path": str(path), "failed": reset.n_failed, "pending": reset.n_rows}, text, as_json=as_json)
    return EXIT_DONE


@store.command(cls=ClusterCommand)
@click.argument("sources", type=STORE, nargs=-1, required=True)
@click.option("--out", required=True, type=LOCAL_STORE, help="The joined store: NAME.zarr or NAME.h5.")
@launch_dry_run
@shared_work_options
@json_option
@quiet_option
def merge(
    sources: "tuple[Path | Address, ...]",
    out: Path,
    as_json: bool,
    quiet: bool,
    cluster: ClusterChoice | None,
    dry_run: bool,
) -> int:
    """Join stores of equal recipe and different videos into a new one.

    Interrupted, the same command goes on; until it ends, the new store is not sealed. Several processes share the
    work, as those of --cluster do.

    \b
    Example:
      fsar-store merge part1.zarr part2.zarr --out all.zarr
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.store.copy import merge_stores
    from fsar.progress import progress

    stores = [open_any(source, quiet=quiet) for source in sources]
    n_rows = sum(store.n_videos for store in stores)
    if cluster:
        ended = _copy_elsewhere(cluster, "merge", out, n_rows, dry_run=dry_run, as_json=as_json, quiet=quiet)
        if ended is not None:
            return ended
    with progress("merge", n_rows, quiet=quiet) as advance:
        merged = merge_stores(stores, out, advance=advance)
    return _copied(merged, as_json)


@store.command(cls=ClusterCommand)
@click.argument("path", type=STORE)
@click.option("--out", required=True, type=LOCAL_STORE, help="NAME.zarr, NAME.h5 or NAME.safetensors.")
@PARTS
@CLASSES
@TAPS
@launch_dry_run
@shared_work_options
@json_option
@quiet_option
def export(
    path: "Path | Address",
    out: Path,
    parts: tuple[str, ...],
    classes: tuple[str, ...],
    taps: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    cluster: ClusterChoice | None,
    dry_run: bool,
) -> int:
    """Copy a store, or some of its parts, classes and taps, to another format.

    The numbers stay the same to the bit. Interrupted, the same command goes on (.safetensors: starts again). Several
    processes share the work, as those of --cluster do; a .safetensors file is one stream, which one process writes.

    \b
    Examples:
      fsar-store export ssv2.zarr --out ssv2.h5
      fsar-store export ssv2.zarr --out novel.safetensors --part test --tap pooled
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.store.copy import export_store, select_videos
    from fsar.pipeline.store.safetensors_file import export_safetensors
    from fsar.progress import progress

    source = open_any(path, quiet=quiet)
    n_rows = len(select_videos(source, parts=parts, classes=classes))
    if cluster and out.suffix == ".safetensors":
        raise InputError(
            "a .safetensors file is written by one process: leave --cluster out, or export to .zarr or .h5"
        )
    if cluster:
        ended = _copy_elsewhere(cluster, "export", out, n_rows, dry_run=dry_run, as_json=as_json, quiet=quiet)
        if ended is not None:
            return ended
    if out.suffix == ".safetensors":
        with progress("export", n_rows * len(set(taps) or source.taps), unit="rows", quiet=quiet) as advance:
            export_safetensors(source, out, taps=taps, parts=parts, classes=classes, advance=advance)
        summary({"path": str(out), "videos": n_rows}, f"{out}: {count_of(n_rows, 'video')}", as_json=as_json)
        return EXIT_DONE
    with progress("export", n_rows, quiet=quiet) as advance:
        exported = export_store(source, out, taps=taps, parts=parts, classes=classes, advance=advance)
    return _copied(exported, as_json)


def _copy_elsewhere(
    choice: ClusterChoice, name: str, out: Path, n_rows: int, *, dry_run: bool, as_json: bool, quiet: bool
) -> int | None:
    from fsar.cluster.filling import StoreJournal
    from fsar.pipeline.store.format.files import StoreFiles

    work = shared_work(PROGRAM, name, out, StoreJournal(StoreFiles.at(out)), n_rows, choice.n_workers)
    return run_elsewhere(choice, work, dry_run=dry_run, as_json=as_json, quiet=quiet)


def _copied(copied: Any, as_json: bool) -> int:
    data = {"path": str(copied.path), "videos": copied.n_videos, "taps": sorted(copied.taps), "sealed": copied.sealed}
    summary(
        data,
        f"{copied.path}: {count_of(copied.n_videos, 'video')}, taps {', '.join(data['taps'])}, sealed",
        as_json=as_json,
    )
    return EXIT_DONE


for command in (push_command, pull_command, list_command, find_command, head_command, cache_command, watch_command):
    store.add_command(command)


@store.command()
@click.argument("path", type=STORE)
@click.option("--out", type=click.Path(path_type=Path), default="store.html", show_default=True, help="The page.")
@click.option("--videos", default=4, show_default=True, type=click.IntRange(min=1), help="Of each class on the sheet.")
@quiet_option
def report(path: "Path | Address", out: Path, videos: int, quiet: bool) -> int:
    """Write a page: what is in a store, its failures, and stored frames of every class.

    \b
    Example:
      fsar-store report ssv2.zarr --out ssv2.html
    """  # noqa: D301 - click wants the backspace itself
    from fsar.report.store_page import SheetOptions, check_out, make_store_page

    check_out(out)
    make_store_page(open_any(path, allow_unsealed=True), SheetOptions(videos), quiet=quiet).write(out)
    echo(str(out.resolve()))
    return EXIT_DONE


def main() -> None:
    """Entry point of `fsar-store`."""
    run_command(store, "fsar-store")


if __name__ == "__main__":
    main()
