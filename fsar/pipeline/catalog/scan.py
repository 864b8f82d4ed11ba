"""Datasets on disk, each with the quirks of its folders, as rows of a catalog."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fsar.errors import InputError, unknown_name
from fsar.pipeline.catalog.catalog import CatalogRow, check_unique, read_rows
from fsar.pipeline.catalog.media import Scan, existing_folder, frames_bytes, media_in
from fsar.pipeline.catalog.ssv2 import scan_ssv2
from fsar.splits import PARTS, class_key

_KINETICS_ROOT = re.compile(r"(train|val|validate|test)(_\d+)?")
_UCF_NAME = re.compile(r"v_(?P<class>.+)_g\d+_c\d+")


def scan_dataset(name: str, videos: Path | None, annotations: Path | None) -> Scan:
    """Return the videos of a dataset. `videos` is a folder; `annotations` a folder (ssv2) or a file (csv).

    Raises InputError or FileNotFoundError, with the file and the id, for anything that cannot be a dataset.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    scan = DATASETS[name](videos, annotations)
    if not scan.rows:
        raise InputError(f"no video at {videos or annotations}: none of {len(scan.missing)} listed files exists")
    check_unique((row.video_id, str(row.path)) for row in scan.rows)
    return scan


def _class_tree(root: Path) -> list[CatalogRow]:
    """Return the videos of root/class/video, also where archives unpacked to root/class/class/video."""
    rows = []
    for folder in _folders(root):
        inner = folder / folder.name
        source = inner if inner.is_dir() and frames_bytes(inner) is None else folder
        rows += [CatalogRow(stem, path, folder.name, size) for stem, path, size in media_in(source)]
    return rows


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _need_rows(rows: list[CatalogRow], root: Path, layout: str) -> Scan:
    if not rows:
        raise InputError(f"no videos in {root}: expected {layout}")
    return Scan(rows)


def _scan_hmdb51(videos: Path | None, annotations: Path | None) -> Scan:
    root = existing_folder(videos, "--videos")
    return _need_rows(_class_tree(root), root, "class/clip.avi")


def _scan_ucf101(videos: Path | None, annotations: Path | None) -> Scan:
    """UCF101 comes as class folders or as one flat folder; the class is in every name: v_ApplyEyeMakeup_g01_c01."""
    root = existing_folder(videos, "--videos")
    rows = _class_tree(root)
    for stem, path, size in media_in(root):
        found = _UCF_NAME.fullmatch(stem)
        if not found:
            raise InputError(
                f"{path}: a UCF101 name must be like v_Archery_g01_c01, or stand in the folder of its class"
            )
        rows.append(CatalogRow(stem, path, found["class"], size))
    return _need_rows(rows, root, "class/v_Class_g01_c01.avi or v_Class_g01_c01.avi")


def _scan_kinetics(videos: Path | None, annotations: Path | None) -> Scan:
    """Kinetics class folders lie in one root or in train_256, val_256 beside each other; splits draw from all."""
    root = existing_folder(videos, "--videos")
    roots = [folder for folder in _folders(root) if _KINETICS_ROOT.fullmatch(folder.name)]
    rows = [row for folder in roots or [root] for row in _class_tree(folder)]
    scan = _need_rows(rows, root, "class/ID_000012_000022.mp4, or such trees in train_256 and val_256")
    if roots:
        others = [folder.name for folder in _folders(root) if folder not in roots]
        beside = f"; left out {', '.join(others)}" if others else ""
        scan.notes.append(f"read {', '.join(folder.name for folder in roots)} as one dataset{beside}")
    return scan


def _scan_folder(videos: Path | None, annotations: Path | None) -> Scan:
    """Any class/clip tree. Folders train, val, test above the classes become parts if they share no class.

    The id of a video is its path below the folder, suffix included: no other file can change it, so that a folder can
    grow and `fsar-store add` still knows what it has.
    """
    root = existing_folder(videos, "--videos")
    folders = _folders(root)
    if folders and all(folder.name in PARTS for folder in folders):
        scan = _scan_parts(folders)
    else:
        scan = Scan(_class_tree(root))
    _need_rows(scan.rows, root, "class/clip.mp4 or class/clip/frame.jpg")
    scan.rows = [replace(row, video_id=row.path.relative_to(root).as_posix()) for row in scan.rows]
    return scan


def _scan_parts(folders: list[Path]) -> Scan:
    rows = [replace(row, part=folder.name) for folder in folders for row in _class_tree(folder)]
    n_parts = Counter(key for key, _ in {(class_key(row.class_name), row.part) for row in rows})
    if all(n == 1 for n in n_parts.values()):
        return Scan(rows, notes=["the folders train, val and test are the parts"])
    return Scan([replace(row, part="") for row in rows], notes=["train, val and test share classes: no parts set"])


def _scan_csv(videos: Path | None, annotations: Path | None) -> Scan:
    """A CSV with path, class and optionally video_id, part; relative paths from --videos, else from the CSV."""
    if annotations is None or not annotations.is_file():
        raise FileNotFoundError(f"--annotations must be the CSV file, got {annotations or 'nothing'}")
    base = existing_folder(videos, "--videos") if videos else annotations.absolute().parent
    rows = read_rows(annotations, base=base, required=("path", "class"))
    if not rows:
        raise InputError(f"{annotations} lists no videos")
    check_unique((row.video_id, f"{annotations}, line {line}") for line, row in rows)
    scan = Scan([])
    for _, row in rows:
        size = _size(row.path)
        if size is None:
            scan.missing.append((row.video_id, row.class_name))
        else:
            scan.rows.append(replace(row, bytes=size))
    return scan


def _size(path: Path) -> int | None:
    if path.is_dir():
        return frames_bytes(path)
    return path.stat().st_size if path.is_file() else None


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
