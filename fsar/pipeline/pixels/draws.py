"""Random numbers by counter: a pure function of (seed, step, video, purpose), on every machine and in every version."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_PER_BLOCK = 8
"""64-bit numbers in one digest of BLAKE2b."""


class Draws:
    """The random numbers of one visit of one video.

    Each number is named by its purpose, so a pipeline that draws one more leaves all others as they were. Nothing is
    remembered: asking twice gives the same answer.
    """

    def __init__(self, seed: int, step: int, video_id: str, frame: int | None = None) -> None:
        self._visit = (seed, step, video_id)
        self._frame = frame

    def uniforms(self, purpose: str, n: int) -> list[float]:
        """Return n numbers in [0, 1)."""
        blocks = b"".join(self._digest(purpose, block) for block in range(-(-n // _PER_BLOCK)))
        words = (int.from_bytes(blocks[8 * i : 8 * i + 8], "little") for i in range(n))
        return [(word >> 11) / (1 << 53) for word in words]

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * self.uniforms(purpose, 1)[0]

    def chance(self, purpose: str, probability: float) -> bool:
        """Return True with a probability."""
        return self.uniforms(purpose, 1)[0] < probability

    def below(self, purpose: str, limit: int) -> int:
        """Return a whole number in 0..limit-1, each as likely."""
        return int(self.uniforms(purpose, 1)[0] * limit)

    def order(self, purpose: str, n: int) -> list[int]:
        """Return the numbers 0..n-1 in random order."""
        keys = self.uniforms(purpose, n)
        return sorted(range(n), key=keys.__getitem__)

    def of_frame(self, frame: int) -> Draws:
        """Return the numbers of one frame of the clip, for code that draws anew for each."""
        return Draws(*self._visit, frame)

    def generator(self, purpose: str) -> np.random.Generator:
        """Return a NumPy generator, for the samplers of frames."""
        import numpy as np

        return np.random.Generator(np.random.Philox(key=int.from_bytes(self._digest(purpose, 0)[:16], "little")))

    def _digest(self, purpose: str, block: int) -> bytes:
        return hashlib.blake2b(json.dumps([*self._visit, self._frame, purpose, block]).encode()).digest()
