"""Convert a catalog of videos to H.264 mp4: in parallel, verified, resumable, nothing half-written."""

from dataclasses import asdict, dataclass
from pathlib import Path

from fsar.files import atomic_path
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.jobs.folder import OutputFolder, Record, Source, safe_name
from fsar.pipeline.jobs.run import TIMEOUT_SECONDS, Failure
from fsar.pipeline.jobs.stage import run_stage
from fsar.pipeline.video.clip import check_file
from fsar.pipeline.video.transcode import ConvertSettings, transcode

STAGE = "convert"


@dataclass(frozen=True)
class ConvertReport:
    """What a run did."""

    converted: int
    kept: int
    failures: list[Failure]
    catalog: Path
    """The catalog of the converted videos, for the next stage."""


@dataclass(frozen=True)
class Task:
    """One video to convert."""

    row: CatalogRow
    out: Path
    settings: ConvertSettings

    @property
    def path(self) -> Path:
        """The source, as failures list it."""
        return self.row.path


def convert(
    catalog: Catalog,
    out: Path,
    settings: ConvertSettings,
    *,
    n_jobs: int = 1,
    quiet: bool = False,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> ConvertReport:
    """Convert every video of a catalog to `out`/videos/ID.mp4 and write catalog.csv and failures.csv there.

    Outputs that an earlier run finished are recognised by its journal without decoding; an output whose source has
    changed is made again. A folder with other settings or foreign files, or that another run is writing to, is
    refused.
    """
    folder = OutputFolder(out, STAGE, asdict(settings))
    with folder.claim():
        todo = _unfinished(catalog, folder, settings)
        failures, catalog_path = run_stage(
            folder, catalog, todo, convert_one, n_jobs=n_jobs, quiet=quiet, timeout_seconds=timeout_seconds
        )
    return ConvertReport(len(todo) - len(failures), len(catalog.rows) - len(todo), failures, catalog_path)


def plan(catalog: Catalog, out: Path, settings: ConvertSettings) -> list[Task]:
    """Return what `convert` would do, after the same checks; nothing is written."""
    folder = OutputFolder(out, STAGE, asdict(settings))
    folder.check()
    return _unfinished(catalog, folder, settings)


def _unfinished(catalog: Catalog, folder: OutputFolder, settings: ConvertSettings) -> list[Task]:
    rows = (row for row in catalog.rows if not folder.is_done(row.video_id, row.path))
    return [Task(row, folder.folder, settings) for row in rows]


def convert_one(task: Task) -> Record:
    """Convert one video; runs in a worker."""
    check_file(task.path)
    output = Path("videos") / f"{safe_name(task.row.video_id)}.mp4"
    source = Source.of(task.path)
    with atomic_path(task.out / output) as temporary:
        n_frames = transcode(task.path, temporary, task.settings)
        size = temporary.stat().st_size
    return Record(task.row.video_id, source, output.as_posix(), size, n_frames)
