"""What convert and extract do with a catalog: here, in other processes, or only in words."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fsar.cli.cluster import PREP, ClusterChoice, run_elsewhere, shared_work
from fsar.cli.common import EXIT_DONE, EXIT_FAILED, summary
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.catalog.catalog import Catalog
    from fsar.pipeline.rewrite.report import RewriteReport
    from fsar.pipeline.rewrite.stage import How, Stage

Settings = TypeVar("Settings")


def rewrite(
    stage: "Stage[Settings]",
    catalog: "Catalog",
    out: Path,
    settings: Settings,
    how: "How",
    *,
    cluster: ClusterChoice | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Rewrite the videos of a catalog and print what became of them; return the exit code."""
    if cluster:
        watch = stage.watch(catalog, out, settings)
        work = shared_work(PREP, stage.name, out, watch, len(catalog.rows), cluster.n_workers)
        ended = run_elsewhere(cluster, work, dry_run=dry_run, as_json=as_json, quiet=how.quiet)
        return _report(stage.name, out, watch.report(), as_json=as_json) if ended is None else ended
    if dry_run:
        n_todo = len(stage.plan(catalog, out, settings))
        n_kept = len(catalog.rows) - n_todo
        data = {"out": str(out), f"to_{stage.name}": n_todo, "kept": n_kept, "dry_run": True}
        text = f"{out}: would {stage.name} {count_of(n_todo, 'video')}, keep {n_kept}"
        summary(data, text, as_json=as_json)
        return EXIT_DONE
    return _report(stage.name, out, stage.run(catalog, out, settings, how), as_json=as_json)


def _report(name: str, out: Path, report: "RewriteReport", *, as_json: bool) -> int:
    done, n_failed = f"{name}ed", len(report.failures)
    data = {
        "out": str(out),
        "catalog": str(report.catalog),
        done: report.done,
        "kept": report.kept,
        "failed": n_failed,
    }
    text = f"{out}: {count_of(report.done, 'video')} {done}, {report.kept} kept, {n_failed} failed"
    if report.failures:
        text += f", listed in {out / 'failures.csv'}"
    summary(data, text, as_json=as_json)
    return EXIT_FAILED if report.failures else EXIT_DONE
