"""What `fsar-prep encode --estimate` prints."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fsar.cli.store_watch import duration
from fsar.errors import count_of

if TYPE_CHECKING:
    from fsar.pipeline.encode.estimate import Estimate


def worker_counts(n_workers: int) -> list[int]:
    """Return the numbers of workers to list: doubling, up to the wanted one (16 where none is named)."""
    most = n_workers if n_workers > 1 else 16
    return sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})


def estimate_data(found: "Estimate", n_workers: int) -> dict[str, Any]:
    """Return an estimate as JSON data."""
    return asdict(found) | {
        "bytes": found.n_videos * sum(found.tap_bytes.values()),
        "seconds_per_video": found.seconds_per_video,
        "decode_processes_per_device": found.n_decoders,
        "hours": {str(count): found.hours(count) for count in worker_counts(n_workers)},
    }


def estimate_text(found: "Estimate", n_workers: int) -> str:
    """Return an estimate as tables."""
    decode, forward = 1e3 * found.decode_seconds, 1e3 * found.forward_seconds
    lines = [
        f"{count_of(found.n_videos, 'video')}; {count_of(found.n_measured, 'video')} measured on this machine: "
        f"decoding {decode:.1f} ms of one core, backbone {forward:.1f} ms on {found.device}",
        "",
        f"{'tap':<16}{'a video':>12}{'all':>12}",
    ]
    lines += [
        f"{tap:<16}{_size(n_bytes):>12}{_size(n_bytes * found.n_videos):>12}"
        for tap, n_bytes in found.tap_bytes.items()
    ]
    lines += ["", f"{'workers':<16}{'time':>12}"]
    lines += [f"{count:<16}{duration(3600 * found.hours(count)):>12}" for count in worker_counts(n_workers)]
    cores = count_of(found.n_cores, "core")
    if found.device == "cpu":
        lines += ["", f"A worker has {cores} like this one's, for decoding and for the backbone."]
    else:
        wanted = count_of(found.n_decoders, "decode process", "decode processes")
        lines += ["", f"A worker has one such device and {cores}; {wanted} (--jobs) keep the device busy."]
    return "\n".join(lines)


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} TB"
