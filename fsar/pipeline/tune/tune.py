"""Train a backbone on the base classes, from videos alone, and save its weights for `encode`.

The backbone sees single frames, so what a head can do with motion depends on whether its features move when the picture
does. A classifier on the *differences* of consecutive frame features is trained with it: to tell "left to right" from
"right to left" wherever it starts, position must become a direction in feature space. The classifier is thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.tune.clips import ClipSpec, ClipTable, clip_table
from fsar.pipeline.tune.state import TuneState, load_state, remove_state, save_state
from fsar.progress import progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fsar.pipeline.backbones import Backbone


@dataclass(frozen=True)
class TuneOptions:
    """What decides the tuned weights (on one kind of machine they are the same to the bit)."""

    backbone: str
    """Where to start: `random:timm/test_resnet`, `torchvision:resnet18/IMAGENET1K_V1`, …"""
    weights: Path | None = None
    """File of weights to start from instead of the backbone's own."""
    n_frames: int = 8
    size: int = 64
    """Pixels of the network input; clips are resized to a seventh more and cropped at random, as one piece."""
    resize: Literal["squash", "short-side"] = "short-side"
    """`short-side` keeps the shape of things and loses the margins of a wide picture; `squash` keeps the margins."""
    antialias: bool = True
    epochs: int = 8
    batch_size: int = 16
    """Clips a step."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    held_out: float = 0.1
    """Share of each class's videos kept out of training, to report how well the backbone learned."""
    seed: int = 0
    device: str = "cpu"
    precision: Literal["fp32", "amp-bf16"] = "fp32"
    """`amp-bf16` runs the forward under autocast: faster where the processor has it."""
    decoder: str = "pyav"


@dataclass(frozen=True)
class TuneReport:
    """What tuning did."""

    path: Path
    n_classes: int
    n_videos: int
    n_held_out: int
    held_out_accuracy: float
    """Share of held-out videos whose class is found; chance is 1 / n_classes. NaN when none were held out."""
    weights_sha256: str
    failures: list[dict[str, str]]


def tune(
    rows: Sequence[CatalogRow], out: Path, options: TuneOptions, *, n_jobs: int = 1, quiet: bool = False
) -> TuneReport:
    """Train the backbone to name the motion in `rows`' videos and write its weights to `out` (safetensors).

    Interrupted, it goes on from the last whole epoch when called again with the same arguments. Videos that fail to
    decode are left out and reported.

    Raises:
        InputError: fewer than two classes or too few videos, unknown backbone, no such device.
    """
    from fsar.device import resolve_device
    from fsar.files import sha256_file
    from fsar.pipeline.backbones import load_backbone, save_weights

    options = replace(options, device=str(resolve_device(options.device)))
    classes = sorted({row.class_name for row in rows})
    if len(classes) < 2:
        raise InputError(f"tuning needs at least 2 classes, the chosen part of the catalog has {len(classes)}")
    backbone = load_backbone(options.backbone, weights=options.weights, size=options.size)
    folder = out.with_name(out.name + ".tuning")
    pictures = ClipSpec(options.n_frames, resized(options.size), options.resize, options.antialias, options.decoder)
    clips = clip_table(rows, folder, pictures, n_jobs=n_jobs, quiet=quiet)
    labels = np.array([classes.index(name) for name in clips.class_names])
    trainer = _Trainer(backbone, clips, labels, len(classes), options)
    accuracy = trainer.run(folder, quiet=quiet)
    # One entry: safetensors writes several in a random order, and the same run must give the same bytes.
    settings = {**asdict(options), "weights": str(options.weights), "videos": len(clips), "device": ""}
    save_weights(out, trainer.module.state_dict(), metadata={"tuned": json.dumps(settings, sort_keys=True)})
    remove_state(folder)
    return TuneReport(
        out, len(classes), len(clips), len(trainer.held_out_rows), accuracy, sha256_file(out), clips.failures
    )


def resized(size: int) -> int:
    """Return the pixels before the crop to `size`: 256 for 224, as `encode` does by default."""
    return round(size * 256 / 224)


class _Trainer:
    """One tuning run: the backbone, the classifier on top, and the epochs."""

    def __init__(
        self, backbone: Backbone, clips: ClipTable, labels: np.ndarray, n_classes: int, options: TuneOptions
    ) -> None:
        import torch

        self.options, self.clips, self.labels = options, clips, labels
        self.train_rows, self.held_out_rows = _hold_out(labels, options.held_out)
        if len(self.train_rows) < options.batch_size:
            raise InputError(
                f"tuning needs at least one batch of {options.batch_size} videos, found {len(self.train_rows)}: "
                "lower --batch-size or give more videos"
            )
        # Convolutions run several times faster on channels-last memory.
        self.module: nn.Module = backbone.module.to(options.device).to(memory_format=torch.channels_last)
        self.module.requires_grad_(True)  # backbones come frozen
        self.classifier = motion_classifier(backbone.dim, options.n_frames, n_classes, options.seed).to(options.device)
        self.mean = torch.tensor(backbone.mean, device=options.device).view(3, 1, 1)
        self.std = torch.tensor(backbone.std, device=options.device).view(3, 1, 1)
        self.n_steps = len(self.train_rows) // options.batch_size
        self.optimizer = torch.optim.AdamW(
            [*self.module.parameters(), *self.classifier.parameters()],
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )

    def run(self, folder: Path, *, quiet: bool) -> float:
        """Train the epochs that are left; return the accuracy on the held-out videos (NaN without any)."""
        state = TuneState(self.module, self.classifier, self.optimizer)
        key = {**asdict(self.options), "weights": str(self.options.weights), "videos": self.clips.key}
        n_done = load_state(folder, state, key)
        with progress("tune", self.options.epochs, n_done=n_done, unit="epochs", quiet=quiet) as advance:
            for epoch in range(n_done, self.options.epochs):
                self._epoch(epoch)
                save_state(folder, state, key, epoch + 1)
                advance()
        self.module.eval()
        return self._accuracy()

    def _epoch(self, epoch: int) -> None:
        generator = np.random.default_rng([self.options.seed, epoch])
        order = generator.permutation(self.train_rows)
        self.module.train()
        self.classifier.train()
        for step in range(self.n_steps):
            rows = order[step * self.options.batch_size :][: self.options.batch_size]
            self._set_learning_rate(epoch * self.n_steps + step)
            self._step(rows, generator)

    def _step(self, rows: np.ndarray, generator: np.random.Generator) -> None:
        import torch
        import torch.nn.functional as F

        labels = torch.from_numpy(self.labels[rows]).to(self.options.device)
        loss = F.cross_entropy(self._logits(rows, lambda play: generator.integers(0, play + 1, 2)), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _set_learning_rate(self, step: int) -> None:
        share = (step + 1) / (self.options.epochs * self.n_steps)
        warm_up, cosine = min(share / 0.2, 1.0), 0.5 * (1 + np.cos(np.pi * max(share - 0.2, 0.0) / 0.8))
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * float(warm_up * cosine)

    def _logits(self, rows: np.ndarray, offsets: Callable[[int], Any]) -> Tensor:
        """Return (len(rows), classes); `offsets(play)` gives the top and left of every clip's crop in 0..play."""
        import torch

        size, play = self.options.size, resized(self.options.size) - self.options.size
        crops = []
        for row in rows:
            top, left = offsets(play)
            crops.append(self.clips.frames[row, :, top : top + size, left : left + size])
        pixels = torch.from_numpy(np.stack(crops)).to(self.options.device)  # (B, T, S, S, 3)
        pixels = pixels.flatten(0, 1).permute(0, 3, 1, 2).float() / 255  # (B*T, 3, S, S), channels last in memory
        pixels = (pixels - self.mean) / self.std
        device_type = torch.device(self.options.device).type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.options.precision == "amp-bf16"):
            features = self.module(pixels)
        return self.classifier(features.float().view(len(rows), self.options.n_frames, -1))

    def _accuracy(self) -> float:
        import torch

        self.classifier.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(self.held_out_rows), self.options.batch_size):
                rows = self.held_out_rows[start : start + self.options.batch_size]
                predicted = self._logits(rows, lambda play: (play // 2, play // 2)).argmax(1).cpu().numpy()
                found.append(predicted == self.labels[rows])
        return float(np.concatenate(found).mean()) if found else float("nan")


def motion_classifier(dim: int, n_frames: int, n_classes: int, seed: int) -> nn.Module:
    """Return the classifier: frame features (B, T, D) to logits (B, classes), through differences of neighbours.

    Features are standardised first (batch statistics, nothing learned), so that no channel can win by its scale.
    """
    import torch
    from torch import nn

    class Differences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.standardise = nn.BatchNorm1d(dim, affine=False)
            self.classify = nn.Linear((n_frames - 1) * dim, n_classes)

        def forward(self, features: Tensor) -> Tensor:
            features = self.standardise(features.flatten(0, 1)).unflatten(0, features.shape[:2])
            return self.classify(features.diff(dim=1).flatten(1))

    if n_frames < 2:
        raise InputError(f"tuning on motion needs at least 2 frames a video, got {n_frames}")
    classifier = Differences()
    generator = torch.Generator().manual_seed(seed)
    bound = ((n_frames - 1) * dim) ** -0.5
    with torch.no_grad():
        for parameter in classifier.classify.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return classifier


def _hold_out(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out rows: of each class the last `share` of its videos, rounded down."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rows[len(rows) - int(len(rows) * share) :]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
