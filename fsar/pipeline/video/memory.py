"""Where the frames of a clip come to lie: in memory of this process, or where whoever runs it wants them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
Empty = Callable[[tuple[int, ...]], Pictures]
"""From a shape to an uint8 array whose values do not matter yet."""


def _of_our_own(shape: tuple[int, ...]) -> Pictures:
    return np.empty(shape, np.uint8)


_empty: ContextVar[Empty] = ContextVar("fsar-frames", default=_of_our_own)


def empty_frames(shape: tuple[int, ...]) -> Pictures:
    """Return room for frames of a shape, (T, H, W, 3)."""
    return _empty.get()(shape)


def stack_frames(pictures: Sequence[Pictures]) -> Pictures:
    """Return pictures (H, W, 3) of one shape as one array, (T, H, W, 3). Raises ValueError where shapes differ."""
    return np.stack(pictures, out=empty_frames((len(pictures), *pictures[0].shape)))


@contextmanager
def frames_in(empty: Empty) -> Iterator[None]:
    """Let frames that are decoded inside come to lie in what `empty` returns."""
    token = _empty.set(empty)
    try:
        yield
    finally:
        _empty.reset(token)
