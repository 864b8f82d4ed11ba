"""A head of one's own in a loop of one's own.

    python examples/own_head_own_loop.py ssv2.zarr --split ssv2-cmn

The head: a gate learns how much each frame counts, then queries go to the nearest class mean. It is registered, so that
`fsar.train_head("gated-mean", ...)` and the commands would know it, too, if its module were an entry point of group
`fsar.heads` (see CONTRIBUTING.md). The loop is plain PyTorch; only the step is `fsar.train_step`.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fsar
from fsar.heads import EpisodeBatch, Features, TableHead
from fsar.heads.episodes.sampler import EpisodeSampler, EpisodeShape
from fsar.heads.setup.task import make_task


@fsar.register_head("gated-mean")
class GatedMean(TableHead):
    """Average frames by learned weights; score queries by their cosine to the class means."""

    def __init__(self, *, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        self.gate, self.scale = nn.Linear(dim, 1), scale

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return one vector (..., D) for each video, whatever episode it is in."""
        frames = features["frames"]  # (..., T, D)
        return {"video": (self.gate(frames).softmax(-2) * frames).sum(-2)}

    def match(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Return logits (B, Q, N) from embedded supports and queries."""
        member = F.one_hot(episodes.support_labels, episodes.n_way).to(episodes.support["video"].dtype)  # (B, S, N)
        total = member.transpose(1, 2) @ episodes.support["video"]  # the length of a sum does not matter to a cosine
        query, classes = (F.normalize(x, dim=-1) for x in (episodes.query["video"], total))
        return {"logits": self.scale * query @ classes.transpose(1, 2)}


def main() -> None:
    """Train on the train part, then test on the test part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--split", help="without it the parts recorded in the store")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=10_000)
    arguments = parser.parse_args()

    store = fsar.open_store(arguments.store)
    task = make_task("gated-mean", store, split=arguments.split)
    pool = task.parts.pool("train")
    sampler = EpisodeSampler(pool, EpisodeShape(n_way=5, n_shot=1, n_query=2), seed=0)
    data = task.episode_data(task.source(pool.rows), pool, visits_seed=0)
    head = fsar.create_head("gated-mean", **task.head_options({}, pool))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    for step in range(arguments.steps):
        batch, targets = data.batch(sampler.draw(4 * step, 4))  # 4 episodes; their numbers decide what is drawn
        loss = fsar.train_step(head, batch, targets, optimizer, clip_norm=1.0)
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")
    result = fsar.evaluate(head, store, split=arguments.split, way=5, shot=1, episodes=arguments.episodes)
    print(result.table())


if __name__ == "__main__":
    main()
