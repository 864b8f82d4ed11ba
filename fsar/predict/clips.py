"""The clips that a user names: supports in a folder per class, queries as a file, a folder or a list."""

import csv
from collections.abc import Mapping
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.catalog.media import LeftOut, frame_folder_bytes, media_below, subfolders
from fsar.splits.names import VIDEO_SUFFIXES

MIN_CLASSES = 2


def find_supports(folder: Path) -> dict[str, list[Path]]:
    """Return class -> clips of a folder `class/clip.*`, both sorted; a clip is a video file or a folder of frames.

    Raises:
        InputError: no such folder, fewer than two classes, or a class without a clip (named).
    """
    if not folder.is_dir():
        raise InputError(f"--support must be a folder with one folder of clips per class, {_what(folder)}")
    classes = {path.name: [clip for _, clip, _ in media_below(path, LeftOut())] for path in subfolders(folder)}
    return check_supports(classes, str(folder))


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

    A list is a text file with a path a line, or a CSV whose first column is `path`; relative paths start at the list.

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
    if not path.is_file():
        raise InputError(f"no list {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a list of paths in UTF-8: {error.reason}") from error
    rows = [row for row in csv.reader(text.splitlines()) if row and row[0].strip()]
    if path.suffix.lower() == ".csv":
        if not rows or rows[0][0].strip() != "path":
            raise InputError(f"the first column of {path} must be named path")
        rows = rows[1:]
        names = [row[0].strip() for row in rows]
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(f"{path} lists no clip")
    return [path.parent / name for name in names]


def _what(path: Path) -> str:
    return f"{path} is a file" if path.exists() else f"there is no {path}"
