"""From a dataset on disk to a catalog and a report of what is missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fsar.errors import InputError, count_of
from fsar.pipeline.catalog.catalog import NO_PART, Catalog, CatalogRow
from fsar.pipeline.catalog.duplicates import describe_duplicates, find_duplicates
from fsar.pipeline.catalog.media import Scan
from fsar.pipeline.catalog.scan import scan_dataset
from fsar.splits import Matching, Split, match_videos

MAX_LINES = 5
"""Classes named per part in the printed report; the JSON report has them all."""


@dataclass(frozen=True)
class EpisodeSize:
    """The episodes that a split should be able to fill."""

    n_way: int = 5
    n_shot: int = 5
    n_query: int = 1
    """Queries per class."""

    @property
    def n_per_class(self) -> int:
        """Distinct videos of a class that an episode needs."""
        return self.n_shot + self.n_query


@dataclass(frozen=True)
class PartReport:
    """One part of a split against the videos at hand."""

    part: str
    n_classes: int
    n_found: int
    n_expected: int | None
    """None where the split has whole classes of unknown size."""
    missing: dict[str, int]
    """class -> how many of its videos are not at hand."""
    missing_ids: dict[str, list[str]]
    """The same by id, for classes whose videos the split lists."""
    too_few: dict[str, int]
    """class -> videos at hand that are not empty, where they no longer fill an episode."""
    fills_episodes: bool


@dataclass(frozen=True)
class IndexReport:
    """What `fsar-prep index` found."""

    dataset: str
    n_videos: int
    n_classes: int
    n_bytes: int
    n_per_part: dict[str, int]
    empty: list[str]
    """Ids of zero-byte files and dead links. They stay in the catalog; decoding them will fail and be listed."""
    missing: dict[str, list[str]]
    """class -> ids that the annotations list and the disk lacks."""
    notes: list[str]
    episode: EpisodeSize
    splits: dict[str, list[PartReport]]
    duplicates: list[list[str]] = field(default_factory=list)
    """Groups of ids whose videos hold the same bytes."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        from dataclasses import asdict

        return asdict(self)

    def to_text(self) -> str:
        """Return the report for people."""
        parts = ", ".join(f"{part or 'no part'} {n}" for part, n in self.n_per_part.items())
        lines = [
            f"{self.dataset}: {count_of(self.n_videos, 'video')} of {count_of(self.n_classes, 'class')}, "
            f"{_size(self.n_bytes)} ({parts})"
        ]
        lines += [f"note: {note}" for note in self.notes]
        if self.empty:
            found = count_of(len(self.empty), "empty file or dead link", "empty files or dead links")
            lines.append(f"warning: {found}, kept as failures to come: {_some(self.empty)}")
        if self.duplicates:
            lines.append(f"warning: {describe_duplicates(self.duplicates)}")
        if self.missing:
            counts = {name: len(ids) for name, ids in self.missing.items()}
            missing = sum(counts.values())
            lines.append(
                f"warning: {count_of(missing, 'listed video')} {'is' if missing == 1 else 'are'} missing on disk"
            )
            lines += [] if self.splits else _class_lines(counts, "missing")
        for name, part_reports in self.splits.items():
            for report in part_reports:
                lines += _part_lines(name, report, self.episode)
        return "\n".join(lines)


def index_dataset(
    dataset: str,
    *,
    videos: Path | None = None,
    annotations: Path | None = None,
    splits: Sequence[Split] = (),
    only_splits: bool = False,
    episode: EpisodeSize | None = None,
    compare_content: bool = True,
) -> tuple[Catalog, IndexReport]:
    """Return the catalog of a dataset and what it lacks.

    The part column: with one split, its parts (empty for videos it does not use); with several, empty, since one video
    may train in one split and test in another (later stages take --split); with none, what the dataset itself says.

    Args:
        dataset: ssv2, hmdb51, ucf101, kinetics, folder or csv.
        videos: folder of the videos.
        annotations: folder of the SSv2 json files, or the CSV.
        splits: splits to report on.
        only_splits: leave out videos that none of the splits uses.
        episode: what counts as a class with enough videos.
        compare_content: look for videos that hold the same bytes; reads the ends of those whose sizes are equal.

    Raises:
        InputError: what `scan_dataset` refuses, splits of one name, no video of the dataset is in the splits.
    """
    _check_split_names(splits)
    scan = scan_dataset(dataset, videos, annotations)
    if dataset == "ssv2" and not splits and not any(row.part for row in scan.rows):
        raise InputError(
            "the train and validation annotations share classes, so they are not base and novel classes:"
            " add --split (ssv2-otam, ssv2-cmn or your own CSV)"
        )
    matchings = {split.name: match_videos(split, [(r.video_id, r.class_name) for r in scan.rows]) for split in splits}
    rows = _with_parts(scan.rows, list(matchings.values()))
    if only_splits:
        used = [any(matching.places[k] for matching in matchings.values()) for k in range(len(rows))]
        rows = [row for row, is_used in zip(rows, used, strict=True) if is_used]
    if not rows:
        raise InputError("none of the videos is in the chosen splits: is it the same dataset?")
    size = episode or EpisodeSize()
    reports = {split.name: report_split(split, matchings[split.name], scan.rows, size) for split in splits}
    report = _report(dataset, rows, scan, size, reports)
    return Catalog(tuple(rows), dataset), replace(report, duplicates=find_duplicates(rows) if compare_content else [])


def report_split(
    split: Split, matching: Matching, rows: Sequence[CatalogRow], episode: EpisodeSize
) -> list[PartReport]:
    """Return one report for each part of `split` that has classes."""
    usable: Counter[tuple[str, str]] = Counter(
        (place.part, place.class_name)
        for row, place in zip(rows, matching.places, strict=True)
        if place is not None and row.bytes > 0
    )
    reports = []
    for part, classes in split.parts.items():
        if not classes:
            continue
        expected, found = split.expected_counts[part], matching.found[part]
        short = {name: expected[name] - found[name] for name in classes if found[name] < expected.get(name, 0)}
        too_few = {name: usable[part, name] for name in classes if usable[part, name] < episode.n_per_class}
        reports.append(
            PartReport(
                part=part,
                n_classes=len(classes),
                n_found=sum(found.values()),
                n_expected=sum(expected.values()) if len(expected) == len(classes) else None,
                missing=short,
                missing_ids=matching.missing.get(part, {}),
                too_few=too_few,
                fills_episodes=len(classes) - len(too_few) >= episode.n_way,
            )
        )
    return reports


def _check_split_names(splits: Sequence[Split]) -> None:
    """Raise InputError for two splits of one name: the report tells them apart by it."""
    for name, count in Counter(split.name for split in splits).items():
        if count > 1:
            raise InputError(f"{count} splits are named {name!r}: give each once, and CSV files different names")


def _with_parts(rows: list[CatalogRow], matchings: list[Matching]) -> list[CatalogRow]:
    if not matchings:
        return rows
    if len(matchings) > 1:
        return [replace(row, part=NO_PART) for row in rows]
    places = matchings[0].places
    return [replace(row, part=place.part if place else NO_PART) for row, place in zip(rows, places, strict=True)]


def _report(
    dataset: str, rows: list[CatalogRow], scan: Scan, episode: EpisodeSize, splits: dict[str, list[PartReport]]
) -> IndexReport:
    missing: dict[str, list[str]] = {}
    for video_id, name in scan.missing:
        missing.setdefault(name, []).append(video_id)
    return IndexReport(
        dataset=dataset,
        n_videos=len(rows),
        n_classes=len({row.class_name for row in rows}),
        n_bytes=sum(row.bytes for row in rows),
        n_per_part=dict(sorted(Counter(row.part for row in rows).items(), reverse=True)),
        empty=[row.video_id for row in rows if row.bytes == 0],
        missing=missing,
        notes=scan.notes,
        episode=episode,
        splits=splits,
    )


def _part_lines(split: str, report: PartReport, episode: EpisodeSize) -> list[str]:
    total = "" if report.n_expected is None else f" of {report.n_expected}"
    lines = [f"{split} {report.part}: {report.n_found}{total} videos of {count_of(report.n_classes, 'class')} on disk"]
    if report.n_found and report.too_few:
        need = f"{episode.n_shot} supports + {episode.n_query} queries"
        lines.append(f"  too few videos for an episode ({need}): {count_of(len(report.too_few), 'class')}")
        lines += _class_lines(report.too_few, "at hand")
    incomplete = {name: n for name, n in report.missing.items() if name not in report.too_few}
    if report.n_found and incomplete:
        lines.append(f"  incomplete: {count_of(len(incomplete), 'class')}")
        lines += _class_lines(incomplete, "missing")
    if not report.fills_episodes:
        lines.append(f"  warning: too few classes are left for {episode.n_way}-way episodes")
    return lines


def _class_lines(counts: dict[str, int], word: str) -> list[str]:
    worst = sorted(counts.items(), key=lambda item: item[1], reverse=word == "missing")
    lines = [f"  {n:>7} {word}: {name}" for name, n in worst[:MAX_LINES]]
    more = len(counts) - MAX_LINES
    return [*lines, f"          and {count_of(more, 'class')} more (--report FILE has them all)"] if more > 0 else lines


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
