"""Published lists put together into a `Split`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fsar.documents import read_json, read_text
from fsar.errors import InputError
from fsar.splits.lists import Line, read_list
from fsar.splits.names import PARTS, class_key, loose_video_id, numbered_class
from fsar.splits.split import Split


def import_lists(paths: Sequence[str | Path], *, name: str, part: str | None = None) -> Split:
    """Return the split that published lists describe together; `fsar.splits.lists` says which forms are known.

    Args:
        paths: one list per part, more where a part has a class file beside its video list.
        name: the new split's name.
        part: train, val or test for lists that say it neither in their lines nor in their names.

    Raises:
        InputError: a malformed or repeated line (with its number), lists that contradict each other, unknown part.
    """
    lines = [line for path in paths for line in read_list(Path(path), part=part)]
    _check_repeats(lines)
    return Split(name=name, parts={part: _classes([line for line in lines if line.part == part]) for part in PARTS})


def rename_classes(split: Split, names: Mapping[str, str]) -> Split:
    """Return `split` with real names for numbered classes (`{"train8": "Closing something"}`).

    Raises InputError when two classes would get one name, or when `names` has a name for none of the classes.
    """
    old_names = [name for _, name, _ in split.classes()]
    if not any(name in names for name in old_names):
        known = ", ".join(map(repr, list(names)[:3])) or "nothing"
        raise InputError(f"there are names for {known}, but the lists hold {old_names[0]!r}: no class would be named")
    _check_distinct({name: names.get(name, name) for name in old_names})
    parts = {part: {names.get(key, key): ids for key, ids in classes.items()} for part, classes in split.parts.items()}
    return Split(name=split.name, parts=parts)


def read_class_names(path: str | Path) -> dict[str, str]:
    """Return the names of numbered classes from a JSON object or from lines such as `train8 closing something`."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _names_from_json(path)
    names = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            key, _, value = line.strip().replace(",", " ", 1).partition(" ")
            if not numbered_class(key) or not value.strip():
                raise InputError(
                    f"{path}, line {number}: must be like 'train8 closing something', got {line.strip()!r}"
                )
            names[key] = value.strip()
    return names


def names_like(split: Split, known: Split) -> dict[str, str]:
    """Return the names of the numbered classes of `split`: those of the classes of `known` that hold the same videos.

    Raises InputError for a class whose videos `known` does not have, or has in several classes.
    """
    class_of = {loose_video_id(video_id): name for _, name, ids in known.classes() for video_id in ids or ()}
    names = {}
    for _, name, ids in split.classes():
        if numbered_class(name):
            found = {class_of[key] for key in map(loose_video_id, ids or ()) if key in class_of}
            if len(found) != 1:
                holders = f"in {len(found)} classes" if found else "not"
                raise InputError(f"the videos of class {name!r} are {holders} in split {known.name!r}: give --names")
            names[name] = found.pop()
    return names


def _check_distinct(new_names: Mapping[str, str]) -> None:
    """Raise InputError for two classes with one new name: the videos of one of them would be lost."""
    owner: dict[str, str] = {}
    for old, new in new_names.items():
        other = owner.setdefault(class_key(new), old)
        if other != old:
            raise InputError(f"classes {other!r} and {old!r} would both be named {new!r}: give each its own name")


def _names_from_json(path: Path) -> dict[str, str]:
    table = read_json(path)
    if not isinstance(table, dict):
        raise InputError(f"{path} must be a JSON object of numbered class to name")
    return {str(key): str(value) for key, value in table.items()}


def _classes(lines: Sequence[Line]) -> dict[str, list[str] | None]:
    """Return class -> ids of one part, in the order of class numbers or of the class file where there is one."""
    lines = _numbered_if_flat(lines)
    numbers = _class_numbers(lines)
    listed: dict[str, list[str]] = {}
    for line in lines:
        if line.video_id is not None:
            listed.setdefault(line.class_name, []).append(line.video_id)
    alone = dict.fromkeys(line.class_name for line in lines if line.video_id is None)
    if not listed or not alone:
        return dict(sorted((listed or alone).items(), key=lambda item: numbers.get(item[0], 0)))
    odd = sorted(listed.keys() ^ alone.keys())
    if odd:
        raise InputError(f"{lines[0].part}: class {odd[0]!r} is in only one of class file and video list")
    return {name: listed[name] for name in alone}


def _numbered_if_flat(lines: Sequence[Line]) -> Sequence[Line]:
    """Name classes by their numbers where one folder holds clips of several: it is no class folder then."""
    number_of: dict[str, int] = {}
    numbered = [line for line in lines if line.number is not None]
    if all(number_of.setdefault(line.class_name, line.number or 0) == line.number for line in numbered):
        return lines
    return [line if line.number is None else replace(line, class_name=f"{line.part}{line.number}") for line in lines]


def _class_numbers(lines: Sequence[Line]) -> dict[str, int]:
    owner: dict[int, str] = {}
    for line in lines:
        if line.number is not None and owner.setdefault(line.number, line.class_name) != line.class_name:
            other = owner[line.number]
            raise InputError(
                f"{line.where}: class number {line.number} is {other!r} elsewhere, here {line.class_name!r}"
            )
    return {name: number for number, name in owner.items()}


def _check_repeats(lines: Sequence[Line]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for line in lines:
        if line.video_id is not None:
            first = seen.setdefault((class_key(line.class_name), line.video_id), line.where)
            if first != line.where:
                raise InputError(f"{line.where}: video {line.video_id!r} is listed already in {first}")
