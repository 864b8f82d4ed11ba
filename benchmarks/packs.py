"""How much faster packed frames are read than videos are decoded, beside the floor: the JPEG decoder alone.

Clips of SSv2's size (427 x 240, 48 frames, VP9 in webm) are packed as `extract --layout packed --frames 16` does; then
8 frames of each clip are read from either. The made clips are as detailed as real ones: a JPEG of quality 95 takes 0.27
bytes a pixel. All in one run, in processor time of one thread, so only the ratios carry over to another machine.

    python benchmarks/packs.py [--videos FOLDER] [--clips N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

N_FRAMES = 8
TO_REACH = 5.0


def natural(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a picture (H, W, 3) whose amplitudes fall with frequency as those of photographs do."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((4, height, width))) / frequency**1.75
    layers = np.fft.irfft2(spectrum, (height, width))
    layers /= layers.std(axis=(1, 2), keepdims=True)
    colours = 0.9 * layers[3][..., None] + 0.3 * layers[:3].transpose(1, 2, 0)  # colours differ less than brightness
    return (128 + 50 * colours).clip(0, 255).astype(np.uint8)


def write_clips(folder: Path, n_clips: int) -> list[Path]:
    """Write 4-second clips in which a small picture moves over a panning large one."""
    import av

    paths = []
    for index in range(n_clips):
        rng = np.random.default_rng(index)
        back, front = natural(rng, 300, 540), natural(rng, 100, 120)
        path = folder / f"{index}.webm"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx-vp9", rate=12, options={"crf": "14", "b": "0", "cpu-used": "4"})
            stream.width, stream.height, stream.pix_fmt = 427, 240, "yuv420p"
            for number in range(48):
                picture = back[number : number + 240, 2 * number : 2 * number + 427].copy()
                top, left = 2 * number, 300 - 5 * number
                picture[top : top + 100, left : left + 120] = front
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths


def milliseconds(reads: list[Callable[[Path], object]], paths: list[Path], n_rounds: int = 10) -> list[float]:
    """Return for each way of reading the processor time of one clip, the best of several rounds over all.

    The ways take turns, so that whatever else the machine does meets all of them alike; it can only add to their time.
    """
    times: list[list[float]] = [[] for _ in reads]
    for _ in range(n_rounds):
        for read, own in zip(reads, times, strict=True):
            start = time.thread_time()
            for path in paths:
                read(path)
            own.append(time.thread_time() - start)
    return [1000 * min(own) / len(paths) for own in times]


def main() -> None:
    """Print the table."""
    from fsar.allocator import keep_big_buffers
    from fsar.pipeline.packs import FramePack
    from fsar.pipeline.packs.build import pack_frames
    from fsar.pipeline.packs.jpeg import decode_jpeg
    from fsar.pipeline.packs.layout import PackSettings
    from fsar.pipeline.store import VideoRow
    from fsar.pipeline.video.decode import decode_clip
    from fsar.pipeline.video.sample import sample_indices

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="Folder of videos in place of made ones.")
    parser.add_argument("--clips", type=int, default=12)
    arguments = parser.parse_args()
    keep_big_buffers()  # as the commands do
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = sorted(arguments.videos.iterdir()) if arguments.videos else write_clips(folder, arguments.clips)
        paths = found[: arguments.clips]
        rows = [VideoRow(path.stem, "x", "", str(path)) for path in paths]
        report = pack_frames(rows, folder / "p.frames", PackSettings(frames=16, short_side=256), quiet=True)
        pack = FramePack.open(report.path)
        places = sample_indices("uniform-center", 16, N_FRAMES)

        def of_video(path: Path) -> object:
            return decode_clip(path, lambda n_frames: sample_indices("uniform-center", n_frames, N_FRAMES))

        def of_pack(path: Path) -> object:
            return pack.frames(path.stem, places % pack.video(path.stem).n_stored)

        ready = {path: [bytes(jpeg) for jpeg in pack.jpegs(path.stem, places % pack.video(path.stem).n_stored)]
                 for path in paths}  # fmt: skip
        buffers = {path: np.empty(pack.frames(path.stem, [0]).shape[1:], np.uint8) for path in paths}

        def floor(path: Path) -> object:
            return [decode_jpeg(memoryview(jpeg), buffers[path]) for jpeg in ready[path]]

        video, packed, alone = milliseconds([of_video, of_pack, floor], paths)
        n_video, n_pack = sum(path.stat().st_size for path in paths), report.n_bytes
        sizes = [n_bytes / len(paths) / 1e3 for n_bytes in (n_video, n_pack)]
        print(f"{len(paths)} clips, {sizes[0]:.0f} kB a video, {sizes[1]:.0f} kB packed")
        print(f"{'':34}{'ms a clip':>10}{'ratio':>8}")
        print(f"{'decode the video':34}{video:10.2f}{1:8.1f}")
        print(f"{'packed frames':34}{packed:10.2f}{video / packed:8.1f}   to reach {TO_REACH:g}")
        print(f"{'floor: libjpeg-turbo, ready memory':34}{alone:10.2f}{video / alone:8.1f}")
        print(f"share of the floor {alone / packed:.2f}")


if __name__ == "__main__":
    main()
