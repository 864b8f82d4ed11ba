"""The classes of the synthetic set: motions of one object, in pairs that show the same poses in another order.

One of a pair is the other played backwards, or the other with its two halves exchanged; so whoever averages over time
cannot tell the two apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Time = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Poses:
    """Where the object is at each time; every field is (T,)."""

    x: Time
    """Right, in units of the clip's travel distance."""
    y: Time
    """Down, in the same units."""
    turns: Time
    """Clockwise rotation in full turns."""
    growth: Time
    """0 = smallest, 1 = largest."""
    opacity: Time
    """0 = invisible, 1 = solid."""


Path = Callable[[Time, float], Poses]
"""From times (T,) in 0..1 and a heading in turns (a nuisance that only some motions use) to poses."""


@dataclass(frozen=True)
class Motion:
    """One class: a template in the manner of Something-Something and the path of its object."""

    template: str
    path: Path

    @property
    def name(self) -> str:
        """The template without brackets, as labels.json lists it."""
        return self.template.replace("[", "").replace("]", "")


def poses(
    time: Time,
    *,
    x: Time | float = 0.0,
    y: Time | float = 0.0,
    turns: Time | float = 0.0,
    growth: Time | float = 0.5,
    opacity: Time | float = 1.0,
) -> Poses:
    """Return poses with everything at rest that is not given."""
    fields = (np.broadcast_to(np.asarray(value, np.float64), time.shape) for value in (x, y, turns, growth, opacity))
    return Poses(*fields)


def there_and_back(time: Time) -> Time:
    """Return 0 -> 1 -> 0."""
    return 1 - np.abs(2 * time - 1)


def first(time: Time) -> Time:
    """Return a phase that fills the first half: 0 -> 1, then 1."""
    return np.clip(2 * time, 0, 1)


def second(time: Time) -> Time:
    """Return a phase that fills the second half: 0, then 0 -> 1."""
    return np.clip(2 * time - 1, 0, 1)


def line(dx: float, dy: float) -> Path:
    """Return a straight path."""
    return lambda t, heading: poses(t, x=dx * t, y=dy * t)


def corner(first_step: tuple[float, float], second_step: tuple[float, float]) -> Path:
    """Return one step in the first half and another in the second."""

    def path(t: Time, heading: float) -> Poses:
        a, b = first(t), second(t)
        return poses(t, x=first_step[0] * a + second_step[0] * b, y=first_step[1] * a + second_step[1] * b)

    return path


def along(heading: float, distance: Time) -> dict[str, Time]:
    """Return x and y of a way in any direction."""
    return {"x": np.cos(2 * np.pi * heading) * distance, "y": np.sin(2 * np.pi * heading) * distance}


def circle(t: Time, heading: float) -> Poses:
    """Return a full clockwise circle from any start."""
    angle = 2 * np.pi * (t + heading)
    return poses(t, x=0.5 * np.cos(angle), y=0.5 * np.sin(angle))


def zigzag(t: Time, heading: float) -> Poses:
    """Return a way to the right in four strokes."""
    return poses(t, x=t, y=0.35 * (1 - 2 * np.abs((2 * t) % 1 - 0.5)))


def bounces(t: Time, heading: float) -> Poses:
    """Return two hops, the second half as high."""
    hop = np.minimum(np.floor(2 * t), 1)
    return poses(t, y=-(1 - hop / 2) * np.sin(np.pi * (2 * t - hop)))


def backwards(path: Path) -> Path:
    """Return the same path played backwards."""
    return lambda t, heading: path(1 - t, heading)


def halves_exchanged(path: Path) -> Path:
    """Return the second half of a path, then its first half."""
    return lambda t, heading: path(np.where(t <= 0.5, t + 0.5, t - 0.5), heading)


def _pair(template: str, reverse_template: str, path: Path) -> tuple[Motion, Motion]:
    return Motion(template, path), Motion(reverse_template, backwards(path))


def _order_pair(template: str, reverse_template: str, path: Path) -> tuple[Motion, Motion]:
    """Return a way there and back, which is the same backwards, beside the one that starts at the far end."""
    return Motion(template, path), Motion(reverse_template, halves_exchanged(path))


RIGHT, LEFT, UP, DOWN = (1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0)

PAIRS: tuple[tuple[Motion, Motion], ...] = (
    _pair("Moving [something] from left to right", "Moving [something] from right to left", line(1, 0)),
    _order_pair("Moving [something] up then down", "Moving [something] down then up",
          lambda t, h: poses(t, y=-there_and_back(t))),
    _pair("Turning [something] clockwise", "Turning [something] counter-clockwise", lambda t, h: poses(t, turns=t)),
    _pair("Making [something] grow", "Making [something] shrink", lambda t, h: poses(t, growth=t)),
    _pair("Moving [something] left then up", "Moving [something] down then right", corner(LEFT, UP)),
    _pair("Moving [something] right then down", "Moving [something] up then left", corner(RIGHT, DOWN)),
    _pair("Letting [something] bounce lower and lower", "Letting [something] bounce higher and higher", bounces),
    _pair("Moving [something] then turning it", "Turning [something] then moving it",
          lambda t, h: poses(t, **along(h, first(t)), turns=0.75 * second(t))),
    _pair("Making [something] appear", "Making [something] disappear", lambda t, h: poses(t, opacity=t)),
    _pair("Moving [something] diagonally up to the right", "Moving [something] diagonally down to the left",
          line(0.8, -0.8)),
    # up to here: the default base classes
    _pair("Moving [something] from bottom to top", "Moving [something] from top to bottom", line(0, -1)),
    _order_pair("Making [something] shrink then grow", "Making [something] grow then shrink",
          lambda t, h: poses(t, growth=1 - there_and_back(t))),
    _pair("Moving [something] right then up", "Moving [something] down then left", corner(RIGHT, UP)),
    # up to here: the default validation classes
    _order_pair("Moving [something] left then right", "Moving [something] right then left",
          lambda t, h: poses(t, x=-there_and_back(t))),
    _pair("Moving [something] diagonally up to the left", "Moving [something] diagonally down to the right",
          line(-0.8, -0.8)),
    _pair("Moving [something] to the right while it grows", "Moving [something] to the left while it shrinks",
          lambda t, h: poses(t, x=t, growth=t)),
    _order_pair("Turning [something] clockwise then back", "Turning [something] counter-clockwise then back",
          lambda t, h: poses(t, turns=0.5 * there_and_back(t))),
    _pair("Moving [something] left then down", "Moving [something] up then right", corner(LEFT, DOWN)),
    # up to here: the default novel classes
    _pair("Moving [something] in a circle clockwise", "Moving [something] in a circle counter-clockwise", circle),
    _pair("Moving [something] faster and faster", "Moving [something] slower and slower",
          lambda t, h: poses(t, **along(h, t**2.5))),
    _pair("Moving [something] to the right in a zigzag", "Moving [something] to the left in a zigzag", zigzag),
    _pair("Moving [something] then growing it", "Shrinking [something] then moving it",
          lambda t, h: poses(t, **along(h, first(t)), growth=second(t))),
    _pair("Moving [something] then holding it still", "Holding [something] still then moving it",
          lambda t, h: poses(t, **along(h, first(t)))),
    _pair("Moving [something] up while it shrinks", "Moving [something] down while it grows",
          lambda t, h: poses(t, y=-t, growth=1 - t)),
)  # fmt: skip

MOTIONS: tuple[Motion, ...] = tuple(motion for pair in PAIRS for motion in pair)
"""Every class; the number of a class in clip seeds and ids is its place here, so only append."""
