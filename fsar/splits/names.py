"""When two spellings of a class or of a video mean the same one."""

import re

PARTS = ("train", "val", "test")
"""The parts of every split, in this order. Selection of models looks at val and never at test."""

_PART_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m1v", ".m2t", ".m2ts",
    ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf",
    ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# fmt: on
"""Endings by which a file counts as a video; what it really holds shows when it is opened."""

_NUMBERED_CLASS = re.compile(r"(train|val|test)(\d+)")
_CLIP_TIMES = re.compile(r"(?P<video>.{11})_\d{6}_\d{6}")


def class_key(name: str) -> str:
    """Return what two spellings of one class share: their letters and digits, without case.

    `Closing [something]`, `closing_something` and `Closing something` are one class, as are `ApplyEyeMakeup` and
    `Apply Eye Makeup`. A name of symbols alone is kept as it is.
    """
    return "".join(filter(str.isalnum, name.casefold())) or name.strip()


def part_of_word(word: str) -> str | None:
    """Return the part that a word stands for, as people write it (`Training`, `VAL`, `validation`); None for none."""
    return _PART_WORDS.get(word.strip().lower())


def without_video_suffix(name: str) -> str:
    """Return a file's name without the suffix of a video, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in VIDEO_SUFFIXES else name


def numbered_class(name: str) -> tuple[str, int] | None:
    """Return part and class number of a stand-in for a class name such as `train8`, None for a real name."""
    found = _NUMBERED_CLASS.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def loose_video_id(video_id: str) -> str:
    """Return `video_id` without folders, without a video's suffix and without the start and end of Kinetics names.

    `air_drumming/-VtLx-mcPds_000012_000022.mp4` and `-VtLx-mcPds` name the same clip: the eleven letters are unique.
    """
    last = without_video_suffix(video_id.rpartition("/")[2])
    found = _CLIP_TIMES.fullmatch(last)
    return found["video"] if found else last


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key under which `clip2` comes before `clip10`."""
    pieces = re.split(r"(\d+)", text)
    return [(0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
