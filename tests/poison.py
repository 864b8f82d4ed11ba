"""Videos that no stage may stumble over: one of each kind, with the reasons that are true of it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.videos import cut_file, write_audio, write_clip

Poison = tuple[Callable[[Path], Path], frozenset[str]]


def _file(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(stem: Path) -> Path:
        path = stem.with_name(f"{stem.name}-{name}")
        path.write_bytes(data)
        return path

    return write


def _clip(suffix: str, change: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda stem: change(write_clip(stem.with_name(f"{stem.name}{suffix}"), n_frames=40, size=(192, 128)))


def _overwritten(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(bytes(data))
    return path


def _pictures(**sizes: tuple[str, tuple[int, int]]) -> Callable[[Path], Path]:
    def write(stem: Path) -> Path:
        stem.mkdir(parents=True)
        for name, (mode, size) in sizes.items():
            Image.new(mode, size).save(stem / f"{name}.png")
        return stem

    return write


def _broken_pictures(stem: Path) -> Path:
    stem.mkdir(parents=True)
    for k in range(3):
        (stem / f"{k}.jpg").write_bytes(b"no picture")
    return stem


def _ring(stem: Path) -> Path:
    path, other = stem.with_name(f"{stem.name}-ring.mp4"), stem.with_name(f"{stem.name}-ring2.mp4")
    path.symlink_to(other.name)
    other.symlink_to(path.name)
    return path


def _dead_link(stem: Path) -> Path:
    path = stem.with_name(f"{stem.name}-dead.mp4")
    path.symlink_to("nowhere.mp4")
    return path


def _pipe(stem: Path) -> Path:
    path = stem.with_name(f"{stem.name}-pipe.mp4")
    os.mkfifo(path)
    return path


def _sound(stem: Path) -> Path:
    return write_audio(stem.with_name(f"{stem.name}-sound.webm"))


def _header_alone(path: Path) -> Path:
    return cut_file(path, 0.02)


_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n"
_HTML = b"<!DOCTYPE html><title>Video unavailable</title>" + b"x" * 3000

POISON: dict[str, Poison] = {
    "empty file": (_file("zero.mp4", b""), frozenset({"empty"})),
    "web page": (_file("page.mp4", _HTML), frozenset({"not-a-video"})),
    "pointer of git-lfs": (_file("lfs.webm", _LFS), frozenset({"not-a-video"})),
    "list of other files": (_file("list.mp4", b"ffconcat version 1.0\nfile 0001.webm\n"), frozenset({"not-a-video"})),
    "random bytes": (_file("noise.avi", np.random.default_rng(1).bytes(5000)), frozenset({"not-a-video"})),
    "sound alone": (_sound, frozenset({"no-video-stream"})),
    "cut webm": (_clip(".webm", lambda path: cut_file(path, 0.6)), frozenset({"truncated"})),
    "cut mkv": (_clip(".mkv", lambda path: cut_file(path, 0.9)), frozenset({"truncated"})),
    "cut mp4": (_clip(".mp4", lambda path: cut_file(path, 0.6)), frozenset({"not-a-video", "truncated"})),
    "cut avi": (_clip(".avi", lambda path: cut_file(path, 0.7)), frozenset({"truncated"})),
    "header alone": (_clip(".mkv", _header_alone), frozenset({"truncated", "not-a-video"})),
    "damaged webm": (_clip(".webm", _overwritten), frozenset({"damaged", "corrupt", "truncated"})),
    "damaged mp4": (_clip(".mp4", _overwritten), frozenset({"damaged", "corrupt", "truncated"})),
    "damaged avi": (_clip(".avi", _overwritten), frozenset({"damaged", "corrupt", "truncated"})),
    "dead link": (_dead_link, frozenset({"missing"})),
    "ring of links": (_ring, frozenset({"missing"})),
    "pipe": (_pipe, frozenset({"not-a-video"})),
    "huge picture": (_pictures(a1=("1", (20000, 12000))), frozenset({"too-large"})),
    "pictures of two sizes": (_pictures(a1=("L", (64, 48)), a2=("L", (48, 64))), frozenset({"corrupt"})),
    "pictures of two kinds": (_pictures(img_1=("L", (64, 48)), depth_1=("L", (64, 48))), frozenset({"ambiguous"})),
    "broken pictures": (_broken_pictures, frozenset({"corrupt"})),
}
"""Kind -> (function that writes it at a path without suffix and returns its path, reasons that are true)."""
