"""A whole test as `fsar-eval-head` runs it, gathering and batches included, against a plain statement per episode.

    python benchmarks/evaluation.py hcl molo second-order pal [--shots 1] [--episodes 40] [--rounds 3]

`every_head.py` times a head's own functions; this times `evaluate` on few videos, once with all episodes and once with
half of them: the difference is what episodes take, the rest what videos take. Both are scaled to 10,000 episodes over
2,400 videos and stand beside the plain statement of the same run. Random features at published widths, 5 queries, one
thread, processor time, medians of rounds in which all take turns.
"""

import argparse
import resource
import statistics
from collections.abc import Callable

import numpy as np
import torch
from every_head import N_EPISODES, N_VIDEOS, N_WAY, ROWS, Row, episodes, make, seconds
from torch import Tensor

from fsar.allocator import keep_big_buffers
from fsar.heads import Features, Head
from fsar.heads.episodes.batches import EpisodeData
from fsar.heads.episodes.sampler import EpisodePool, Episodes, EpisodeSampler, EpisodeShape
from fsar.heads.evaluation.evaluate import evaluate

N_CLASSES = 8


class InMemory:
    """Random features of videos in the form that evaluation reads."""

    store, device = None, "cpu"

    def __init__(self, row: Row, n_videos: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features: dict[str, Tensor] = {
            role: torch.randn(n_videos, row.n_frames, *shape, generator=generator) for role, shape in row.roles.items()
        }
        self.bytes_per_video = sum(x[0].numel() * x.element_size() for x in self.features.values())

    def gather(self, rows: np.ndarray, views: object = None, frames: object = None) -> Features:
        """Return the features of the videos."""
        return {role: x[torch.from_numpy(rows)] for role, x in self.features.items()}


def test_of(
    row: Row, head: Head, n_shot: int, n_episodes: int
) -> tuple[Callable[[Episodes], object], Episodes, Episodes, int]:
    """Return a test, all episodes, half of them over the same videos, and the number of videos."""
    rows = np.arange(N_CLASSES * (n_shot + 1)).reshape(N_CLASSES, -1)
    pool = EpisodePool({f"class {index}": of_class for index, of_class in enumerate(rows)})
    every = EpisodeSampler(pool, EpisodeShape(N_WAY, n_shot, 1), seed=0).draw(0, n_episodes)
    half = every[: n_episodes // 2]
    text = torch.randn(N_CLASSES, 1, row.text) if row.text else None
    data = EpisodeData(InMemory(row, rows.size), class_text=text)  # type: ignore[arg-type]
    n_videos, n_of_all = (len(np.unique(np.concatenate([x.support.ravel(), x.query.ravel()]))) for x in (half, every))
    assert n_videos == n_of_all, "half of the episodes must meet all videos: take more"
    return lambda chosen: evaluate(head, data, chosen, pool.class_names), every, half, n_videos


def measure(name: str, n_shot: int, n_episodes: int, rounds: int) -> str:
    """Return a line of the table."""
    row, head = ROWS[name], make(name, ROWS[name])
    batch, _ = episodes(row, 1, N_WAY, n_shot=n_shot)
    run, every, half, n_videos = test_of(row, head, n_shot, n_episodes)
    with torch.no_grad():
        run(half)
        times = [
            (seconds(lambda: row.plain(head, batch)), seconds(lambda: run(every)), seconds(lambda: run(half)))
            for _ in range(rounds)
        ]
    plain, whole, part = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    episode = max(whole - part, 0) / (len(every) - len(half))
    video = max(part - episode * len(half), 0) / n_videos
    ours = episode + video * N_VIDEOS / N_EPISODES
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"{name} | {plain:.3g} | {video:.3g} | {episode:.3g} | {ours:.3g} | {plain / ours:.2g}x | {memory:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="+", metavar="HEAD", help=", ".join(ROWS))
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_big_buffers()
    torch.set_num_threads(1)
    print(
        "| head | plain, ms an episode | a video | an episode | in all, of 10,000 | ratio | peak GB |\n"
        + "|---" * 7
        + "|"
    )
    for name in options.heads:
        print(f"| {measure(name, options.shots, options.episodes, options.rounds)} |", flush=True)


if __name__ == "__main__":
    main()
