"""Where the videos of a store lie: in its tables by paths that mean something on every machine, and here.

`videos.csv` and the messages of failures name videos relative to the folder that all share: absolute paths tell others
about this machine and its users, and the same store would be another one on the next machine. Where that folder is
here stands in `runs/`, which is no part of a store's identity and is never sent anywhere.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from fsar.errors import InputError
from fsar.pipeline.store.format.files import StoreFiles, read_runs
from fsar.pipeline.store.format.layout import VideoRow

FOLDER = "videos_folder"
"""What a run's record calls the folder of its videos."""
_FOLDERS = re.compile(r"(?<![\w./~-])(?:[A-Za-z]:[\\/]|/)(?:[^/\\\s'\":,;()\[\]]+[/\\])+")
"""The folders of an absolute path somewhere in a text."""


def is_absolute(path: str) -> bool:
    """Return whether a path is absolute, here or on Windows."""
    return path.startswith("/") or PureWindowsPath(path).is_absolute()


def shared_folder(paths: Iterable[str]) -> str:
    """Return the folder that all absolute paths share."""
    parents = [os.path.dirname(os.path.normpath(path)) for path in paths if path.startswith("/")]
    return os.path.commonpath(parents) if parents else "/"


def relative_paths(paths: Sequence[str], folder: str = "") -> list[str]:
    """Return paths relative to a folder, by default the one that all absolute ones share.

    What does not lie below it, or only the root is shared, keeps its name alone; relative paths stay as they are.
    """
    base = folder or shared_folder(paths)
    return [_relative(path, base) for path in paths]


def _relative(path: str, folder: str) -> str:
    if not is_absolute(path):
        return path
    if not path.startswith("/"):
        return PureWindowsPath(path).name
    normal = PurePosixPath(os.path.normpath(path))
    return normal.relative_to(folder).as_posix() if folder != "/" and normal.is_relative_to(folder) else normal.name


def portable_rows(videos: Sequence[VideoRow], folder: str = "") -> list[VideoRow]:
    """Return rows as a store keeps them, with paths relative to a folder: that which all share, if none is given."""
    names = relative_paths([os.path.abspath(video.path) for video in videos], folder)
    return [replace(video, path=name) for video, name in zip(videos, names, strict=True)]


def folder_for(stored: Sequence[VideoRow], new: Sequence[VideoRow], known: Sequence[str]) -> str:
    """Return the folder to name new videos by: a known one that they lie in, or one that gives names of their own."""
    paths = [os.path.abspath(video.path) for video in new]
    folder = shared_folder(paths)
    fitting = [base for base in known if PurePosixPath(folder).is_relative_to(base)]
    if fitting:
        return fitting[0]
    taken = {video.path for video in stored}
    while folder != "/" and taken & set(relative_paths(paths, folder)):
        folder = os.path.dirname(folder)
    return folder


def without_folders(text: str) -> str:
    """Return a message with every absolute path in it cut to its last part."""
    return _FOLDERS.sub("", text)


def portable_message(message: str, path: str, stored: str) -> str:
    """Return a message about the video at `path` as a store keeps it, whose tables call the video `stored`."""
    return message if is_absolute(stored) else without_folders(message.replace(path, stored))


def message_here(message: str, path: str, stored: str) -> str:
    """Return a stored message with the video's path on this machine, where it begins with the stored one."""
    begins = message.startswith((f"{stored} ", f"{stored}:"))
    return path + message[len(stored) :] if begins else message


def videos_folders(files: StoreFiles) -> list[str]:
    """Return the folders that videos of a store were read from; none where nothing was recorded, or it is damaged."""
    try:
        found = [run.get(FOLDER) for run in read_runs(files)]
    except (InputError, OSError):  # `verify` says what is wrong; numbers do not depend on it
        return []
    return list(dict.fromkeys(folder for folder in found if isinstance(folder, str) and folder.startswith("/")))


def find_video(path: str, folders: Iterable[str]) -> Path:
    """Return where a video is that a store calls `path`; the path itself where it is in none of the folders."""
    places = [] if is_absolute(path) else [Path(folder) / path for folder in folders]
    return next((place for place in places if place.exists()), Path(path))
