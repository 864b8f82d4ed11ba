"""What a report measures anew: how much the order of frames matters, what a head costs, where videos lie."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.episodes.sampler import EpisodePool, Episodes
from fsar.heads.evaluation.evaluate import half_width
from fsar.heads.head import Head, TableHead
from fsar.heads.setup.task import Task

Floats = NDArray[np.float64]
BATCH = 4
MAX_MAPPED = 400
"""Videos of a map."""


def reversed_frames(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return features (B, V, T, ...) with the frames from last to first."""
    return x.flip(2)


def shuffled_frames(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return features (B, V, T, ...) with the frames of each video in an order of its own."""
    order = torch.rand(x.shape[:3], generator=generator).argsort(2).to(x.device)
    index = order.view(*order.shape, *[1] * (x.ndim - 3)).expand_as(x)
    return x.gather(2, index)


def equal_frames(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return features (B, V, T, ...) with the middle frame in place of all."""
    return x[:, :, x.shape[2] // 2].unsqueeze(2).expand_as(x).contiguous()


CONDITIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor] | None] = {
    "as filmed": None,
    "shuffled": shuffled_frames,
    "reversed": reversed_frames,
    "all frames equal": equal_frames,
}


@dataclass(frozen=True)
class OrderRow:
    """Accuracy with the frames of queries and supports rearranged."""

    condition: str
    accuracy: float
    half: float | None
    difference: float
    """To the frames as filmed, on the same episodes."""
    difference_half: float | None
    n_episodes: int


@torch.inference_mode()
def order_effects(head: Head, task: Task, pool: EpisodePool, episodes: Episodes, seed: int = 0) -> list[OrderRow]:
    """Return the accuracy under each condition, queries and supports alike: "reversed" asks whether direction is seen
    at all by comparing reversed with reversed; "all frames equal" leaves one picture of each video.

    For "reversed", queries alone are reversed: a head that sees the direction of time takes the opposite class.
    """
    data = task.episode_data(task.source(episodes.rows()), pool)
    right: dict[str, list[Floats]] = {name: [] for name in CONDITIONS}
    for some in episodes.batches(BATCH):
        batch, targets = data.batch(some)
        for name, change in CONDITIONS.items():
            generator = torch.Generator().manual_seed(seed + int(some.indices[0]))
            changed = batch if change is None else _changed(batch, change, generator, queries_alone=name == "reversed")
            answer = head(changed).argmax(-1)
            right[name].append((answer == targets.query_labels).double().mean(1).cpu().numpy())
    accuracies = {name: np.concatenate(parts) for name, parts in right.items()}
    filmed = accuracies["as filmed"]
    return [
        OrderRow(name, float(x.mean()), half_width(x), float((x - filmed).mean()), half_width(x - filmed), len(x))
        for name, x in accuracies.items()
    ]


def _changed(
    batch: EpisodeBatch,
    change: Callable[[Tensor, torch.Generator], Tensor],
    generator: torch.Generator,
    *,
    queries_alone: bool,
) -> EpisodeBatch:
    def each(features: Features) -> Features:
        state = generator.get_state()
        found = {}
        for role, x in features.items():  # the roles of a video are rearranged alike
            generator.set_state(state)
            found[role] = change(x, generator)
        return found

    support = batch.support if queries_alone else each(batch.support)
    return replace(batch, support=support, query=each(batch.query))


@dataclass(frozen=True)
class VideoMap:
    """Where the videos of a part lie, before and after the head, in two dimensions."""

    class_names: tuple[str, ...]
    classes: list[int]
    places: dict[str, Floats]
    """Name of a picture -> (V, 2)."""
    notes: list[str]


class Neighbours:
    """Places of vectors by t-SNE (van der Maaten and Hinton, JMLR 2008): what is near stays near."""

    def __init__(self, seed: int = 0) -> None:
        """Look for scikit-learn; False as `available` says that it is not installed."""
        self.available = find_spec("sklearn") is not None
        self._seed, self._found = seed, dict[bytes, Floats]()

    def place(self, x: Floats) -> Floats:
        """Return (V, 2) of vectors (V, D). Many heads without weights give the same vectors: those are placed once."""
        key = hashlib.sha256(f"{x.shape}".encode() + x.tobytes()).digest()
        if key not in self._found:
            self._found[key] = self._place(x)
        return self._found[key]

    def _place(self, x: Floats) -> Floats:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
        with threadpool_limits(1):  # a step on hundreds of points takes less than threads need to meet
            method: Any = TSNE(2, perplexity=perplexity, init="pca", random_state=self._seed)
            return np.asarray(method.fit_transform(x.astype(np.float32)), np.float64)


@torch.inference_mode()
def video_map(head: Head, task: Task, pool: EpisodePool, neighbours: Neighbours, *, before: bool = True) -> VideoMap:
    """Return the map of a part's videos, at most MAX_MAPPED, the same number of each class.

    `before` says whether the features themselves are mapped, too: heads that read the same need it once.
    """
    each = max(1, MAX_MAPPED // max(pool.n_classes, 1))
    rows = np.concatenate([pool.rows_of(i)[:each] for i in range(pool.n_classes)])
    classes = [i for i in range(pool.n_classes) for _ in pool.rows_of(i)[:each]]
    order = np.argsort(rows)
    source = task.source(rows[order])
    features = source.gather(rows)
    tables = {"features": _vectors(features)} if before else {}
    notes = []
    if isinstance(head, TableHead):
        try:
            tables["after the head"] = _vectors(head.embed(features))
        except Exception as error:
            notes.append(f"the head cannot embed single videos ({type(error).__name__}), so there is no map after it")
    else:
        notes.append("this head relates the videos of an episode to each other: there is no map after it")
    places = {f"{name}, PCA": principal_axes(x) for name, x in tables.items()}
    if not neighbours.available:
        notes.append("t-SNE needs scikit-learn: pip install 'fsar[plots]'")
    elif len(rows) > 5:
        places |= {f"{name}, t-SNE": neighbours.place(x) for name, x in tables.items()}
    return VideoMap(pool.class_names, classes, places, notes)


def _vectors(features: Features) -> Floats:
    """Return one vector per video: the mean of the first tensor over all axes but the last that is not a map's."""
    x = next(iter(features.values())).float().cpu()
    if x.ndim >= 5:  # (V, T, C, h, w)
        x = x.mean((-2, -1))
    flat = x.flatten(1, -2).mean(1) if x.ndim > 2 else x
    vectors: Floats = flat.double().numpy()
    return vectors


def principal_axes(x: Floats) -> Floats:
    """Return (V, 2), the coordinates along the two directions of largest spread of (V, D)."""
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = (u * s)[:, :2]
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
