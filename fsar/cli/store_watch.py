"""`fsar-store watch`: how far a store has come, and who works on it."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, SECONDS, clear_screen, echo, json_option, page
from fsar.cli.store_address import LOCAL_STORE
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.store.watch import StoreProgress

SILENT_SECONDS = 90.0
"""A holder that has missed two heartbeats is pointed out."""
MAX_LISTED = 40


@click.command("watch")
@click.argument("path", type=LOCAL_STORE)
@click.option("--once", is_flag=True, help="One look; do not wait for the end.")
@click.option("--every-seconds", default=5.0, show_default=True, type=SECONDS, help="Time between two looks.")
@json_option
def watch_command(path: Path, once: bool, every_seconds: float, as_json: bool) -> int:
    """Show how far a store has come: chunks done, in whose hands, pending; rate, time left, failures so far.

    It reads the store's own files and works for whatever fills it, on this machine or others, also when nobody does.
    It ends when the store is sealed. With --json each look is one line.

    \b
    Examples:
      fsar-store watch ssv2.zarr
      fsar-store watch ssv2.zarr --once --json
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.store.watch import Watch

    watch = Watch(path)
    redraw = sys.stdout.isatty() and not as_json and not once
    while True:
        seen = watch.look()
        text = json.dumps(progress_data(seen), sort_keys=True) if as_json else progress_text(seen)
        if redraw:
            clear_screen()
        echo(text)
        sys.stdout.flush()
        if once or seen.sealed:
            return EXIT_DONE
        time.sleep(every_seconds)


def progress_data(seen: "StoreProgress") -> dict[str, Any]:
    """Return what a look found as JSON data."""
    return dataclasses.asdict(seen) | {"n_chunks_pending": seen.n_chunks_pending, "n_failed": len(seen.failures)}


def progress_text(seen: "StoreProgress") -> str:
    """Return what a look found for people."""
    chunks = f"{seen.n_chunks_done} of {count_of(seen.n_chunks, 'chunk')} done"
    lines = [
        f"{seen.path}: {seen.n_videos_done:,} of {count_of(seen.n_videos, 'video')}; {chunks}, "
        f"{len(seen.in_hand)} in hand, {seen.n_chunks_pending} pending; {_outlook(seen)}"
    ]
    lines += [_holder(each) for each in sorted(seen.in_hand, key=lambda each: each.chunk)[:MAX_LISTED]]
    if len(seen.in_hand) > MAX_LISTED:
        lines.append(f"  … {len(seen.in_hand) - MAX_LISTED} more in hand")
    if seen.failures:
        lines.append(f"  {count_of(len(seen.failures), 'video')} failed, the last ones:")
        lines += [f"    {each.video_id} ({each.reason}): {each.message}" for each in seen.failures[-5:]]
    return page(lines)


def _outlook(seen: "StoreProgress") -> str:
    if seen.sealed:
        return "sealed"
    if not seen.n_videos_left:
        return "complete, not sealed yet"
    if not any(not each.dead for each in seen.in_hand):
        return "nobody is at work"
    if seen.videos_per_second is None or seen.seconds_left is None:
        return "time left not known yet"
    return f"{seen.videos_per_second:.1f} videos/s, {duration(seen.seconds_left)} left"


def _holder(each: Any) -> str:
    worker = f" {each.worker}" if each.worker else ""
    state = ""
    if each.dead:
        state = ", which has ended: the next one to look takes it"
    elif each.silent_seconds > SILENT_SECONDS:
        state = f", silent for {duration(each.silent_seconds)}"
    return f"  chunk {each.chunk}:{worker} on {each.host}, process {each.pid}, {duration(each.held_seconds)}{state}"


def duration(seconds: float) -> str:
    """Return a time in words: "42 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
