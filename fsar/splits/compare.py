"""What two splits share."""

from dataclasses import dataclass
from typing import Any

from fsar.splits.names import PARTS, class_key, loose_video_id
from fsar.splits.split import Split


@dataclass(frozen=True)
class Comparison:
    """Shared classes and videos of every pair of parts."""

    first: Split
    second: Split
    classes: dict[tuple[str, str], list[str]]
    """(part of first, part of second) -> shared classes, as the first writes them."""
    videos: dict[tuple[str, str], int]
    """(part of first, part of second) -> number of shared listed videos."""

    @property
    def leaks(self) -> list[tuple[str, str]]:
        """Pairs of different parts that share classes or videos: what one trains on the other may test on."""
        return [pair for pair in self.classes if pair[0] != pair[1] and (self.classes[pair] or self.videos[pair])]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "first": self.first.name,
            "second": self.second.name,
            "equal": self.first.sha256 == self.second.sha256,
            "shared_classes": {f"{a}/{b}": names for (a, b), names in self.classes.items()},
            "shared_videos": {f"{a}/{b}": n for (a, b), n in self.videos.items()},
        }

    def to_text(self) -> str:
        """Return a table of counts, rows the first split's parts, columns the second's."""
        if self.first.sha256 == self.second.sha256:
            return f"{self.first.name} and {self.second.name} are equal"
        lines = [f"shared classes (videos); rows {self.first.name}, columns {self.second.name}"]
        lines.append(" " * 6 + "".join(f"{part:>16}" for part in PARTS))
        for a in PARTS:
            cells = (f"{len(self.classes[a, b])} ({self.videos[a, b]})" for b in PARTS)
            lines.append(f"{a:<6}" + "".join(f"{cell:>16}" for cell in cells))
        lines += [self._leak_line(*pair) for pair in self.leaks]
        return "\n".join(lines)

    def _leak_line(self, a: str, b: str) -> str:
        names = self.classes[a, b]
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        what = f"{len(names)} classes ({shown})" if names else f"{self.videos[a, b]} videos"
        return f"{what}: {a} in {self.first.name}, {b} in {self.second.name}"


def compare_splits(first: Split, second: Split) -> Comparison:
    """Compare two splits part by part. Videos are counted where both list them; whole classes have no list."""
    classes, videos = {}, {}
    for a in PARTS:
        for b in PARTS:
            known = {class_key(name) for name in second.parts[b]}
            classes[a, b] = [name for name in first.parts[a] if class_key(name) in known]
            videos[a, b] = len(_loose_ids(first, a) & _loose_ids(second, b))
    return Comparison(first, second, classes, videos)


def _loose_ids(split: Split, part: str) -> set[str]:
    return {loose_video_id(video_id) for ids in split.parts[part].values() for video_id in ids or ()}
