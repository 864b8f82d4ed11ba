"""Convert a catalog of videos to H.264 mp4: in parallel, verified, resumable, nothing half-written."""

from pathlib import Path

from fsar.files import atomic_path
from fsar.pipeline.catalog.catalog import Catalog
from fsar.pipeline.jobs.run import TIMEOUT_SECONDS
from fsar.pipeline.rewrite.record import Record, Source, safe_name
from fsar.pipeline.rewrite.report import RewriteReport
from fsar.pipeline.rewrite.stage import How, Stage, Task
from fsar.pipeline.video.clip import VideoError, check_file
from fsar.pipeline.video.transcode import ConvertSettings, transcode


def convert(
    catalog: Catalog,
    out: Path,
    settings: ConvertSettings,
    *,
    n_jobs: int = 1,
    quiet: bool = False,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> RewriteReport:
    """Convert every video of a catalog to `out`/videos/ID.mp4; see `Stage.run`."""
    return CONVERT.run(catalog, out, settings, How(n_jobs, quiet, timeout_seconds))


def convert_one(task: Task[ConvertSettings]) -> Record:
    """Convert one video; runs in a worker."""
    if task.path.is_dir():
        raise VideoError(
            "not-a-video", f"{task.path} is a folder of frames: it has no times to convert, use it as it is"
        )
    check_file(task.path)
    output = Path("videos") / f"{safe_name(task.row.video_id)}.mp4"
    source = Source.of(task.path)
    with atomic_path(task.out / output) as temporary:
        n_frames = transcode(task.path, temporary, task.settings)
        size = temporary.stat().st_size
    return Record(task.row.video_id, source, output.as_posix(), size, n_frames)


CONVERT = Stage("convert", convert_one)
