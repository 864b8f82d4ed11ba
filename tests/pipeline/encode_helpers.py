"""What the encode tests share. Decode processes import this file, so it must stay light: no torch here."""

import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np

from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.encode.clip_task import ClipTask, DecodedClip
from fsar.pipeline.video.decode import VideoError

HEIGHT, WIDTH = 40, 56


def pixels(video_id: str, n_frames: int) -> np.ndarray:
    """Return the frames (n_frames, HEIGHT, WIDTH, 3) of a made-up video; they depend on its id alone."""
    seed = int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:4], "little")
    coarse = np.random.default_rng(seed).integers(0, 256, (n_frames, HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def fake_decode(task: ClipTask) -> DecodedClip:
    """Decode a made-up video of 20 frames; what its path says may go wrong does."""
    name = Path(task.path).name
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("once"):
        _fail_once(Path(task.path))
    if name.startswith("bad"):
        raise VideoError("truncated", f"{task.path} ends early")
    if name.startswith("bug"):
        raise ZeroDivisionError("a bug of ours")
    if name.startswith("interrupt"):
        raise KeyboardInterrupt
    indices = task.indices(20)
    wanted = np.unique(indices)
    frames = pixels(task.video_id, 20)[wanted]
    if name.startswith("big"):
        frames = frames.repeat(6, 1).repeat(6, 2)
    times = indices / 12
    slots = task.of_slots(indices), task.of_slots(times)
    return DecodedClip(frames, np.searchsorted(wanted, indices), *slots, 20, hashlib.sha256(b"x").digest())


def slow_decode(task: ClipTask) -> DecodedClip:
    """Decode slowly enough for a test to step in."""
    time.sleep(0.05)
    return fake_decode(task)


def _fail_once(path: Path) -> None:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def made_up_rows(folder: Path, names: list[str], *, part: str = "train") -> list[CatalogRow]:
    """Return catalog rows of made-up videos; the files exist (empty), for `encode` looks."""
    rows = []
    for name in names:
        path = folder / name
        if not name.startswith("once"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        rows.append(CatalogRow(name, path, f"class {name[-1]}", 1, part))
    return rows


def files_of(store: Path) -> dict[str, bytes]:
    """Return everything a store consists of but when, how fast and with how many processes it was made."""
    files = [file for file in sorted(store.parent.rglob("*")) if file.is_file()]
    varying = ("runs", "run", "claims", "manifest.json")
    return {
        str(file.relative_to(store.parent)): file.read_bytes()
        for file in files
        if not any(part.startswith(varying) for part in file.parts[len(store.parent.parts) :])
    }
