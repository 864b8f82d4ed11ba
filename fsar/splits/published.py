"""Split lists as published beside papers, read into a `Split`.

Five forms are told apart by their lines, one video or class per line:

    class/video                 TRX, STRM, CLIP-MEI; HCL's `*.list`. The class may be numbered: `test18/195025`
    train8/78687                CLIP-FSAR, MoLo, HyRSM, EMP-Net for SSv2: part and class number
    train0//folder/clip.ext     the same family for other data sets; the class is the clip's own folder
    class                       HCL's `*_class.txt`: every video of the class, or the order of the classes of a `*.list`
    part,class,video_id         a CSV of ours
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fsar.errors import InputError
from fsar.splits.custom import EVERY_VIDEO, read_split_csv, read_text
from fsar.splits.names import PARTS, class_key, numbered_class
from fsar.splits.split import Split


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


def import_lists(
    paths: Sequence[str | Path], *, name: str, part: str | None = None, class_names: Mapping[str, str] | None = None
) -> Split:
    """Return the split that published lists describe together.

    Args:
        paths: one list per part, more where a part has a class file beside its video list.
        name: the new split's name.
        part: train, val or test for lists that say it neither in their lines nor in their names.
        class_names: real names for numbered classes (`{"train8": "Closing something"}`).

    Raises:
        InputError: a malformed or repeated line (with its number), lists that contradict each other, unknown part.
    """
    lines = [line for path in paths for line in read_list(Path(path), part=part)]
    parts: dict[str, dict[str, list[str] | None]] = {}
    for part_name in PARTS:
        parts[part_name] = _part(name, [line for line in lines if line.part == part_name])
    _check_repeats(lines)
    return Split(name=name, parts=_renamed(parts, class_names or {}))


def read_list(path: Path, *, part: str | None = None) -> list[Line]:
    """Return the lines of one published list. The part is taken from the lines, else from the name of the file."""
    text = read_text(path)
    rows = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not rows:
        raise InputError(f"{path} is empty")
    if path.suffix.lower() == ".csv" or rows[0][1].replace(" ", "").startswith("part,class"):
        return _csv_lines(path)
    by_name = part or _part_in_name(path)
    is_classes = not any("/" in line for _, line in rows)
    return [_parse(line, f"{path}, line {number}", by_name, is_classes=is_classes) for number, line in rows]


def read_class_names(path: str | Path) -> dict[str, str]:
    """Return the names of numbered classes from a JSON object or from lines such as `train8 closing something`."""
    import json

    path = Path(path)
    text = read_text(path)
    if path.suffix.lower() == ".json":
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
        if not isinstance(table, dict):
            raise InputError(f"{path} must be a JSON object of numbered class to name")
        return {str(key): str(value) for key, value in table.items()}
    names = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            key, _, value = line.strip().replace(",", " ", 1).partition(" ")
            if not numbered_class(key) or not value.strip():
                raise InputError(
                    f"{path}, line {number}: must be like 'train8 closing something', got {line.strip()!r}"
                )
            names[key] = value.strip()
    return names


def names_from_split(split: Split) -> dict[str, str]:
    """Return the names of numbered classes by their place in a known split: train0 is its first training class."""
    return {f"{part}{k}": name for part in PARTS for k, name in enumerate(split.parts[part])}


def _parse(line: str, where: str, part: str | None, *, is_classes: bool) -> Line:
    if is_classes:
        numbered = numbered_class(line)
        return Line(_agree(part, numbered, where), line, None, numbered[1] if numbered else None, where)
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


def _part(split_name: str, lines: Sequence[Line]) -> dict[str, list[str] | None]:
    """Return class -> ids of one part; a class file beside a video list gives the order and must name the same."""
    listed: dict[str, list[str] | None] = {}
    alone: dict[str, list[str] | None] = {}
    numbers: dict[str, int] = {}
    for line in lines:
        if line.number is not None and numbers.setdefault(line.class_name, line.number) != line.number:
            raise InputError(f"{line.where}: class {line.class_name!r} is number {numbers[line.class_name]} elsewhere")
        if line.video_id is None:
            alone[line.class_name] = None
        else:
            ids = listed.setdefault(line.class_name, [])
            assert ids is not None
            ids.append(line.video_id)
    _check_numbers(numbers, lines)
    if listed and alone:
        odd = sorted(set(listed) ^ set(alone))
        if odd:
            raise InputError(f"{lines[0].part}: class {odd[0]!r} is in only one of class file and video list")
        return {name: listed[name] for name in alone}
    chosen = listed or alone
    return dict(sorted(chosen.items(), key=lambda item: numbers.get(item[0], 0)))


def _check_numbers(numbers: Mapping[str, int], lines: Sequence[Line]) -> None:
    owner: dict[int, str] = {}
    for line in lines:
        if line.number is not None and owner.setdefault(line.number, line.class_name) != line.class_name:
            other = owner[line.number]
            raise InputError(
                f"{line.where}: class number {line.number} is {other!r} elsewhere, here {line.class_name!r}"
            )


def _check_repeats(lines: Sequence[Line]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for line in lines:
        if line.video_id is not None:
            first = seen.setdefault((class_key(line.class_name), line.video_id), line.where)
            if first != line.where:
                raise InputError(f"{line.where}: video {line.video_id!r} is listed already in {first}")


def _renamed(
    parts: Mapping[str, Mapping[str, list[str] | None]], class_names: Mapping[str, str]
) -> dict[str, dict[str, list[str] | None]]:
    return {
        part: {class_names.get(name, name): ids for name, ids in classes.items()} for part, classes in parts.items()
    }
