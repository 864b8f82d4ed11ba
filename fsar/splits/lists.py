"""The lines of split lists as published beside papers.

The forms are told apart by their lines, one video or class per line:

    class/video                 TRX, STRM, CLIP-MEI; HCL's `*.list`. The class may be numbered: `test18/195025`
    train8/78687                CLIP-FSAR, MoLo, HyRSM, EMP-Net for SSv2: part and class number
    train0//folder/clip.ext     the same family for other data sets; the class is the clip's own folder
    folders/class/clip.avi 1    UCF101's own lists, label last (its test lists have none), and mmaction's for videos
    folders/class/clip 120 1    mmaction's lists for frames: number of frames and label last
    class                       HCL's `*_class.txt`: every video of the class, or the order of the classes of a `*.list`
    1 class                     UCF101's classInd.txt
    part,class,video_id         a CSV of ours
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fsar.documents import read_text
from fsar.errors import InputError
from fsar.splits.custom import EVERY_VIDEO, read_split_csv
from fsar.splits.names import PARTS, numbered_class, part_of_word, without_video_suffix

_LABELS = (re.compile(r"(?P<path>.*\S)\s+\d+\s+(?P<label>\d+)"), re.compile(r"(?P<path>.*\S)\s+(?P<label>\d+)"))
"""Frames and label, or a label alone. A form counts only if every line has it: names may end in numbers, too."""
_INDEXED_CLASS = re.compile(r"(?P<number>\d+)\s+(?P<name>\D.*)")


@dataclass(frozen=True)
class Line:
    """One line of a published list."""

    part: str
    class_name: str
    video_id: str | None
    """None: the line names a class alone."""
    number: int | None
    """Class number, where the line gives one."""
    where: str
    """File and line, for messages."""


def read_list(path: Path, *, part: str | None = None) -> list[Line]:
    """Return the lines of one published list; the part comes from `part`, the lines or the name of the file.

    Raises InputError for a line of no known form and for a part that cannot be told.
    """
    text = read_text(path)
    rows = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not rows:
        raise InputError(f"{path} is empty")
    if path.suffix.lower() == ".csv" or rows[0][1].replace(" ", "").startswith("part,class"):
        return _csv_lines(path)
    by_name = part or _part_in_name(path)
    parse = _parser_for([line for _, line in rows])
    return [parse(line, f"{path}, line {number}", by_name) for number, line in rows]


Parser = Callable[[str, str, str | None], Line]


def _parser_for(lines: list[str]) -> Parser:
    """Return what reads the lines of one list, by what all of them have in common."""
    if not any("/" in line for line in lines):
        indexed = all(_INDEXED_CLASS.fullmatch(line) for line in lines)
        return _parse_indexed_class if indexed else _parse_class
    for form in _LABELS:
        if all(form.fullmatch(line) for line in lines):
            return _Labelled(form)
    if all(without_video_suffix(line) != line and "//" not in line for line in lines):
        return _parse_file
    return _parse_video


def _parse_indexed_class(line: str, where: str, part: str | None) -> Line:
    found = _INDEXED_CLASS.fullmatch(line)
    assert found is not None
    return _parse_class(found["name"], where, part)


def _parse_class(line: str, where: str, part: str | None) -> Line:
    found = _LABELS[1].fullmatch(line)
    name = found["path"] if found else line
    if without_video_suffix(name) != name:
        raise InputError(f"{where}: a video without the folder of its class: must be class/video, got {line!r}")
    numbered = numbered_class(line)
    return Line(_agree(part, numbered, where), line, None, numbered[1] if numbered else None, where)


class _Labelled:
    """Reads lines that end in a label. The class is the folder: a label says the same in unexplained numbers."""

    def __init__(self, form: re.Pattern[str]) -> None:
        self._form = form
        self._first: dict[str, tuple[str, str]] = {}

    def __call__(self, text: str, where: str, part: str | None) -> Line:
        """Return the line; `InputError` where a folder has a second label, for then it is not the class."""
        found = self._form.fullmatch(text)
        assert found is not None
        line = _parse_file(found["path"], where, part)
        label, first = self._first.setdefault(line.class_name, (found["label"], where))
        if label != found["label"]:
            raise InputError(
                f"{where}: label {found['label']} in folder {line.class_name!r}, which has label {label} in {first}: "
                "the folder is not the class; write lines class/video"
            )
        return line


def _parse_file(line: str, where: str, part: str | None) -> Line:
    path = PurePosixPath(line)
    if len(path.parts) < 2:
        raise InputError(f"{where}: a video without the folder of its class: must be class/video, got {line!r}")
    numbered = numbered_class(path.parent.name)
    number = numbered[1] if numbered else None
    return Line(_agree(part, numbered, where), path.parent.name, without_video_suffix(path.name), number, where)


def _parse_video(line: str, where: str, part: str | None) -> Line:
    head, found, tail = line.partition("//")
    if found:
        return _parse_path(head, tail, where, part)
    name, _, video_id = line.partition("/")
    if not name or not video_id or "/" in video_id:
        raise InputError(f"{where}: must be class/video, got {line!r}")
    numbered = numbered_class(name)
    number = numbered[1] if numbered else None
    return Line(_agree(part, numbered, where), name, without_video_suffix(video_id), number, where)


def _parse_path(head: str, tail: str, where: str, part: str | None) -> Line:
    numbered = numbered_class(head)
    path = PurePosixPath(tail)
    if numbered is None or not path.suffix or len(path.parts) < 2:
        raise InputError(f"{where}: must be like train0//folder/clip.mp4, got {head + '//' + tail!r}")
    return Line(_agree(part, numbered, where), path.parent.name, path.stem, numbered[1], where)


def _agree(part: str | None, numbered: tuple[str, int] | None, where: str) -> str:
    if part and numbered and part != numbered[0]:
        raise InputError(f"{where}: a {numbered[0]} class in a list of {part}")
    if not part and not numbered:
        raise InputError(f"{where}: neither the line nor the file's name says train, val or test: give --part")
    return part or (numbered[0] if numbered else "")


def _part_in_name(path: Path) -> str | None:
    for part in PARTS:
        if path.name.lower().startswith(part):
            return part
    return part_of_word(path.parent.name)


def _csv_lines(path: Path) -> list[Line]:
    return [
        Line(part, name, None if video_id in EVERY_VIDEO else video_id, None, str(path))
        for part, name, ids in read_split_csv(path).classes()
        for video_id in (["*"] if ids is None else ids)
    ]
