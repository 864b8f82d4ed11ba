"""The shipped benchmark tables.

A table is a text file: `key: value` lines, then per part a `[part]` line and one line per class with three columns
separated by tabs: class, number of videos, video ids. The ids are written in one of four compact ways:

    all       `*`: every video of the class
    steps     ascending numbers, each as its difference from the one before: `197 202 600` for 197, 399, 999
    groups    a prefix, then groups with the number of their clips: `v_Archery 8:2 9:1` for v_Archery_g08_c01,
              v_Archery_g08_c02 and v_Archery_g09_c01
    youtube   `ID@12` for the ten seconds from second 12, that is `ID_000012_000022`; `ID` where no time is known
"""

import re
from collections.abc import Callable
from importlib import resources
from itertools import accumulate
from pathlib import Path

from fsar.errors import unknown_name
from fsar.splits.custom import read_split_csv
from fsar.splits.names import PARTS
from fsar.splits.split import Split

CLIP_SECONDS = 10
# The lists of TSL (Xian et al., 2020), which temporal_matching uses, hold the same videos as two older splits.
ALIASES = {
    "ssv2-full": "ssv2-otam",
    "ssv2-100-otam": "ssv2-otam",
    "ssv2-small": "ssv2-cmn",
    "ssv2-100": "ssv2-cmn",
    "ssv2-tsl": "ssv2-otam",
    "kinetics-tsl": "kinetics100-cmn",
    "kinetics100-tsl": "kinetics100-cmn",
}


def list_splits() -> list[str]:
    """Return the names of the shipped splits."""
    return sorted(path.name.removesuffix(".txt") for path in _folder().iterdir() if path.name.endswith(".txt"))


def load_split(name_or_path: str | Path) -> Split:
    """Return a shipped split by name or alias, or a user's split from a CSV file (columns part, class, video_id).

    Raises InputError for an unknown name, with the nearest ones, and for a file that breaks a rule, with the line.
    """
    name = str(name_or_path)
    known = ALIASES.get(name.lower(), name.lower())
    if known in list_splits():
        return _read_table(known)
    path = Path(name_or_path)
    if path.is_file():
        return read_split_csv(path)
    if path.suffix.lower() == ".csv" or len(path.parts) > 1:
        raise FileNotFoundError(f"no split file {path}")
    raise unknown_name("split", name, [*list_splits(), *ALIASES])


def _folder() -> resources.abc.Traversable:
    return resources.files("fsar.splits") / "data"


def _read_table(name: str) -> Split:
    head, *sections = re.split(r"^\[(\w+)\]\n", (_folder() / f"{name}.txt").read_text("utf-8"), flags=re.MULTILINE)
    facts = dict(line.split(": ", 1) for line in head.splitlines())
    decode = _DECODERS[facts["ids"]]
    texts = dict(zip(sections[::2], sections[1::2], strict=True))
    lines = {part: [line.split("\t") for line in texts[part].splitlines()] for part in PARTS}
    split = Split(
        name=name,
        parts={part: {class_name: decode(ids) for class_name, _, ids in lines[part]} for part in PARTS},
        aliases=tuple(alias for alias, target in ALIASES.items() if target == name),
        title=facts["title"],
        paper=facts["paper"],
        link=facts["link"],
        class_order=facts["class order"],
        expected_counts={part: {class_name: int(count) for class_name, count, _ in lines[part]} for part in PARTS},
    )
    assert split.sha256 == facts["sha256"], f"the shipped table {name} is damaged: reinstall fsar"
    return split


def _decode_steps(text: str) -> list[str]:
    return [str(number) for number in accumulate(map(int, text.split(" ")))]


def _decode_youtube(text: str) -> list[str]:
    ids = []
    for entry in text.split(" "):
        video, at, start = entry.partition("@")
        ids.append(f"{video}_{int(start):06}_{int(start) + CLIP_SECONDS:06}" if at else video)
    return ids


def _decode_groups(text: str) -> list[str]:
    prefix, *groups = text.split(" ")
    sizes = [tuple(map(int, group.split(":"))) for group in groups]
    return [f"{prefix}_g{group:02}_c{clip:02}" for group, n_clips in sizes for clip in range(1, n_clips + 1)]


_DECODERS: dict[str, Callable[[str], list[str] | None]] = {
    "all": lambda text: None,
    "steps": _decode_steps,
    "groups": _decode_groups,
    "youtube": _decode_youtube,
}
