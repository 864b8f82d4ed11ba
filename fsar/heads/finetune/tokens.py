"""Training the last blocks of a backbone from the tokens that a store keeps: what stands in for videos and frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.episodes.counter_rng import Counter
from fsar.heads.episodes.feature_source import FeatureSource, Where
from fsar.heads.episodes.sampler import Ints
from fsar.heads.finetune.features import embed_in_chunks
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.upper import check_upper, tokens_below, upper_taps
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.backbones.weights import state_sha256
from fsar.pipeline.encode.clip_task import DecodeFailure
from fsar.pipeline.encode.command import encode_command
from fsar.pipeline.pixels.published import Role
from fsar.pipeline.store import ChunkData, TapSpec, create_store, open_store

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

TOKENS = "tokens"


class TokenStore:
    """A store of tokens that says it has what the last blocks of its backbone make of them.

    Everything else is the store's own.
    """

    def __init__(self, store: "FeatureStore", backbone: Backbone, n_blocks: int) -> None:
        """Find the tokens.

        Raises:
            InputError: the store does not hold them; the message has the command that adds them.
        """
        check_upper(backbone, n_blocks)
        self.tokens_tap = tokens_below(backbone, n_blocks)
        if self.tokens_tap not in store.taps:
            raise InputError(
                f"to train the last {n_blocks} of the {len(backbone.points.blocks)} blocks of {backbone.name}, the "
                f"store must hold {self.tokens_tap}; {store.path} has {', '.join(store.taps)}. Add it: "
                f"{encode_command(store.recipe, [*store.taps, self.tokens_tap])}"
            )
        self.whole = store
        self.tokens_dtype = store.taps[self.tokens_tap].dtype
        extractor = TapExtractor(backbone, upper_taps(backbone, n_blocks))
        self.taps = {tap: TapSpec(shape, "float32") for tap, shape in extractor.shapes().items()}
        extractor.close()

    def __getattr__(self, name: str) -> Any:
        """Return what the store has."""
        if name == "whole":  # not set yet
            raise AttributeError(name)
        return getattr(self.whole, name)


class TokenSource:
    """Tokens of a store by row, as what a tower takes; training draws views and slots where there are several."""

    def __init__(
        self,
        store: "FeatureStore",
        tap: str,
        rows: Ints,
        *,
        n_frames: int,
        seed: int = 0,
        device: str = "cpu",
        where: Where = "auto",
    ) -> None:
        """Read the tokens of `rows` (ascending) into memory if they fit."""
        self.device, self.n_frames, self._counter = device, n_frames, Counter(seed)
        self._features = FeatureSource(store, {TOKENS: tap}, rows, device=device, where=where, n_frames=n_frames)

    def training(self, rows: Ints, roles: Sequence[Role], episode: int) -> Tensor:
        """Return tokens (V, T, L, W) of the videos of one episode."""
        views, frames = self._features.draw_visits(self._counter, np.array([episode]), len(rows))
        return self._features.gather(rows, views, frames)[TOKENS]

    def test(self, rows: Ints) -> list[Tensor | DecodeFailure]:
        """Return the tokens (T, L, W) of the first view of each video."""
        return list(self._features.gather(rows)[TOKENS])


@torch.inference_mode()
def write_features(
    tower: Tower, store: TokenStore, rows: Sequence[int], path: Path, *, micro_batch: int | None
) -> None:
    """Write what a tower makes of the stored tokens of `rows` as a store; one that was begun is finished.

    It has the recipe that encoding the videos with the tuned backbone would have, with the first view only, and keeps
    its numbers as coarsely as the tokens are kept.
    """
    was_training = tower.training
    tower.eval()
    taps, dtype = list(dict.fromkeys(tower.taps.values())), store.tokens_dtype
    weights = state_sha256(tower.whole.module.state_dict())
    recipe = {**store.recipe, "pretrained": "file", "weights_sha256": weights, "taps": taps, "dtype": dtype}
    if store.n_views > 1:
        recipe |= {"n_views": 1, "flip": False, "jitter": False}
    writer = create_store(
        path,
        videos=[store.videos[row] for row in rows],
        taps={tap: TapSpec(tuple(store.taps[tap].shape), dtype) for tap in taps},
        n_views=1,
        n_slots=store.n_slots,
        recipe=recipe,
    )
    with writer:
        while (chunk := writer.claim()) is not None:
            own = np.array([rows[place] for place in chunk.rows])
            writer.commit(chunk, _chunk_data(tower, store, own, chunk.rows, dtype, micro_batch))
        if not open_store(path, allow_unsealed=True).sealed:
            writer.seal()
    tower.train(was_training)


def _chunk_data(
    tower: Tower, store: TokenStore, rows: Ints, places: Sequence[int], dtype: str, micro_batch: int | None
) -> ChunkData:
    """Return the features of `rows`, which stand at `places` of the new store."""
    parts: dict[str, list[np.ndarray[Any, Any]]] = {tap: [] for tap in tower.taps.values()}
    device = next(tower.parameters()).device
    for row in rows:
        tokens = torch.from_numpy(store.read(store.tokens_tap, [int(row)])[0]).float().to(device)
        for role, features in embed_in_chunks(tower, torch.nan_to_num(tokens), micro_batch).items():
            parts[tower.taps[role]].append(features.float().cpu().numpy().astype(dtype))
    failed = [
        (place, *reason) for place, row in zip(places, rows, strict=True) if (reason := store.failure_of(int(row)))
    ]
    n_slots = len(rows), 1, store.n_slots
    return ChunkData(
        features={tap: np.stack(own)[:, None] for tap, own in parts.items()},
        frame_index=store.frame_index(rows)[:, :1].reshape(n_slots),
        frame_time=store.frame_time(rows)[:, :1].reshape(n_slots),
        status=store.status[rows],
        n_frames=store.n_frames[rows],
        source_sha256=store.source_sha256[rows],
        failures=failed,
    )
