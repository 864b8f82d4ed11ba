"""A store read by plain PyTorch: a Dataset, a DataLoader, a linear classifier of the training classes.

    python examples/plain_pytorch.py ssv2.zarr

Nothing of fsar's heads or loop is used. A store is opened once; worker processes share its memory maps.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split

import fsar
from fsar.heads import seeded
from fsar.pipeline.store import STATUS_OK, FeatureStore


class FeatureDataset(Dataset[tuple[Tensor, int]]):
    """The usable videos of one part as (features (T, D), class number)."""

    def __init__(self, store: FeatureStore, tap: str, part: str) -> None:
        videos = [(row, video) for row, video in enumerate(store.videos) if video.part == part]
        usable = [(row, video) for row, video in videos if store.status[row] == STATUS_OK]
        self.store, self.tap = store, tap
        self.class_names = sorted({video.class_name for _, video in usable})
        self.rows = np.array([row for row, _ in usable])
        self.labels = [self.class_names.index(video.class_name) for _, video in usable]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return a whole batch at once, as DataLoader asks for it: one read instead of one per video."""
        features = torch.from_numpy(self.store.read(self.tap, self.rows[indices], views=0).astype(np.float32))
        return [(video, self.labels[index]) for video, index in zip(features, indices, strict=True)]


def main() -> None:
    """Train the classifier, print how many held-out training videos it classifies correctly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--tap", default="pooled")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    dataset = FeatureDataset(fsar.open_store(arguments.store), arguments.tap, "train")
    generator = torch.Generator().manual_seed(0)
    train, held_out = random_split(dataset, [0.9, 0.1], generator)
    loader = DataLoader(train, 64, shuffle=True, num_workers=arguments.workers, generator=generator)
    width = dataset[0][0].shape[-1]
    with seeded(0):  # the same first weights in every run
        model = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(dataset.class_names)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(arguments.epochs):
        for frames, labels in loader:
            loss = nn.functional.cross_entropy(model(frames.mean(1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss:.3f}")
    frames, labels = next(iter(DataLoader(held_out, len(held_out))))
    with torch.no_grad():
        n_right = int((model(frames.mean(1)).argmax(-1) == labels).sum())
    print(f"held-out videos classified correctly: {n_right} of {len(held_out)}")


if __name__ == "__main__":
    main()
