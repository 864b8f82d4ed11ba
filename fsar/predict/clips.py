"""The clips that a user names: supports in a folder per class, queries as a file, a folder or a list."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fsar.documents import read_csv, read_text
from fsar.errors import InputError, unknown_name
from fsar.pipeline.catalog.catalog import read_rows
from fsar.pipeline.catalog.media import LeftOut, frame_folder_bytes, media_below, subfolders
from fsar.splits.names import VIDEO_SUFFIXES

MIN_CLASSES = 2


def find_supports(path: Path, *, classes: Sequence[str] = (), n_shot: int | None = None) -> dict[str, list[Path]]:
    """Return class -> clips of a folder `class/clip.*`, or of a CSV with columns path and class, such as a catalog.

    Args:
        path: The folder, whose classes and clips are sorted, or the CSV, whose order is kept. A clip is a video file or
            a folder of frames.
        classes: Those to take; all if there are none.
        n_shot: The first so many clips of each; None for all.

    Raises:
        InputError: no such folder, fewer than two classes, or a class without a clip or that is not there (named).
    """
    if path.suffix.lower() == ".csv":
        found = _listed_supports(path)
    elif path.is_dir():
        found = {folder.name: [clip for _, clip, _ in media_below(folder, LeftOut())] for folder in subfolders(path)}
    else:
        raise InputError(f"--support must be a folder with one folder of clips per class, or a CSV; {_what(path)}")
    for name in classes:
        if name not in found:
            raise unknown_name(f"class of {path}", name, found)
    chosen = {name: found[name][:n_shot] for name in (classes or found)}
    return check_supports(chosen, str(path))


def _listed_supports(path: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for _, row in read_rows(_listed(path), base=path.parent, required=("path", "class")):
        found.setdefault(row.class_name, []).append(row.path)
    return found


def check_supports(classes: Mapping[str, list[Path]], where: str) -> dict[str, list[Path]]:
    """Return the classes if there are two or more, each with a clip; raises InputError otherwise."""
    for name, clips in classes.items():
        if not clips:
            raise InputError(f"class {name!r} of {where} has no clip: add one, or remove the folder")
    if len(classes) < MIN_CLASSES:
        found = f"only {next(iter(classes))!r}" if classes else "none (expected CLASS/CLIP.mp4)"
        raise InputError(f"{where} must hold two classes or more to choose between, it has {found}")
    return dict(classes)


def find_queries(path: Path) -> list[Path]:
    """Return the clips of a query: a video, a folder of frames, a folder with clips at any depth, or a list of paths.

    A list is a text file with a path a line, or a CSV with a column `path`, such as a catalog; relative paths start at
    the list.

    Raises:
        InputError: nothing there, an empty folder or list, or a file that is neither a video nor a list.
    """
    if path.is_dir():
        if frame_folder_bytes(path) is not None:
            return [path]
        found = [clip for _, clip, _ in media_below(path, LeftOut())]
        if not found:
            raise InputError(f"{path} holds no video and no folder of frames")
        return found
    if path.suffix.lower() in (".txt", ".csv"):
        return _read_list(path)
    if not path.is_file():
        raise InputError(f"no query {path}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(
            f"query {path} is neither a video ({', '.join(sorted(VIDEO_SUFFIXES))}) nor a list (.txt, .csv)"
        )
    return [path]


def _read_list(path: Path) -> list[Path]:
    if _listed(path).suffix.lower() == ".csv":
        header, lines = read_csv(path, ["path"])
        names = [cells[header.index("path")].strip() for _, cells in lines]
    else:
        names = [line.strip() for line in read_text(path).split("\n")]
    clips = [path.parent / name for name in names if name]
    if not clips:
        raise InputError(f"{path} lists no clip")
    return clips


def _listed(path: Path) -> Path:
    """Return the path of a list that is there."""
    if not path.is_file():
        raise InputError(f"no list {path}")
    return path


def _what(path: Path) -> str:
    return f"{path} is a file" if path.exists() else f"there is no {path}"
