"""Clips of plain colours: even a random network tells them apart, so that answers can be reasoned about."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 40, 220),
    "yellow": (220, 220, 30),
    "cyan": (30, 210, 210),
    "magenta": (210, 30, 210),
    "white": (245, 245, 245),
    "black": (8, 8, 8),
    "orange": (250, 140, 20),
    "purple": (110, 20, 150),
}
GREY = (128, 128, 128)
FPS = 8
SIZE = 64


def write_colours(path: Path, colours: Sequence[tuple[int, int, int]], seed: int = 0) -> Path:
    """Write a clip of one colour per frame, with a little noise of its own, and return its path."""
    import av

    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "12"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, colour in enumerate(colours):
            noise = generator.normal(0, 10, (SIZE // 8, SIZE // 8, 3)).repeat(8, 0).repeat(8, 1)
            picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_class(folder: Path, name: str, n_clips: int, *, n_frames: int = 16, first_seed: int = 0) -> list[Path]:
    """Write clips of a colour into `folder/name` and return their paths."""
    return [
        write_colours(folder / name / f"{name}-{first_seed + i}.mp4", [COLOURS[name]] * n_frames, first_seed + i)
        for i in range(n_clips)
    ]
