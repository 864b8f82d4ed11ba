"""What a page takes for granted: files that its reader has, made small before the page's snippets run."""

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fsar.splits import load_split
from tests.videos import write_clip


def downloads(folder: Path) -> None:
    """Make stand-ins of the benchmark downloads: the same nesting and names, two tiny clips each."""
    if shutil.which("bsdtar") is None:
        pytest.skip("needs bsdtar (Debian package libarchive-tools)")
    for make in (_ssv2, _kinetics, _hmdb51, _ucf101):
        make(folder / "downloads" / make.__name__.strip("_"), folder / "staged" / make.__name__.strip("_"))
    shutil.rmtree(folder / "staged")


def _ssv2(out: Path, staged: Path) -> None:
    train = load_split("ssv2-cmn").parts["train"]
    name = next(iter(train))
    for video_id in train[name][:2]:
        write_clip(staged / "20bn-something-something-v2" / f"{video_id}.webm", n_frames=4)
    out.mkdir(parents=True)
    _archive(staged, out / "whole.tgz", "w:gz")
    whole = (out / "whole.tgz").read_bytes()
    for part in range(2):  # numbered parts of one archive, none of them an archive of its own
        half = len(whole) // 2
        (out / f"20bn-something-something-v2-{part:02d}").write_bytes(whole[:half] if part == 0 else whole[half:])
    (out / "whole.tgz").unlink()
    (out / "labels").mkdir()
    entries = [{"id": video_id, "template": name} for video_id in train[name][:2]]
    (out / "labels" / "train.json").write_text(json.dumps(entries))
    (out / "labels" / "validation.json").write_text("[]")
    (out / "labels" / "labels.json").write_text(json.dumps({name: "0"}))


def _kinetics(out: Path, staged: Path) -> None:
    out.mkdir(parents=True)
    for start in (1, 7):
        write_clip(staged / f"abcdefghijk_{start:06d}_{start + 10:06d}.mp4", n_frames=4)
    _archive(staged, out / "part_0.tar.gz", "w:gz")
    with (out / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        writer.writerows([["abseiling", "abcdefghijk", start, start + 10, "train"] for start in (1, 7)])


def _hmdb51(out: Path, staged: Path) -> None:
    out.mkdir(parents=True)
    for name in ("run", "wave"):
        write_clip(staged / name / name / f"{name}_1.avi", n_frames=4)
        (staged / "archives").mkdir(exist_ok=True)
        _archive(staged / name, staged / "archives" / f"{name}.rar", "w")  # bsdtar goes by content, not by suffix
    _archive(staged / "archives", out / "hmdb51_org.rar", "w")


def _ucf101(out: Path, staged: Path) -> None:
    out.mkdir(parents=True)
    write_clip(staged / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi", n_frames=4)
    _archive(staged, out / "UCF101.rar", "w")


def _archive(folder: Path, out: Path, mode: str) -> None:
    with tarfile.open(out, mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)


def catalog(folder: Path) -> None:
    """Make two clips and the catalog.csv that lists them."""
    lines = ["video_id,path,class"]
    for video_id in ("78687", "42326"):
        write_clip(folder / "videos" / f"{video_id}.webm", n_frames=20)
        lines.append(f"{video_id},videos/{video_id}.webm,a class")
    (folder / "catalog.csv").write_text("\n".join(lines) + "\n")


def few_classes(folder: Path) -> None:
    """Make clips of three classes for training and of three for testing, and the catalog.csv that lists them."""
    lines = ["video_id,path,class,part"]
    for number, (part, name) in enumerate(("train", name) if name < "d" else ("test", name) for name in "abcdef"):
        for clip in range(6):  # clips of different rates are different files
            path = write_clip(
                folder / "videos" / f"{name}{clip}.webm", n_frames=20, size=(64, 48), fps=5 + 6 * number + clip
            )
            lines.append(f"{path.stem},{path.relative_to(folder)},class {name},{part}")
    (folder / "catalog.csv").write_text("\n".join(lines) + "\n")


def motions(folder: Path) -> None:
    """Make the tutorial's videos, fewer and smaller."""
    from fsar.pipeline.synth.synth import SynthSettings, synthesize

    settings = SynthSettings(train_classes=4, val_classes=4, test_classes=4, clips=6, size=(96, 64))
    synthesize(folder / "motions", settings, n_jobs=1, quiet=True)


def motions_store(folder: Path) -> None:
    """Make the tutorial's store from fewer and smaller videos, by a network without training."""
    import fsar

    motions(folder)
    videos, annotations, split = (folder / "motions" / name for name in ("videos", "annotations", "split.csv"))
    catalog = fsar.index("ssv2", videos=videos, annotations=annotations, split=str(split), quiet=True)
    store = folder / "motions.zarr"
    fsar.encode(catalog, store, backbone="random:timm/test_resnet", frames=8, size=64, jobs=0, quiet=True)


def small_ssv2(folder: Path) -> None:
    """Make a few clips of some classes of a published split, the labels, and a split of our own over them."""
    split = load_split("ssv2-cmn")
    chosen = {part: list(split.parts[part].items())[:n] for part, n in (("train", 4), ("val", 3), ("test", 3))}
    entries, rows = [], ["part,class,video_id"]
    for part, classes in chosen.items():
        for name, ids in classes:
            for video_id in (ids or [])[:6]:  # clips of different rates are different files
                write_clip(folder / "ssv2" / "videos" / f"{video_id}.webm", n_frames=4, fps=5 + len(entries))
                entries.append({"id": video_id, "template": name})
            rows.append(f'{part},"{name}",*')
    (folder / "ssv2" / "labels").mkdir(parents=True)
    (folder / "ssv2" / "mine.csv").write_text("\n".join(rows) + "\n")
    (folder / "ssv2" / "labels" / "train.json").write_text(json.dumps(entries))
    (folder / "ssv2" / "labels" / "validation.json").write_text("[]")


def own_videos(folder: Path) -> None:
    """Make class folders in train and test, and clips that come later."""
    places = [("train", name) for name in ("run", "walk", "sit")] + [("test", name) for name in ("wave", "jump")]
    for number, (part, name) in enumerate(places):
        for clip in range(4):
            write_clip(folder / "videos" / part / name / f"{clip}.mp4", n_frames=4, fps=5 + 4 * number + clip)
    write_clip(folder / "new" / "later.mp4", n_frames=30)


def eight_classes(folder: Path) -> None:
    """Make eight class folders."""
    for number, name in enumerate("abcdefgh"):
        for clip in range(3):
            write_clip(folder / "videos" / name / f"{clip}.mp4", n_frames=4, fps=5 + 3 * number + clip)


def examples(folder: Path) -> None:
    """Make a trained run, two clips of each of its test classes, and a clip to ask about."""
    import fsar

    motions_store(folder)
    store = fsar.open_store(folder / "motions.zarr")
    run = folder / "runs" / "otam"
    fsar.train_head(
        "otam", store, options={"adapter": "temporal"}, way=3, steps=5, test_episodes=50, out=run, quiet=True
    )
    rows = [row for row, video in enumerate(store.videos) if video.part == "test"]
    for row in rows[:-1]:
        source = store.video_path(row)
        target = folder / "examples" / store.videos[row].class_name.replace("/", "-") / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    shutil.copy(store.video_path(rows[-1]), folder / "clip.webm")


PREPARE: dict[str, Callable[[Path], None]] = {
    "datasets.md": downloads,
    "backbones.md": few_classes,
    "cluster.md": catalog,
    "packs.md": catalog,
    "python.md": motions,
    "own-data.md": own_videos,
    "own-head.md": motions_store,
    "own-loop.md": motions_store,
    "own-splits.md": eight_classes,
    "ssv2.md": small_ssv2,
    "predict.md": examples,
    "report.md": examples,
    "run-file.md": few_classes,
}
"""Page -> function that fills the folder in which the page's snippets run."""

RUN_ELSEWHERE = {
    "README.md": "test_docs.py",  # names models with published weights; its options are checked there
    "store.md": "pipeline/store/test_page.py",  # also checks what the snippets print
}
"""Page -> test that runs it another way."""
