"""What a head costs: parameters, operations, time, and bytes of a video."""

import time
from dataclasses import dataclass

import torch

from fsar.heads.batch import EpisodeBatch
from fsar.heads.episodes.sampler import EpisodePool, Episodes
from fsar.heads.head import Head
from fsar.heads.run_folder import n_parameters
from fsar.heads.setup.task import Task

TIMED_RUNS = 5


@dataclass(frozen=True)
class Cost:
    """What one 5-way episode, or whatever the test has, costs on this machine."""

    n_parameters: int
    flops_per_episode: int | None
    """Multiplications and additions of matrix products and convolutions; None where they cannot be counted."""
    ms_per_episode: float
    ms_per_query: float
    bytes_per_video: int
    n_query: int
    device: str


@torch.inference_mode()
def cost(head: Head, task: Task, pool: EpisodePool, episodes: Episodes) -> Cost:
    """Return the cost of the first episode: the median of a few timed runs after one to warm up."""
    source = task.source(episodes[:1].rows())
    batch = task.episode_data(source, pool).batch(episodes[:1])[0]
    flops = count_flops(head, batch)
    seconds = []
    for _ in range(TIMED_RUNS + 1):
        start = time.perf_counter()
        logits = head(batch)
        float(logits[0, 0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    middle = 1000 * sorted(seconds[1:])[TIMED_RUNS // 2]
    n_query = episodes.query.shape[1]
    return Cost(n_parameters(head), flops, middle, middle / n_query, source.bytes_per_video, n_query, task.device)


@torch.inference_mode()
def count_flops(head: Head, batch: EpisodeBatch) -> int | None:
    """Return the operations of matrix products and convolutions on a batch; None where they cannot be counted."""
    from torch.utils.flop_counter import FlopCounterMode

    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    # A module that is given a parameter would be asked for the parameter's gradient, which it does not have here.
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter:
            head(batch)
    except RuntimeError:  # NotImplementedError is one, too
        return None
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops())
