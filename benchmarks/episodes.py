"""How fast episodes are drawn, against one numpy Generator per episode, in one run.

    python benchmarks/episodes.py

5-way 5-shot with 5 queries per class, on 70,000 videos of 70 classes, one core.
"""

import time
from collections.abc import Callable

import numpy as np

from fsar.heads.episodes.sampler import EpisodePool, EpisodeSampler, EpisodeShape

N_CLASSES, N_VIDEOS = 70, 1000


def main() -> None:
    """Print episodes per second by block size, and the ratio to drawing each with its own Generator."""
    pool = EpisodePool({f"class {i}": range(i * N_VIDEOS, (i + 1) * N_VIDEOS) for i in range(N_CLASSES)})
    sampler = EpisodeSampler(pool, EpisodeShape(5, 5, 5), seed=0)
    plain = _rate(_draw_plainly, 1, 2000)
    print(f"{'block':>6}  {'episodes/s':>10}  ratio to default_rng([seed, index])")
    print(f"{'-':>6}  {plain:>10.0f}  1.0")
    for block in (1, 4, 16, 256, 2048):
        rate = _rate(lambda start, block=block: sampler.draw(start, block), block, 400 if block == 1 else 20_000)
        print(f"{block:>6}  {rate:>10.0f}  {rate / plain:.1f}")


def _draw_plainly(index: int) -> list[np.ndarray]:
    generator = np.random.default_rng([0, index])
    classes = generator.choice(N_CLASSES, 5, replace=False)
    return [c * N_VIDEOS + generator.choice(N_VIDEOS, 10, replace=False) for c in classes]


def _rate(draw: Callable[[int], object], block: int, n_episodes: int) -> float:
    begin = time.perf_counter()
    for start in range(0, n_episodes, block):
        draw(start)
    return n_episodes / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
