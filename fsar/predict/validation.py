"""Logits of queries whose class is among the supports, and of others, from the episodes of a part."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch
from fsar.heads.episodes.sampler import EpisodeSampler, EpisodeShape
from fsar.heads.head import Head
from fsar.heads.setup.task import Task

CALIBRATION_SEED = 2_000_003
"""Of the episodes: not those of validation or test."""
BATCH = 8
MAX_QUERIES = 3
"""Per class and episode."""


def absent_class_logits(
    head: Head, task: Task, *, part: str, n_way: int, n_shot: int, n_episodes: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return logits (K, N) of known queries, their labels (K,), logits (U, N) of unknown ones, and the N it could be.

    Episodes have one class more than the answer; the supports of the last one are taken away, so that its queries are
    of none of the classes. Ways shrink to what the part has; classes too small for the shots are left out.

    Raises:
        InputError: the part has no three classes of enough videos.
    """
    pool, _ = task.parts.pool(part).without_small_classes(n_shot + 1)
    if pool.n_classes < 3:
        raise InputError(f"part {part!r} of {task.parts.name} has no three classes of {n_shot + 1} videos or more")
    n_way = min(n_way, pool.n_classes - 1)
    n_query = min(MAX_QUERIES, int(pool.counts.min()) - n_shot)
    shape = EpisodeShape(n_way + 1, n_shot, n_query)
    episodes = EpisodeSampler(pool, shape, seed=CALIBRATION_SEED).draw(0, n_episodes)
    data = task.episode_data(task.source(episodes.rows()), pool)
    logits, labels = [], []
    with torch.inference_mode():
        for some in episodes.batches(BATCH):
            batch = without_last_class(data.batch(some)[0])
            logits.append(answer(head, batch).flatten(0, 1).float().cpu())
            labels.append(torch.from_numpy(np.ascontiguousarray(some.query_labels)).flatten())
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    known = all_labels < n_way
    return all_logits[known], all_labels[known], all_logits[~known], n_way


def without_last_class(batch: EpisodeBatch) -> EpisodeBatch:
    """Return the batch without the supports, and the text, of its last class; supports stand by class already."""
    n_way = batch.n_way - 1
    n_kept = int((batch.support_labels[0] < n_way).sum())
    return replace(
        batch,
        support={role: x[:, :n_kept] for role, x in batch.support.items()},
        support_labels=batch.support_labels[:, :n_kept],
        n_way=n_way,
        class_text=None if batch.class_text is None else batch.class_text[:, :n_way],
    )


def answer(head: Head, batch: EpisodeBatch) -> Tensor:
    """Return logits (B, Q, N) with every query answered by itself, also by a head whose queries see each other."""
    if head.inductive:
        return head(batch)
    n_query = next(iter(batch.query.values())).shape[1]
    alone = [
        head(replace(batch, query={role: x[:, place : place + 1] for role, x in batch.query.items()}))
        for place in range(n_query)
    ]
    return torch.cat(alone, 1)
