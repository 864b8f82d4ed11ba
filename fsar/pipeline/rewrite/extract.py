"""Extract frames as JPEG in the folder layouts that published code reads: in parallel, resumable, atomic per video."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError, unknown_name
from fsar.files import atomic_folder
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.jobs.run import TIMEOUT_SECONDS
from fsar.pipeline.rewrite.record import Record, Source, safe_name
from fsar.pipeline.rewrite.report import RewriteReport
from fsar.pipeline.rewrite.stage import How, Stage, Task
from fsar.pipeline.video.clip import Choose, check_file
from fsar.pipeline.video.frame_folder import iterate_pictures
from fsar.pipeline.video.pyav import iterate_frames
from fsar.pipeline.video.sample import list_samplers, sample_indices
from fsar.pipeline.video.source import source_bytes

LAYOUTS = ("trx", "hcl")
MAX_FRAMES = 10_000
"""Pictures per video that a run may ask for; a short video would repeat its frames until the disk is full."""
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ExtractSettings:
    """What decides the extracted pictures."""

    frames: int | None = None
    """Pictures per video; None = all of them."""
    sampler: str = "uniform-center"
    layout: str = "trx"
    """trx: frames/CLASS/VIDEO/00000001.jpg, from 1. hcl: images/PART/CLASS/VIDEO/0.jpg, from 0 (PART is `all` where the
    catalog has none)."""
    short_side: int | None = None
    quality: int = 95
    """JPEG quality, 1 to 100."""
    seed: int = 0
    """For samplers that draw: the frames of a video depend on the seed and its id alone."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.frames is not None and not 1 <= self.frames <= MAX_FRAMES:
            raise InputError(f"frames must be in 1..{MAX_FRAMES}, got {self.frames}")
        if self.sampler not in list_samplers():
            raise unknown_name("sampler", self.sampler, list_samplers())
        if self.layout not in LAYOUTS:
            raise unknown_name("layout", self.layout, LAYOUTS)
        if self.short_side is not None and self.short_side < 1:
            raise InputError(f"short side must be at least 1 pixel, got {self.short_side}")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be in 1..100, got {self.quality}")


def extract(
    catalog: Catalog,
    out: Path,
    settings: ExtractSettings,
    *,
    n_jobs: int = 1,
    quiet: bool = False,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> RewriteReport:
    """Extract the frames of every video of a catalog below `out`; see `Stage.run`."""
    return EXTRACT.run(catalog, out, settings, How(n_jobs, quiet, timeout_seconds))


def _check_places(catalog: Catalog, settings: ExtractSettings) -> None:
    """Raise `InputError` where two videos, or two classes, would share a folder once `/` is replaced in their names."""
    videos: dict[PurePosixPath, str] = {}
    classes: dict[str, str] = {}
    for row in catalog.rows:
        place = frame_folder(row, settings.layout)
        other = videos.setdefault(place, row.video_id)
        if other != row.video_id:
            raise InputError(f"videos {other!r} and {row.video_id!r} would share a folder: give them other ids")
        other = classes.setdefault(place.parent.name, row.class_name)
        if other != row.class_name:
            raise InputError(f"classes {other!r} and {row.class_name!r} would share the folder {place.parent}")


def frame_folder(row: CatalogRow, layout: str) -> PurePosixPath:
    """Return where the frames of a video go, relative to the output folder."""
    class_name = safe_name(row.class_name.replace("/", "_"))
    parts = safe_name(row.video_id).parts
    video = "__".join(parts[1:] if len(parts) > 1 and parts[0] == row.class_name else parts)
    root = PurePosixPath("frames") if layout == "trx" else PurePosixPath("images", row.part or "all")
    return root / class_name / video


def extract_one(task: Task[ExtractSettings]) -> Record:
    """Extract one video; runs in a worker."""
    if not task.path.is_dir():
        check_file(task.path)
    output = frame_folder(task.row, task.settings.layout)
    source = Source.of(task.path)
    with atomic_folder(task.out / output) as temporary:
        n_frames = _write_pictures(task, temporary)
        size = source_bytes(temporary)
    return Record(task.row.video_id, source, output.as_posix(), size, n_frames)


def _write_pictures(task: Task[ExtractSettings], folder: Path) -> int:
    """Write the chosen frames and return their number. A frame that is chosen twice is written twice."""
    chosen: list[int] = []

    def choose(n_frames: int) -> npt.NDArray[np.integer]:
        chosen[:] = _choose(task, n_frames).tolist()
        return np.array(chosen)

    for index, picture in _pictures(task.path, choose):
        _save(folder, task.settings, [slot for slot, wanted in enumerate(chosen) if wanted == index], picture)
    return len(chosen)


def _choose(task: Task[ExtractSettings], n_frames: int) -> npt.NDArray[np.integer]:
    if task.settings.frames is None:
        return np.arange(n_frames)
    generator = np.random.default_rng([task.settings.seed, zlib.crc32(task.row.video_id.encode())])
    return np.sort(sample_indices(task.settings.sampler, n_frames, task.settings.frames, generator))


def _pictures(path: Path, choose: Choose) -> Iterator[tuple[int, Picture]]:
    yield from iterate_pictures(path, choose) if path.is_dir() else iterate_frames(path, choose)


def _save(folder: Path, settings: ExtractSettings, slots: list[int], picture: Picture) -> None:
    from PIL import Image

    image = Image.fromarray(picture)
    if settings.short_side is not None and min(image.size) != settings.short_side:
        scale = settings.short_side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    jpeg = io.BytesIO()  # Pillow would hide a full disk behind "encoder error -2"
    image.save(jpeg, "JPEG", quality=settings.quality)
    for slot in slots:
        name = f"{slot + 1:08d}.jpg" if settings.layout == "trx" else f"{slot}.jpg"
        (folder / name).write_bytes(jpeg.getvalue())


EXTRACT = Stage("extract", extract_one, _check_places)
