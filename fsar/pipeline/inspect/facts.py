"""The facts of one video: read from its packets and its first frame, nothing else is decoded."""

import hashlib
from dataclasses import dataclass
from typing import Any

from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.frame_folder import list_frames
from fsar.pipeline.video.grey import FULL_RANGE, LIMITED_RANGE
from fsar.pipeline.video.orientation import Orientation, orientation_of_frame
from fsar.pipeline.video.picture import read_picture
from fsar.pipeline.video.probe import Packets, open_video, read_packets
from fsar.pipeline.video.pyav import decoded_frames
from fsar.pipeline.video.source import source_sha256

_TURNS = {
    Orientation(): "upright",
    Orientation(transpose=True, flip_columns=True): "turned 90",
    Orientation(flip_rows=True, flip_columns=True): "turned 180",
    Orientation(transpose=True, flip_rows=True): "turned 270",
}


@dataclass(frozen=True)
class VideoFacts:
    """What one video is."""

    video_id: str
    class_name: str
    part: str
    container: str
    """FFmpeg's name of the container, or `frames` for a folder of pictures."""
    codec: str
    frames: int
    seconds: float
    """From the first to the end of the last frame; 0 where nothing tells it."""
    width: int
    height: int
    """As stored, before turning."""
    orientation: str
    """upright, turned 90, 180 or 270, or mirrored."""
    levels: str
    """Range of brightness: full, limited or empty where it is not said."""
    n_missing_times: int
    """Frames for which the container gives no time."""
    content: str
    """Hash of the coded frames: the same for one video in two containers."""


def read_facts(row: CatalogRow) -> VideoFacts:
    """Return the facts of one video; raises `VideoError` for one that cannot be used."""
    found = _of_folder(row) if row.path.is_dir() else _of_file(row)
    return VideoFacts(video_id=row.video_id, class_name=row.class_name, part=row.part, **found)


def _of_folder(row: CatalogRow) -> dict[str, Any]:
    files = list_frames(row.path)
    height, width = read_picture(files[0]).shape[:2]
    return {
        "container": "frames",
        "codec": files[0].suffix.lower().removeprefix("."),
        "frames": len(files),
        "seconds": 0.0,
        "width": width,
        "height": height,
        "orientation": "upright",
        "levels": "full",
        "n_missing_times": len(files),
        "content": source_sha256(row.path),
    }


def _of_file(row: CatalogRow) -> dict[str, Any]:
    with open_video(row.path) as (container, stream):
        packets = read_packets(container, stream, row.path)
        first = next(decoded_frames(stream, packets, row.path), None)
        if first is None:
            raise VideoError("no-frames", f"{row.path} has a video stream without frames")
        coded = [packet for packet in packets.shown if packet.size and not packet.is_discard]
        return {
            "container": container.format.name.partition(",")[0],
            "codec": stream.codec_context.name,
            "frames": len(coded),
            "seconds": round(_seconds(packets, coded), 3),
            "width": first.width,
            "height": first.height,
            "orientation": _TURNS.get(orientation_of_frame(first), "mirrored"),
            "levels": {FULL_RANGE: "full", LIMITED_RANGE: "limited"}.get(int(first.color_range), ""),
            "n_missing_times": sum(packet.pts is None for packet in coded),
            "content": _content(coded),
        }


def _seconds(packets: Packets, coded: list[Any]) -> float:
    times = [float(packet.pts * packet.time_base) for packet in coded if packet.pts is not None]
    if not times:
        return len(coded) * packets.frame_seconds
    return max(times) - min(times) + packets.frame_seconds


def _content(coded: list[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for packet in coded:
        digest.update(bytes(packet))
    return digest.hexdigest()
