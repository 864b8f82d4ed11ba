"""What is in a store, on one page: counts, sizes, failures, and stored frames of every class."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store import STATUS_OK
from fsar.pipeline.store.describe import describe_store
from fsar.progress import progress
from fsar.report.frames import FrameFetcher
from fsar.report.page import Page, number

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

MAX_FAILURES = 200
"""Failures listed one by one."""


@dataclass(frozen=True)
class SheetOptions:
    """How much a contact sheet shows."""

    n_videos: int = 4
    """Videos of each class."""
    n_classes: int = 120
    """Classes at most, in the order of the store."""


def make_store_page(store: "FeatureStore", options: SheetOptions, *, quiet: bool = False) -> Page:
    """Return the page of a store."""
    facts = describe_store(store)
    sealed = "sealed" if facts["sealed"] else "not sealed"
    page = Page("Feature store", f"{facts['path']}: {facts['videos']} videos of {facts['classes']} classes, {sealed}")
    page.section("content", "What is in it")
    page.table("taps", ["tap", "shape", "type", "bytes"], [
        [name, " x ".join(map(str, tap["shape"])), tap["dtype"], number(tap["bytes"])]
        for name, tap in facts["taps"].items()
    ])  # fmt: skip
    page.table("parts", ["part", "videos", "ok", "failed", "pending"], [
        [name or "(none)", *(number(counts[key]) for key in ("videos", "ok", "failed", "pending"))]
        for name, counts in facts["parts"].items()
    ])  # fmt: skip
    page.note(f"{facts['bytes_on_disk']:,} bytes on disk, recipe {facts['recipe_id']}")
    page.table("recipe", ["field", "value"], [[name, str(value)] for name, value in sorted(facts["recipe"].items())])
    if facts["text_tables"]:
        page.table("text", ["text table", "shape"], [[name, str(s)] for name, s in facts["text_tables"].items()])
    _failures(page, store)
    _sheet(page, store, options, quiet=quiet)
    return page


def _failures(page: Page, store: "FeatureStore") -> None:
    page.section("failures", "Failures", "Videos that could not be encoded: their rows hold no features.")
    found = store.failures()
    if not found:
        page.note("None.")
        return
    rows = [[store.videos[row].video_id, store.videos[row].class_name, reason, why] for row, reason, why in found]
    page.table("failures", ["video", "class", "reason", "what was found"], rows[:MAX_FAILURES])
    if len(rows) > MAX_FAILURES:
        page.note(f"and {len(rows) - MAX_FAILURES} more: fsar-store info --json lists them all")


def _sheet(page: Page, store: "FeatureStore", options: SheetOptions, *, quiet: bool) -> None:
    page.section(
        "frames", "Contact sheet", "Stored frames of the first videos of each class, fetched again from the videos."
    )
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(np.asarray(store.status) == STATUS_OK).tolist():
        rows_of.setdefault(store.videos[row].class_name, []).append(row)
    slots = sorted({0, store.n_slots // 2, store.n_slots - 1})
    fetcher = FrameFetcher(store, slots)
    shown = list(rows_of.items())[: options.n_classes]
    with progress("frames", len(shown), unit="classes", quiet=quiet) as advance:
        for name, rows in shown:
            page.heading(f"{name} ({len(rows)} videos)")
            page.html(f'<div class="sheet">{"".join(_video(fetcher, row) for row in rows[: options.n_videos])}</div>')
            advance(1)
    if len(rows_of) > len(shown):
        page.note(f"{len(rows_of) - len(shown)} more classes are not shown")


def _video(fetcher: FrameFetcher, row: int) -> str:
    strip = fetcher.strip(row)
    if strip.note:
        return f'<p class="note">{escape(strip.video_id)}: {escape(strip.note)}</p>'
    return "".join(
        f'<img src="{picture}" alt="{escape(strip.video_id)} at {seconds:.1f} s" title="{escape(strip.video_id)}">'
        for picture, seconds in zip(strip.pictures, strip.times_seconds, strict=True)
    )


def check_out(out: Path) -> Path:
    """Return the path of a page; raises InputError for a folder."""
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file")
    return out
