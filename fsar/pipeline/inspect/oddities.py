"""What is odd among the videos of a catalog, worst first."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fsar.pipeline.inspect.facts import VideoFacts
from fsar.splits import class_key

MIN_CLASS_LETTERS = 4
"""Shorter names of classes occur inside other words."""


@dataclass(frozen=True)
class Oddity:
    """One kind of odd videos."""

    kind: str
    advice: str
    """What it leads to, or what to do."""
    examples: list[str]
    """One entry for each video, or for each group of equal ones."""


def find_oddities(facts: Sequence[VideoFacts], *, min_frames: int) -> list[Oddity]:
    """Return every kind of which there is at least one video."""
    groups, rare = _equal(facts), _rare([f.levels for f in facts])
    kinds = [
        Oddity(
            "same content in several parts",
            "the test is not held out: remove one",
            [_group(group) for group in groups if len({f.part for f in group if f.part}) > 1],
        ),
        Oddity(
            "same content in several classes",
            "one of the labels is wrong",
            [_group(group) for group in groups if len({class_key(f.class_name) for f in group}) > 1],
        ),
        Oddity("name of another class", "the folder may be wrong", list(_misnamed(facts))),
        Oddity(
            "same content in one class",
            "counts twice",
            [_group(group) for group in groups if len({(f.part, class_key(f.class_name)) for f in group}) == 1],
        ),
        Oddity(
            f"fewer than {min_frames} frames",
            "samplers repeat frames, or refuse the video",
            [f"{f.video_id} ({f.frames})" for f in facts if f.frames < min_frames],
        ),
        Oddity(
            "smaller than 32 pixels",
            "is enlarged",
            [f"{f.video_id} ({f.width}x{f.height})" for f in facts if min(f.width, f.height) < 32],
        ),
        Oddity("mirrored", "read as players show it", [f.video_id for f in facts if f.orientation == "mirrored"]),
        Oddity(
            "turned",
            "read as players show it",
            [f"{f.video_id} ({f.orientation})" for f in facts if f.orientation.startswith("turned")],
        ),
        Oddity(
            "other range of brightness than most",
            "read as it is marked",
            [f"{f.video_id} ({f.levels})" for f in facts if f.levels in rare],
        ),
        Oddity(
            "frames without a time",
            "their times are filled in",
            [f.video_id for f in facts if f.n_missing_times and f.container != "frames"],
        ),
        Oddity(
            "much longer or shorter than most",
            "look at them",
            [f"{f.video_id} ({f.seconds:.1f} s)" for f in _outliers(facts)],
        ),
    ]
    return [oddity for oddity in kinds if oddity.examples]


def _equal(facts: Sequence[VideoFacts]) -> list[list[VideoFacts]]:
    """Return the groups of videos with one content."""
    found: dict[str, list[VideoFacts]] = defaultdict(list)
    for fact in facts:
        found[fact.content].append(fact)
    return [group for group in found.values() if len(group) > 1]


def _group(group: Sequence[VideoFacts]) -> str:
    return " = ".join(f"{f.video_id} ({', '.join(filter(None, (f.part, f.class_name)))})" for f in group)


def _misnamed(facts: Sequence[VideoFacts]) -> Iterator[str]:
    """Yield videos whose name holds another class than their own, where most names of the catalog hold their own."""
    keys = {class_key(f.class_name): f.class_name for f in facts}
    names = [class_key(f.video_id.rpartition("/")[2]) for f in facts]
    n_own = sum(class_key(f.class_name) in name for f, name in zip(facts, names, strict=True))
    if 2 * n_own < len(facts):
        return
    for fact, name in zip(facts, names, strict=True):
        if class_key(fact.class_name) in name:
            continue
        others = [written for key, written in keys.items() if len(key) >= MIN_CLASS_LETTERS and key in name]
        if others:
            yield f"{fact.video_id} (in {fact.class_name}, named {max(others, key=len)})"


def _rare(values: Sequence[str]) -> set[str]:
    """Return the values that fewer than one in twenty have, if more than half have one and the same."""
    counts = Counter(values)
    if not counts or counts.most_common(1)[0][1] <= len(values) / 2:
        return set()
    return {value for value, n in counts.items() if n < max(len(values) / 20, 2) and n < max(counts.values())}


def _outliers(facts: Sequence[VideoFacts]) -> list[VideoFacts]:
    """Return videos ten times longer or shorter than the median one."""
    lengths = sorted(f.seconds for f in facts if f.seconds)
    if not lengths:
        return []
    median = lengths[len(lengths) // 2]
    return [f for f in facts if f.seconds and not median / 10 <= f.seconds <= 10 * median]
