"""What `fsar-store` prints for people."""

from typing import TYPE_CHECKING, Any

from fsar.cli.common import page
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.store.verify import Verification

N_LISTED = 20
"""Longer lists are cut; `--json` has them whole."""

LISTS_OF_VIDEOS = {
    "only_in_a": "only in A",
    "only_in_b": "only in B",
    "other_class_or_part": "other class or split part",
    "other_status": "other status",
    "other_source": "other video file",
    "other_frames": "other frames",
}


def info_text(data: dict[str, Any]) -> str:
    """Return the page that `fsar-store info` prints."""
    from fsar.pipeline.catalog.duplicates import describe_duplicates

    state = "sealed" if data["sealed"] else "NOT SEALED"
    lines = [
        f"{data['path']}: {data['format']} store, {state}, {size_text(data['bytes_on_disk'])}",
        f"  {count_of(data['videos'], 'video')} of {count_of(data['classes'], 'class')}, "
        f"{count_of(data['views'], 'view')}, {count_of(data['slots'], 'slot')}, "
        f"{data['chunks']} chunks of {data['chunk_rows']} videos",
        f"  recipe {data['recipe_id']}",
        *([f"  frames: {data['frames']}"] if data.get("frames") else []),
        *(f"    {name} = {value}" for name, value in sorted(data["recipe"].items())),
    ]
    for name, tap in data["taps"].items():
        lines.append(f"  tap {name}: {tap['shape']} {tap['dtype']}, {size_text(tap['bytes'])}")
    lines += [f"  text {name}: {shape}" for name, shape in data["text_tables"].items()]
    for part, counts in data["parts"].items():
        counted = ", ".join(f"{counts[state]} {state}" for state in ("ok", "failed", "pending"))
        lines.append(f"  {part or '(no part)'}: {count_of(counts['videos'], 'video')}: {counted}")
    lines += [f"  failed, {reason}: {count}" for reason, count in data["failures"].items()]
    lines += [f"  warning: {describe_duplicates(data['duplicates'])}"] if data["duplicates"] else []
    return page(lines)


def verify_text(path: object, result: "Verification") -> str:
    """Return the page that `fsar-store verify` prints."""
    checked = f"{count_of(result.n_files, 'file')}, {size_text(result.n_bytes)}"
    lines = [f"{path}: {checked}: " + (f"{count_of(len(result.problems), 'problem')}" if result.problems else "intact")]
    lines += [f"  note: {note}" for note in result.notes]
    for problem in result.problems[:N_LISTED]:
        hit = f" ({count_of(len(problem.videos), 'video')})" if problem.videos else ""
        lines.append(f"  {problem.file}: {problem.what}{hit}")
    if len(result.problems) > N_LISTED:
        lines.append(f"  … and {len(result.problems) - N_LISTED} more")
    if result.videos_hit:
        lines.append(f"  videos hit: {_listed(result.videos_hit)}")
    return page(lines)


def compare_text(data: dict[str, Any]) -> str:
    """Return the page that `fsar-store compare` prints."""
    lines = ["equal" if data["equal"] else "different"]
    lines += [f"  recipe {line}" for line in data["recipe"]]
    lines += [f"  layout {line}" for line in data["layout"]]
    for key, label in LISTS_OF_VIDEOS.items():
        if data[key]:
            lines.append(f"  {label}: {count_of(len(data[key]), 'video')}: {_listed(data[key])}")
    for name, tap in data["taps"].items():
        where = f" in {tap['video']}" if tap["video"] else ""
        lines.append(
            f"  tap {name}: largest difference {tap['max_abs_difference']:.6g}{where} "
            f"over {count_of(data['compared_videos'], 'video')}"
        )
    return page(lines)


def size_text(n_bytes: int) -> str:
    """Return a size for people: 1.5 GB."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _listed(names: list[str]) -> str:
    cut = f" … and {len(names) - N_LISTED} more" if len(names) > N_LISTED else ""
    return ", ".join(names[:N_LISTED]) + cut
