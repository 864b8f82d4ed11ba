"""What the commands do with packed frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.cli.cluster import PREP, ClusterChoice, run_elsewhere, shared_work
from fsar.cli.common import EXIT_DONE, EXIT_FAILED, echo, page, summary
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.catalog.catalog import Catalog
    from fsar.pipeline.packs.build import PackReport
    from fsar.pipeline.share import Address
    from fsar.pipeline.store.verify import Verification

PACK_SUFFIX = ".frames"


def extract_packed(
    catalog: "Catalog",
    out: Path,
    how: dict[str, Any],
    work: dict[str, Any],
    *,
    cluster: ClusterChoice | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Do `extract --layout packed`; `how` are the fields of `PackSettings`, `work` is for `pack_frames`."""
    from fsar.cluster.filling import StoreJournal
    from fsar.errors import InputError
    from fsar.pipeline.catalog.catalog import select_rows
    from fsar.pipeline.packs.build import finished_pack, pack_frames, plan_pack
    from fsar.pipeline.packs.catalog import video_rows
    from fsar.pipeline.packs.layout import PackSettings, pack_files

    if how["frames"] is None:
        raise InputError("--layout packed needs --frames: 16 of each video serve every sampler that draws 8")
    settings = PackSettings(**how)
    videos = video_rows(select_rows(catalog))
    n_todo, n_done = plan_pack(videos, out, settings)
    if cluster:
        journal = StoreJournal(pack_files(out))
        assigned = shared_work(PREP, "extract", out, journal, len(videos), cluster.n_workers)
        ended = run_elsewhere(cluster, assigned, dry_run=dry_run, as_json=as_json, quiet=work["quiet"])
        return _report(finished_pack(videos, out, n_packed=n_todo), {}, as_json=as_json) if ended is None else ended
    if dry_run:
        data = {"out": str(out), "to_extract": n_todo, "kept": n_done, "dry_run": True}
        summary(
            data,
            f"{out}: would pack {count_of(n_todo, 'video')}, keep {n_done}: {settings.describe()}",
            as_json=as_json,
        )
        return EXIT_DONE
    report = pack_frames(videos, out, settings, **work)
    return _report(report, {}, as_json=as_json)


def add_packed(path: Path, catalog: Path, split: str | None, jobs: int, *, as_json: bool, quiet: bool) -> int:
    """Do `fsar-store add` on a pack."""
    from fsar.pipeline.catalog.catalog import read_catalog, select_rows
    from fsar.pipeline.packs import FramePack
    from fsar.pipeline.packs.build import add_to_pack
    from fsar.pipeline.packs.catalog import video_rows
    from fsar.splits import load_split

    videos = video_rows(select_rows(read_catalog(catalog), load_split(split) if split else None))
    n_before = len(FramePack.open(path, allow_unsealed=True))
    report = add_to_pack(path, videos, n_jobs=jobs, quiet=quiet)
    return _report(report, {"added": report.n_videos - n_before}, as_json=as_json)


def info_packed(path: "Path | Address", *, as_json: bool) -> int:
    """Do `fsar-store info` on a pack; of one elsewhere, without reading any frame."""
    if not isinstance(path, Path):
        from fsar.cli.store_shelf import show_at

        return show_at(path, as_json=as_json)
    from fsar.pipeline.packs.describe import describe_pack

    data = describe_pack(path)
    summary(data, _info_text(data), as_json=as_json)
    return EXIT_DONE


def verify_packed(path: Path, *, quiet: bool) -> "Verification":
    """Do `fsar-store verify` on a pack."""
    from fsar.pipeline.packs.layout import pack_files
    from fsar.pipeline.packs.verify import verify_pack
    from fsar.progress import progress

    with progress("verify", len(pack_files(path).names()), unit="files", quiet=quiet) as advance:
        return verify_pack(path, advance=advance)


def _report(report: "PackReport", more: dict[str, Any], *, as_json: bool) -> int:
    for video_id, _, reason, message in report.failures:
        echo(page([f"failed: {video_id} ({reason}): {message}"]), err=True)
    counts = {"videos": report.n_videos, "extracted": report.n_packed, "kept": report.n_videos - report.n_packed}
    data = {"out": str(report.path), **counts, "failed": len(report.failures), "bytes": report.n_bytes, **more}
    packed = f"{count_of(report.n_packed, 'video')} packed, {counts['kept']} kept, {len(report.failures)} failed"
    text = f"{report.path}: {packed}"
    summary(data, f"{text}; {report.n_bytes / 1e6:.1f} MB", as_json=as_json)
    return EXIT_FAILED if report.failures else EXIT_DONE


def _info_text(data: dict[str, Any]) -> str:
    from fsar.cli.store_text import size_text

    state = "sealed" if data["sealed"] else "NOT SEALED"
    lines = [
        f"{data['path']}: packed frames, {state}, {size_text(data['bytes_on_disk'])}",
        f"  {count_of(data['videos'], 'video')} of {count_of(data['classes'], 'class')} "
        f"in {count_of(data['shards'], 'file')}",
        f"  {data['how']}",
    ]
    if data["partial"]:
        here, source = data["partial"]["videos_here"], data["partial"]["source"]
        lines.append(f"  a partial copy of {source}: frames of {count_of(here, 'video')} are here")
    if data["identity"]:
        lines.append(f"  identity {data['identity']}")
    for part, counts in data["parts"].items():
        lines.append(f"  {part or '(no part)'}: {count_of(counts['videos'], 'video')}, {counts['failed']} failed")
    return "\n".join([*lines, *(f"  failed, {reason}: {count}" for reason, count in data["failures"].items())])
