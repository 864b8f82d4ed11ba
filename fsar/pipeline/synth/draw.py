"""Draw a clip of the synthetic set: one textured object in motion before a textured wall, seen by a shaky camera."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fsar.pipeline.synth.motions import Motion, Poses

Picture = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

FPS = 12
SECONDS = (2.0, 4.0)
_TRIANGLE = ((-0.6, -0.8), (1.0, 0.0), (-0.6, 0.8))
_BAR = ((-1.0, -0.35), (1.0, -0.35), (1.0, 0.35), (-1.0, 0.35))
_FOOT = ((-1.0, 0.35), (-0.3, 0.35), (-0.3, 1.0), (-1.0, 1.0))
_KITE = ((-1.0, 0.0), (0.2, -0.7), (0.8, 0.0), (0.2, 0.7))
_BLOCK = ((-0.8, -0.6), (0.3, -0.6), (0.3, 0.6), (-0.8, 0.6))
_NOSE = ((0.3, -0.6), (1.0, 0.0), (0.3, 0.6))
SHAPES = {
    "triangle": (_TRIANGLE,),
    "bar": (_BAR, _FOOT),
    "kite": (_KITE,),
    "arrow": (_BLOCK, _NOSE),
    "hook": (_BAR, _FOOT, ((0.3, -1.0), (1.0, -1.0), (1.0, -0.35), (0.3, -0.35))),
    "fish": (_KITE, ((-1.0, -0.5), (-0.5, 0.0), (-1.0, 0.5))),
}
"""Each a union of convex polygons (vertices clockwise on the screen) inside a circle of radius 1.5, none of them
symmetric, so that every rotation shows."""
COLOURS = {
    "red": (210, 45, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 210),
    "yellow": (235, 205, 40),
    "orange": (240, 130, 30),
    "purple": (140, 60, 170),
    "white": (240, 240, 240),
    "black": (20, 20, 25),
}


@dataclass(frozen=True)
class Scene:
    """Everything about a clip but its class: the nuisances, drawn once."""

    n_frames: int
    shape: str
    colour: str
    second_colour: str
    stripes: float
    radius: float
    """Half the object's length at its smallest, in pixels."""
    growth: float
    """Largest size over smallest."""
    travel: float
    """Travel distance in pixels."""
    centre: tuple[float, float]
    """Where in the free space of the central square the box around the path lies, each in 0..1."""
    angle: float
    heading: float
    hold: tuple[float, float]
    """Shares of the clip before and after the motion in which nothing moves."""
    shake: npt.NDArray[np.int64]
    """(n_frames, 2) camera offset in pixels."""
    wall: Picture

    @property
    def object_name(self) -> str:
        """The placeholder of the annotation."""
        return f"a {self.colour} {self.shape}"


def draw_scene(generator: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Return a scene for pictures of `size` (width, height)."""
    width, height = size
    unit = min(width, height)
    n_frames = int(generator.integers(round(SECONDS[0] * FPS), round(SECONDS[1] * FPS) + 1))
    margin = max(2, unit // 60)
    wall = _wall(generator, (width + 2 * margin, height + 2 * margin))
    colours = generator.permutation(_visible_colours(wall))
    return Scene(
        n_frames=n_frames,
        shape=str(generator.choice(list(SHAPES))),
        colour=str(colours[0]),
        second_colour=str(colours[1]),
        stripes=float(generator.uniform(0, 6)),
        radius=unit * float(generator.uniform(0.11, 0.14)),
        growth=float(generator.uniform(1.7, 2.0)),
        travel=unit * float(generator.uniform(0.35, 0.5)),
        centre=(float(generator.uniform(0, 1)), float(generator.uniform(0, 1))),
        angle=float(generator.uniform(0, 1)),
        heading=float(generator.uniform(0, 1)),
        hold=(float(generator.uniform(0, 0.12)), float(generator.uniform(0, 0.12))),
        shake=_shake(generator, n_frames, margin),
        wall=wall,
    )


def draw_clip(motion: Motion, scene: Scene, size: tuple[int, int]) -> Iterator[Picture]:
    """Yield the pictures of a clip, each (H, W, 3) uint8 RGB."""
    time = np.linspace(0, 1, scene.n_frames)
    start, end = scene.hold[0], 1 - scene.hold[1]
    poses = motion.path(np.clip((time - start) / (end - start), 0, 1), scene.heading)
    x, y, radius = _place(poses, scene, size)
    margin = (scene.wall.shape[1] - size[0]) // 2
    for index in range(scene.n_frames):
        left, top = margin + scene.shake[index]
        picture = scene.wall[top : top + size[1], left : left + size[0]].copy()
        centre = (x[index] + margin - left, y[index] + margin - top)
        turns = scene.angle + float(poses.turns[index])
        _paint(picture, scene, centre, float(radius[index]), turns, float(poses.opacity[index]))
        yield picture


def _place(poses: Poses, scene: Scene, size: tuple[int, int]) -> tuple[Plane, Plane, Plane]:
    """Return x, y and radius in pixels.

    The box around the whole path is put somewhere in the central square, so that the place tells nothing about the
    class and a centre crop loses nothing.
    """
    radius = scene.radius * scene.growth**poses.growth
    reach = float(radius.max())
    columns = []
    for values, extent, share in ((poses.x, size[0], scene.centre[0]), (poses.y, size[1], scene.centre[1])):
        offset = values * scene.travel
        low, high = float(offset.min()), float(offset.max())
        free = min(size) - 2 * reach - (high - low)
        columns.append(((extent - min(size)) / 2 + reach + share * free + offset - low).astype(np.float32))
    return columns[0], columns[1], radius.astype(np.float32)


def _paint(
    picture: Picture, scene: Scene, centre: tuple[float, float], radius: float, turns: float, opacity: float
) -> None:
    """Paint the object into the picture; only the square around it is touched."""
    height, width = picture.shape[:2]
    reach = 1.5 * radius + 1
    left, right = max(0, int(centre[0] - reach)), min(width, int(centre[0] + reach) + 2)
    top, bottom = max(0, int(centre[1] - reach)), min(height, int(centre[1] + reach) + 2)
    if left >= right or top >= bottom or opacity <= 0:
        return
    dx = (np.arange(left, right, dtype=np.float32) - centre[0]) / radius
    dy = ((np.arange(top, bottom, dtype=np.float32) - centre[1]) / radius)[:, None]
    cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    coverage = opacity * np.clip(0.5 - radius * _distance(scene.shape, u, v), 0, 1)[..., None]
    stripe = np.clip(0.5 + 4 * np.sin(scene.stripes * (u + 0.5 * v) + 1), 0, 1)[..., None]
    colour, second = (np.asarray(COLOURS[name], np.float32) for name in (scene.colour, scene.second_colour))
    paint = second + stripe * (colour - second)
    box = picture[top:bottom, left:right]
    box[:] = box + coverage * (paint - box)


def _distance(shape: str, u: Plane, v: Plane) -> Plane:
    """Return the signed distance to a shape's edge in units of its radius, negative inside (exact near the edges)."""
    parts = []
    for polygon in SHAPES[shape]:
        edges = []
        for (ax, ay), (bx, by) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            length = float(np.hypot(bx - ax, by - ay))
            edges.append(((u - ax) * (by - ay) - (v - ay) * (bx - ax)) / length)
        parts.append(np.maximum.reduce(edges))
    return np.minimum.reduce(parts)


def _shake(generator: np.random.Generator, n_frames: int, margin: int) -> npt.NDArray[np.int64]:
    steps = generator.normal(0, 0.5, (n_frames, 2)).cumsum(axis=0)
    return np.clip(np.round(steps), -margin, margin).astype(np.int64)


def _visible_colours(wall: Picture) -> list[str]:
    """Return the half of the colours that stands out most from a wall."""
    mean = wall.mean(axis=(0, 1))
    nearest_first = sorted(COLOURS, key=lambda name: float(np.linalg.norm(mean - COLOURS[name])))
    return nearest_first[len(COLOURS) // 2 :]


def _wall(generator: np.random.Generator, size: tuple[int, int]) -> Picture:
    """Return a smooth random texture (H, W, 3) of low contrast."""
    width, height = size
    cells = int(generator.integers(3, 16))
    base = generator.uniform(60, 190, 3)
    contrast = float(generator.uniform(2, 12))
    grid = generator.normal(0, 1, (cells + 1, cells + 1, 3))
    texture = _stretch(_stretch(grid, height).swapaxes(0, 1), width).swapaxes(0, 1)
    return np.clip(base + contrast * texture, 0, 255).astype(np.uint8)


def _stretch(values: npt.NDArray[np.float64], n_pixels: int) -> npt.NDArray[np.float64]:
    """Interpolate the first axis linearly to `n_pixels`.

    Without a matrix product, whose last bits depend on the number of threads and would show in the pictures.
    """
    position = np.linspace(0, len(values) - 1, n_pixels)
    below = np.minimum(position.astype(int), len(values) - 2)
    weight = (position - below)[:, None, None]
    return values[below] * (1 - weight) + values[below + 1] * weight
