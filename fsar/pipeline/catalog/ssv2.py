"""Something-Something V2: annotations in json files beside one flat folder of numbered videos."""

from pathlib import Path
from typing import NamedTuple

from fsar.documents import read_json
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import CatalogRow, check_unique
from fsar.pipeline.catalog.media import LeftOut, Scan, media_below
from fsar.splits import class_key

PART_OF_FILE = {"train": "train", "validation": "test"}
"""The part that each annotation file stands for where no split is named, if the two share no class."""


class Entry(NamedTuple):
    """One annotated video."""

    video_id: str
    class_name: str
    part: str
    where: str


def scan_ssv2(videos: Path, annotations: Path) -> Scan:
    """Return the annotated videos that are in `videos`, class = template without brackets.

    Videos may lie in folders below `videos`. `part` is train or test by annotation file when the files share no class,
    else empty.
    """
    entries = read_annotations(annotations)
    media: dict[str, tuple[Path, int]] = {}
    left_out = LeftOut()
    for stem, path, size in media_below(videos, left_out):
        check_unique([(stem, str(media[stem][0])), (stem, str(path))] if stem in media else [])
        media[stem] = (path, size)
    disjoint = _parts_are_known(entries)
    found = [entry for entry in entries if entry.video_id in media]
    if not found:
        example = f"{entries[0].video_id}.webm"
        beside = "".join(f"; {note}" for note in left_out.notes())
        raise InputError(
            f"{videos} has none of the {len(entries)} annotated videos (no {example}, for example){beside}"
        )
    rows = [CatalogRow(entry.video_id, *_at(media, entry), entry.part if disjoint else "") for entry in found]
    missing = [(entry.video_id, entry.class_name) for entry in entries if entry.video_id not in media]
    n_other = len(media) - len(found)
    notes = [f"{n_other} videos on disk have no annotation: left out"] if n_other else []
    return Scan(rows, missing, notes + left_out.notes())


def read_annotations(folder: Path) -> list[Entry]:
    """Return the entries of the train and the validation json in `folder`, checked against the labels json.

    Raises InputError with the file and the entry: malformed json, an unknown template, an id listed twice.
    """
    labels = _read_labels(folder)
    entries: list[Entry] = []
    for word, part in PART_OF_FILE.items():
        path = _find(folder, word)
        if path is not None:
            entries += _read_entries(path, part, labels)
    if not entries:
        raise InputError(
            f"{folder} has no annotations: expected something-something-v2-train.json and -validation.json"
        )
    check_unique((entry.video_id, entry.where) for entry in entries)
    return entries


def annotation_files(folder: Path) -> list[Path]:
    """Return the json files of a folder that `read_annotations` reads."""
    return [path for word in (*PART_OF_FILE, "labels") if (path := _find(folder, word)) is not None]


def _at(media: dict[str, tuple[Path, int]], entry: Entry) -> tuple[Path, str, int]:
    path, size = media[entry.video_id]
    return path, entry.class_name, size


def _parts_are_known(entries: list[Entry]) -> bool:
    """Whether no class is in both annotation files; so it is where there is one alone."""
    train, test = ({class_key(e.class_name) for e in entries if e.part == part} for part in ("train", "test"))
    return not train & test


def _find(folder: Path, word: str) -> Path | None:
    found = sorted(path for path in folder.glob("*.json") if path.stem == word or path.stem.endswith(f"-{word}"))
    if len(found) > 1:
        raise InputError(f"{folder} has two {word} files: {found[0].name} and {found[1].name}")
    return found[0] if found else None


def _read_labels(folder: Path) -> dict[str, str] | None:
    """Return class_key -> class, None where there is no labels file to check templates against."""
    path = _find(folder, "labels")
    if path is None:
        return None
    table = read_json(path)
    if not isinstance(table, dict) or not table:
        raise InputError(f"{path} must be a JSON object of template to class number")
    return {class_key(name): str(name) for name in table}


def _read_entries(path: Path, part: str, labels: dict[str, str] | None) -> list[Entry]:
    table = read_json(path)
    if not isinstance(table, list):
        raise InputError(f"{path} must be a JSON list of videos")
    entries = []
    for number, item in enumerate(table, start=1):
        where = f"{path}, entry {number}"
        if not isinstance(item, dict) or not item.get("id") or not item.get("template"):
            raise InputError(f"{where}: must be an object with 'id' and 'template'")
        video_id, template = str(item["id"]), str(item["template"])
        name = template.replace("[", "").replace("]", "")
        if labels is not None and class_key(name) not in labels:
            raise InputError(f"{where}: video id {video_id!r} has the unknown template {template!r}")
        entries.append(Entry(video_id, labels[class_key(name)] if labels is not None else name, part, where))
    return entries
