"""How a stored picture must be turned and mirrored to stand as a viewer sees it: eight ways, told in two languages.

A video says it by a display matrix (ISO 14496-12, 8.3.2), a photograph by EXIF tag 274.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Orientation:
    """Exchange rows and columns first, then reverse the order of rows, then that of columns."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether nothing is to be done."""
        return self == UPRIGHT

    @property
    def is_mirrored(self) -> bool:
        """Whether writing would read backwards: no number of turns does it."""
        return (self.transpose + self.flip_rows + self.flip_columns) % 2 == 1

    def apply(self, picture: npt.NDArray[np.uint8], *, axes: tuple[int, int] = (0, 1)) -> npt.NDArray[np.uint8]:
        """Return the picture as a viewer sees it; `axes` are those of its rows and columns."""
        if self.is_upright:
            return picture
        if self.transpose:
            picture = picture.swapaxes(*axes)
        flipped = tuple(axis for axis, flip in zip(axes, (self.flip_rows, self.flip_columns), strict=True) if flip)
        return np.ascontiguousarray(np.flip(picture, flipped))


UPRIGHT = Orientation()

_OF_EXIF = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def orientation_of_exif(value: int | None) -> Orientation:
    """Return what EXIF's orientation (1 to 8; anything else counts as 1) asks for."""
    return _OF_EXIF.get(value or 1, UPRIGHT)


def orientation_of_matrix(matrix: bytes) -> Orientation:
    """Return what a display matrix asks for: nine int32 in native order, of which a b / c d map (x, y) to the screen.

    A matrix that turns by other than quarter turns gets the nearest one: few-shot datasets hold none on purpose.
    """
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):  # x' = a x, y' = d y
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)  # x' = c y, y' = b x


def orientation_of_frame(frame: Any) -> Orientation:
    """Return what the metadata of an `av.VideoFrame` ask for."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if matrix is None else orientation_of_matrix(bytes(matrix))
