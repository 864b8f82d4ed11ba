"""The lines of split lists as published beside papers.

Five forms are told apart by their lines, one video or class per line:

    class/video                 TRX, STRM, CLIP-MEI; HCL's `*.list`. The class may be numbered: `test18/195025`
    train8/78687                CLIP-FSAR, MoLo, HyRSM, EMP-Net for SSv2: part and class number
    train0//folder/clip.ext     the same family for other data sets; the class is the clip's own folder
    class                       HCL's `*_class.txt`: every video of the class, or the order of the classes of a `*.list`
    part,class,video_id         a CSV of ours
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fsar.errors import InputError
from fsar.splits.custom import EVERY_VIDEO, read_split_csv, read_text
from fsar.splits.names import PARTS, numbered_class


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
    parse = _parse_video if any("/" in line for _, line in rows) else _parse_class
    return [parse(line, f"{path}, line {number}", by_name) for number, line in rows]


def _parse_class(line: str, where: str, part: str | None) -> Line:
    numbered = numbered_class(line)
    return Line(_agree(part, numbered, where), line, None, numbered[1] if numbered else None, where)


def _parse_video(line: str, where: str, part: str | None) -> Line:
    head, found, tail = line.partition("//")
    if found:
        return _parse_path(head, tail, where, part)
    name, _, video_id = line.partition("/")
    if not name or not video_id or "/" in video_id:
        raise InputError(f"{where}: must be class/video, got {line!r}")
    numbered = numbered_class(name)
    return Line(_agree(part, numbered, where), name, video_id, numbered[1] if numbered else None, where)


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
    return path.parent.name if path.parent.name in PARTS else None


def _csv_lines(path: Path) -> list[Line]:
    return [
        Line(part, name, None if video_id in EVERY_VIDEO else video_id, None, str(path))
        for part, name, ids in read_split_csv(path).classes()
        for video_id in (["*"] if ids is None else ids)
    ]
