"""Datasets on disk, each with the quirks of its folders, as rows of a catalog."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fsar.errors import InputError, unknown_name
from fsar.pipeline.catalog.catalog import CatalogRow, check_unique
from fsar.pipeline.catalog.csv_list import scan_csv
from fsar.pipeline.catalog.media import (
    LeftOut,
    Scan,
    existing_folder,
    frame_folder_bytes,
    media_below,
    media_in,
    subfolders,
)
from fsar.pipeline.catalog.ssv2 import scan_ssv2
from fsar.splits import class_key
from fsar.splits.names import VIDEO_SUFFIXES, part_of_word

_KINETICS_ROOT = re.compile(r"(train|training|val|validate|validation|test)(_\d+)?", re.IGNORECASE)
_UCF_NAME = re.compile(r"v_(?P<class>.+)_g\d+_c\d+")
_UCF_RULE = "a UCF101 name must be like v_Archery_g01_c01, or stand in the folder of its class"


def scan_dataset(name: str, videos: Path | None, annotations: Path | None) -> Scan:
    """Return the videos of a dataset. `videos` is a folder; `annotations` a folder (ssv2) or a file (csv).

    Raises InputError or FileNotFoundError, with the file and the id, for anything that cannot be a dataset.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    scan = DATASETS[name](videos, annotations)
    check_unique((row.video_id, str(row.path)) for row in scan.rows)
    return scan


def _class_tree(root: Path, left_out: LeftOut) -> list[CatalogRow]:
    """Return the videos of root/class/video, also in folders between the two (root/class/subject/video)."""
    rows = []
    for folder in subfolders(root):
        if frame_folder_bytes(folder) is None:
            rows += [CatalogRow(m.stem, m.path, folder.name, m.bytes) for m in media_below(folder, left_out)]
    return rows


def _count_top(root: Path, left_out: LeftOut) -> None:
    """Count what stands in no class folder."""
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if frame_folder_bytes(path) is not None:
                left_out.add("folders of frames that stand in no class folder", path)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            left_out.add("videos that stand in no class folder", path)
        else:
            left_out.add_file(path)


def _scan_of(rows: list[CatalogRow], root: Path, layout: str, left_out: LeftOut) -> Scan:
    notes = left_out.notes()
    if not rows:
        raise InputError("; ".join([f"no videos in {root}: expected {layout}", *notes]))
    return Scan(rows, notes=notes)


def _scan_hmdb51(videos: Path | None, annotations: Path | None) -> Scan:
    root, left_out = existing_folder(videos, "--videos"), LeftOut()
    rows = _class_tree(root, left_out)
    _count_top(root, left_out)
    return _scan_of(rows, root, "class/clip.avi", left_out)


def _scan_ucf101(videos: Path | None, annotations: Path | None) -> Scan:
    """UCF101 comes as class folders or as one flat folder; the class is in every name: v_ApplyEyeMakeup_g01_c01."""
    root, left_out = existing_folder(videos, "--videos"), LeftOut()
    rows = _class_tree(root, left_out)
    for medium in media_in(root, left_out):
        found = _UCF_NAME.fullmatch(medium.stem)
        if found:
            rows.append(CatalogRow(medium.stem, medium.path, found["class"], medium.bytes))
        else:
            left_out.add(f"videos ({_UCF_RULE})", medium.path)
    return _scan_of(rows, root, "class/v_Class_g01_c01.avi or v_Class_g01_c01.avi", left_out)


def _scan_kinetics(videos: Path | None, annotations: Path | None) -> Scan:
    """Kinetics class folders lie in one root or in train_256, val_256 beside each other; splits draw from all."""
    root, left_out = existing_folder(videos, "--videos"), LeftOut()
    folders = subfolders(root)
    roots = [folder for folder in folders if _KINETICS_ROOT.fullmatch(folder.name)]
    rows = [row for folder in roots or [root] for row in _class_tree(folder, left_out)]
    for folder in roots or [root]:
        _count_top(folder, left_out)
    layout = "class/ID_000012_000022.mp4, or such trees in train_256 and val_256"
    scan = _scan_of(rows, root, layout, left_out)
    if roots:
        others = [folder.name for folder in folders if folder not in roots]
        beside = f"; left out {', '.join(others)}" if others else ""
        scan.notes.append(f"read {', '.join(folder.name for folder in roots)} as one dataset{beside}")
    return scan


def _scan_folder(videos: Path | None, annotations: Path | None) -> Scan:
    """Any class/clip tree. Folders train, val, test above the classes become parts if they share no class.

    The id of a video is its path below the folder, suffix included: no other file can change it, so that a folder can
    grow and `fsar-store add` still knows what it has.
    """
    root, left_out = existing_folder(videos, "--videos"), LeftOut()
    parts = _part_folders(root)
    if parts:
        scan = _scan_parts(root, parts, left_out)
    else:
        rows = _class_tree(root, left_out)
        _count_top(root, left_out)
        scan = _scan_of(rows, root, "class/clip.mp4 or class/clip/frame.jpg", left_out)
    scan.rows = [replace(row, video_id=row.path.relative_to(root).as_posix()) for row in scan.rows]
    return scan


def _part_folders(root: Path) -> dict[Path, str]:
    """Return the folders that are parts, and which: they are named so, hold class folders, and no class stands beside.

    One part beside other folders with videos is taken for a class of that name.
    """
    with_videos = [folder for folder in subfolders(root) if next(media_below(folder, LeftOut()), None)]
    named = {folder: part for folder in with_videos if (part := part_of_word(folder.name)) and _has_classes(folder)}
    return named if len(set(named.values())) > 1 or len(named) == len(with_videos) else {}


def _has_classes(folder: Path) -> bool:
    return any(next(media_below(inner, LeftOut()), None) for inner in subfolders(folder))


def _scan_parts(root: Path, parts: dict[Path, str], left_out: LeftOut) -> Scan:
    rows = [replace(row, part=part) for folder, part in parts.items() for row in _class_tree(folder, left_out)]
    for folder in parts:
        _count_top(folder, left_out)
    others = [folder for folder in subfolders(root) if folder not in parts]
    for folder in others:
        n_videos = sum(1 for _ in media_below(folder, LeftOut()))
        if n_videos:
            left_out.add("videos in folders beside the parts", folder, n_videos)
    scan = _scan_of(rows, root, "train/class/clip.mp4, test/class/clip.mp4", left_out)
    beside = f"; left out {', '.join(folder.name for folder in others)}" if others else ""
    part_of_class: dict[str, set[str]] = {}
    for row in rows:
        part_of_class.setdefault(class_key(row.class_name), set()).add(row.part)
    if all(len(found) == 1 for found in part_of_class.values()):
        scan.notes.insert(0, f"the folders {_names(parts)} are the parts{beside}")
    else:
        scan.rows = [replace(row, part="") for row in rows]
        scan.notes.insert(0, f"{_names(parts)} share classes: no parts set{beside}")
    return scan


def _names(parts: dict[Path, str]) -> str:
    *names, last = [folder.name for folder in parts]
    return f"{', '.join(names)} and {last}" if names else last


def _scan_csv(videos: Path | None, annotations: Path | None) -> Scan:
    """A CSV with path, class and optionally video_id, part; relative paths from --videos, else from the CSV."""
    if annotations is None or not annotations.is_file():
        raise FileNotFoundError(f"--annotations must be the CSV file, got {annotations or 'nothing'}")
    return scan_csv(annotations, existing_folder(videos, "--videos") if videos else None)


def _scan_ssv2(videos: Path | None, annotations: Path | None) -> Scan:
    return scan_ssv2(existing_folder(videos, "--videos"), existing_folder(annotations, "--annotations"))


DATASETS: dict[str, Callable[[Path | None, Path | None], Scan]] = {
    "ssv2": _scan_ssv2,
    "hmdb51": _scan_hmdb51,
    "ucf101": _scan_ucf101,
    "kinetics": _scan_kinetics,
    "folder": _scan_folder,
    "csv": _scan_csv,
}
