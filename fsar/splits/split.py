"""The split itself: an immutable table that has checked itself."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fsar.errors import InputError, count_of
from fsar.splits.names import PARTS, class_key

Parts = Mapping[str, Mapping[str, list[str] | None]]


@dataclass(frozen=True)
class Split:
    """Classes per part, and their videos. Making one checks that the parts share neither a class nor a video."""

    name: str
    parts: Parts
    """part (train, val, test) -> class -> video ids, or None for every video of the class.

    The place of a class in its part is its class id; the shipped tables keep the order of published checkpoints.
    """
    aliases: tuple[str, ...] = ()
    title: str = ""
    paper: str = ""
    link: str = ""
    class_order: str = ""
    """What the order of the classes follows."""
    expected_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """part -> class -> number of videos; for a class that is given whole, known in shipped tables only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", {part: dict(self.parts.get(part, {})) for part in PARTS})
        self._check_classes()
        self._check_videos()
        counts = {part: dict(self.expected_counts.get(part, {})) for part in PARTS}
        for part, name, ids in self.classes():
            if ids is not None:
                stated = counts[part].setdefault(name, len(ids))
                if stated != len(ids):
                    raise InputError(f"split {self.name!r}, {part} class {name!r}: {len(ids)} videos, must be {stated}")
        object.__setattr__(self, "expected_counts", counts)

    def __repr__(self) -> str:
        """Return the name and the size: a table of 70,000 ids helps nobody at a prompt."""
        sizes = []
        for part, classes in self.parts.items():
            n_videos = f" ({self.n_videos(part):,} videos)" if self.n_videos(part) else ""
            sizes += [f"{part} {count_of(len(classes), 'class')}{n_videos}"] if classes else []
        return f"Split({self.name!r}: {', '.join(sizes)})"

    def classes(self) -> Iterator[tuple[str, str, list[str] | None]]:
        """Yield (part, class, video ids or None) in the order of parts and class ids."""
        for part in PARTS:
            for name, ids in self.parts[part].items():
                yield part, name, ids

    def find_class(self, class_name: str) -> tuple[str, str] | None:
        """Return (part, class as written here) for any spelling of a class, None for a class of no part."""
        return self._place_by_key.get(class_key(class_name))

    def part_of(self, class_name: str) -> str | None:
        """Return the part that holds a class, in any spelling, or None."""
        found = self.find_class(class_name)
        return found[0] if found else None

    def n_videos(self, part: str) -> int:
        """Return how many videos a part should have, as far as that is known."""
        return sum(self.expected_counts[part].values())

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the split written as CSV: equal for equal tables, and of the file that `import` writes."""
        return hashlib.sha256(self.to_csv().encode()).hexdigest()

    def to_csv(self) -> str:
        """Return the split as CSV text: part, class, video_id, with `*` for every video of the class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("part", "class", "video_id"))
        for part, name, ids in self.classes():
            writer.writerows((part, name, video_id) for video_id in (["*"] if ids is None else ids))
        return text.getvalue()

    @cached_property
    def _place_by_key(self) -> dict[str, tuple[str, str]]:
        return {class_key(name): (part, name) for part, name, _ in self.classes()}

    def _check_classes(self) -> None:
        seen: dict[str, tuple[str, str]] = {}
        for part, name, _ in self.classes():
            other_part, other_name = seen.setdefault(class_key(name), (part, name))
            if (other_part, other_name) != (part, name):
                raise InputError(
                    f"split {self.name!r}: class {name!r} of {part} is {other_name!r} of {other_part} again"
                    " (case, blanks and punctuation do not tell classes apart)"
                )
        if not seen:
            raise InputError(f"split {self.name!r} has no classes")

    def _check_videos(self) -> None:
        seen: dict[str, tuple[str, str]] = {}
        for part, name, ids in self.classes():
            for video_id in ids or ():
                if video_id in seen:
                    other_part, other_name = seen[video_id]
                    raise InputError(
                        f"split {self.name!r}: video {video_id!r} is listed twice,"
                        f" in {other_part} class {other_name!r} and in {part} class {name!r}"
                    )
                seen[video_id] = (part, name)
            if ids is not None and not ids:
                raise InputError(f"split {self.name!r}: {part} class {name!r} has no videos")
