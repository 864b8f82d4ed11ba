"""Write the synthetic set: short real video files in the layout of Something-Something V2, and its few-shot split."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fsar.documents import read_json
from fsar.errors import InputError
from fsar.files import atomic_path, remove_leftovers, write_atomic
from fsar.pipeline.jobs.run import Failure, run_jobs, write_failures
from fsar.pipeline.jobs.sole_writer import sole_writer
from fsar.pipeline.synth.draw import FPS, Picture, draw_clip, draw_scene
from fsar.pipeline.synth.motions import MOTIONS

MAX_CLIPS = 10_000
"""Clips of a class at most: a video id is class number * MAX_CLIPS + clip number + 1."""
MIN_SIDE, MAX_SIDE = 32, 2048
"""Pixels: below, the motions cannot be told apart; above, one clip would take gigabytes while it is drawn."""
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0", "row-mt": "0"}),
    "mp4": ("libx264", {"preset": "veryfast", "crf": "20", "x264-params": "cpu-independent=1"}),
    "avi": ("mpeg4", {"qscale": "4", "flags": "+qscale", "global_quality": "472"}),
}


@dataclass(frozen=True)
class SynthSettings:
    """What decides the bytes of the set."""

    train_classes: int = 20
    val_classes: int = 6
    test_classes: int = 10
    clips: int = 30
    """Clips per class."""
    seed: int = 0
    size: tuple[int, int] = (427, 240)
    """Width and height; mp4 rounds odd ones up because H.264's usual pixel format needs even ones."""
    container: str = "webm"

    def __post_init__(self) -> None:
        """Check every field."""
        counts = (self.train_classes, self.val_classes, self.test_classes)
        if min(counts) < 0 or not 0 < sum(counts) <= len(MOTIONS):
            raise InputError(f"class counts must be 0 or more and sum to 1..{len(MOTIONS)}, got {counts}")
        if not 0 < self.clips <= MAX_CLIPS:
            raise InputError(f"clips per class must be in 1..{MAX_CLIPS}, got {self.clips}")
        if min(self.size) < MIN_SIDE or max(self.size) > MAX_SIDE:
            width, height = self.size
            raise InputError(f"size must be {MIN_SIDE}x{MIN_SIDE} to {MAX_SIDE}x{MAX_SIDE}, got {width}x{height}")
        if self.container not in CODECS:
            raise InputError(f"container must be one of {', '.join(CODECS)}, got {self.container!r}")


@dataclass(frozen=True)
class SynthClip:
    """One video to write."""

    class_number: int
    clip_number: int
    path: Path
    settings: SynthSettings

    @property
    def video_id(self) -> str:
        """A number, as in Something-Something."""
        return str(self.class_number * MAX_CLIPS + self.clip_number + 1)


@dataclass(frozen=True)
class SynthReport:
    """What a run did."""

    written: int
    kept: int
    failures: list[Failure]


def class_numbers(settings: SynthSettings) -> dict[str, range]:
    """Return the classes of each part. Parts take whole pairs, so a motion and its reverse stay together."""
    parts, start = {}, 0
    for part, count in (
        ("train", settings.train_classes),
        ("val", settings.val_classes),
        ("test", settings.test_classes),
    ):
        parts[part] = range(start, start + count)
        start += count + count % 2
    if start - (settings.test_classes % 2) > len(MOTIONS):
        raise InputError(
            f"odd class counts break pairs; at most {len(MOTIONS)} classes when every part's count is even"
        )
    return parts


def synthesize(out: Path, settings: SynthSettings, *, n_jobs: int = 1, quiet: bool = False) -> SynthReport:
    """Write the set to `out`; videos that an earlier run finished are kept. The bytes depend on `settings` alone.

    Raises InputError for a folder with another set or foreign files, or while another run writes to it.
    """
    clips = list(_all_clips(out, settings))
    _claim_folder(out, settings)
    with sole_writer(out):
        remove_leftovers(out)
        return _write_missing(out, settings, clips, n_jobs=n_jobs, quiet=quiet)


def _write_missing(
    out: Path, settings: SynthSettings, clips: list[SynthClip], *, n_jobs: int, quiet: bool
) -> SynthReport:
    todo = [clip for clip in clips if not clip.path.is_file()]
    outcomes = run_jobs(
        "synth", todo, write_clip, n_jobs=n_jobs, key=lambda clip: clip.video_id, quiet=quiet, workspace=out
    )
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    _write_tables(out, settings, clips)
    write_failures(out / "failures.csv", failures)
    return SynthReport(len(todo) - len(failures), len(clips) - len(todo), failures)


def write_clip(clip: SynthClip) -> None:
    """Draw and write one video."""
    size = video_size(clip.settings)
    generator = _generator(clip)
    scene = draw_scene(generator, size)
    with atomic_path(clip.path) as temporary:
        encode_pictures(temporary, draw_clip(MOTIONS[clip.class_number], scene, size), size, clip.settings.container)


def video_size(settings: SynthSettings) -> tuple[int, int]:
    """Return the width and height of the files."""
    width, height = settings.size
    return (width + width % 2, height + height % 2) if settings.container == "mp4" else (width, height)


def encode_pictures(path: Path, pictures: Iterable[Picture], size: tuple[int, int], container: str) -> None:
    """Write RGB pictures as a video; the same pictures give the same bytes."""
    import av

    codec, options = CODECS[container]
    with av.open(str(path), "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream: Any = output.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _generator(clip: SynthClip) -> np.random.Generator:
    return np.random.default_rng([clip.settings.seed, clip.class_number, clip.clip_number])


def _all_clips(out: Path, settings: SynthSettings) -> Iterator[SynthClip]:
    for numbers in class_numbers(settings).values():
        for class_number in numbers:
            for clip_number in range(settings.clips):
                video_id = class_number * MAX_CLIPS + clip_number + 1
                path = out / "videos" / f"{video_id}.{settings.container}"
                yield SynthClip(class_number, clip_number, path, settings)


def _claim_folder(out: Path, settings: SynthSettings) -> None:
    """Refuse to mix clips of other settings into a folder; counts may grow, what is drawn may not change."""
    record = out / "synth.json"
    fixed = {name: value for name, value in asdict(settings).items() if name in ("seed", "size", "container")}
    fixed["size"] = list(settings.size)
    if record.is_file():
        found = read_json(record)
        if found != fixed:
            raise InputError(f"{out} holds a set with other settings {found}, not {fixed}: choose another folder")
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no synth.json: choose a new or empty folder")
    else:
        write_atomic(record, json.dumps(fixed, sort_keys=True) + "\n")


def _write_tables(out: Path, settings: SynthSettings, clips: list[SynthClip]) -> None:
    parts = class_numbers(settings)
    by_file: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    rows = ["part,class,video_id"]
    for clip in clips:
        part = next(part for part, numbers in parts.items() if clip.class_number in numbers)
        by_file["train" if part == "train" else "validation"].append(_annotation(clip))
        rows.append(f"{part},{MOTIONS[clip.class_number].name},{clip.video_id}")
    names = sorted(MOTIONS[number].name for numbers in parts.values() for number in numbers)
    labels = {name: str(index) for index, name in enumerate(names)}
    folder = out / "annotations"
    for name, table in (*by_file.items(), ("labels", labels)):
        write_atomic(folder / f"something-something-v2-{name}.json", json.dumps(table, indent=1) + "\n")
    write_atomic(out / "split.csv", "\n".join(rows) + "\n")


def _annotation(clip: SynthClip) -> dict[str, Any]:
    thing = draw_scene(_generator(clip), video_size(clip.settings)).object_name
    template = MOTIONS[clip.class_number].template
    label = template.replace("[something]", thing)
    return {
        "id": clip.video_id,
        "label": label[0].lower() + label[1:],
        "template": template,
        "placeholders": [thing],
    }
