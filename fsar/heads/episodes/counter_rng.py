"""Random numbers by counter: a pure function of (seed, purpose, index, slot), computed for whole blocks at once."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mix(x: Words) -> Words:
    """Return the output function of splitmix64 (Steele et al., OOPSLA 2014): a bijection that scrambles 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
    return x ^ (x >> np.uint64(31))


class Counter:
    """All random streams of one seed. A stream is named by its purpose, so that new purposes never disturb old ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, purpose: str, indices: NDArray[np.int64]) -> Words:
        """Return one key per index, (...), for `numbers`."""
        digest = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=8).digest()
        base = np.frombuffer(digest, "<u8").astype(np.uint64)
        return mix(mix(indices.astype(np.uint64) * _STEP + base) + base)

    @staticmethod
    def numbers(keys: Words, n_numbers: int) -> Words:
        """Return (..., n_numbers) uniform 64-bit numbers for keys (...): splitmix64 started at each key."""
        return mix(keys[..., None] + np.arange(1, n_numbers + 1, dtype=np.uint64) * _STEP)

    @staticmethod
    def below(numbers: Words, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return integers in [0, limit) from 64-bit numbers; the upper 32 bits count, so limits stay below 2**31.

        No value is likelier than another by more than limit / 2**32 of its probability.
        """
        scaled = (numbers >> np.uint64(32)) * limits.astype(np.uint64)
        return (scaled >> np.uint64(32)).astype(np.int64)
