"""Training large backbones in little memory: two passes over chunks of frames, and checkpointed blocks."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsar.errors import InputError
from fsar.heads.batch import Features
from fsar.heads.finetune.tower import Tower, batch_norms


def precision_note(autocast: torch.dtype | None, device: str) -> str | None:
    """Return what somebody who fine-tunes on a GPU in float32 should hear; None on other devices and in autocast."""
    if autocast is not None or torch.device(device).type != "cuda":
        return None
    return f"precision fp32 on {device}; --precision bf16 takes less time and memory there, and changes the numbers"


class TwoPass:
    """Embeds frames in chunks without a graph and, once the head has given the gradients, again with one.

    The features are leaves of the head's graph. `finish` computes them a second time, chunk by chunk, and sends the
    head's gradients through: the result is that of one large graph up to the order of sums, and the memory that of one
    chunk. The last chunk keeps its graph and is computed once. It needs features that depend on their own frame alone:
    then chunks need not end where a call of the backbone would, and supports and queries share one.
    """

    def __init__(self, tower: Tower, n_frames: int) -> None:
        """Prepare for one task.

        Args:
            tower: Gives the features.
            n_frames: Frames of a chunk; a tower that sees clips gets at least one whole clip.

        Raises:
            InputError: the features of a frame depend on the others of its call, or on chance.
        """
        if tower.couples_frames:
            raise InputError(
                "--micro-batch cuts a call of the backbone into chunks, and in this one the features of a frame depend "
                "on the frames beside it (batch norm in training mode) or on chance (dropout): use --batch-norm eval, "
                "or --checkpoint-blocks, which keeps the calls whole"
            )
        self._tower, self._n_inputs = tower, max(1, n_frames // tower.frames_per_input)
        self._chunks: list[list[Tensor]] = []
        self._leaves: Features = {}
        self._last: Features = {}
        """The last chunk, with its graph."""

    def __call__(self, calls: Sequence[Tensor]) -> list[Features]:
        """Return features role -> (..., *shape) of each of several (..., 3, H, W), cut off from the tower."""
        dims = self._tower.input_dims
        flat = [frames.flatten(0, -dims - 1) for frames in calls]
        self._chunks = list(_chunks(flat, self._n_inputs))
        with torch.no_grad():
            parts = [self._tower(_joined(chunk)) for chunk in self._chunks[:-1]]
        self._last = self._tower(_joined(self._chunks[-1]))
        trains = not self._tower.is_frozen
        self._leaves = {
            role: torch.cat([part[role].detach() for part in (*parts, self._last)]).requires_grad_(trains)
            for role in self._last
        }
        split = {role: torch.split(leaf, [len(frames) for frames in flat]) for role, leaf in self._leaves.items()}
        return [
            {role: rows[i].view(*frames.shape[:-dims], *rows[i].shape[1:]) for role, rows in split.items()}
            for i, frames in enumerate(calls)
        ]

    def finish(self, precision: AbstractContextManager[object] | None = None) -> None:
        """Send the gradients that the features have received into the tower; `precision` is that of the first pass."""
        grads = {role: leaf.grad for role, leaf in self._leaves.items() if leaf.grad is not None}
        end = sum(len(piece) for chunk in self._chunks for piece in chunk)
        while grads and self._chunks:
            chunk = self._chunks.pop()
            start = end - sum(map(len, chunk))
            features, self._last = self._last, {}
            if not features:
                with precision or nullcontext():
                    features = self._tower(_joined(chunk))
            torch.autograd.backward([features[role] for role in grads], [grad[start:end] for grad in grads.values()])
            end = start


def _chunks(calls: Sequence[Tensor], n_inputs: int) -> Iterator[list[Tensor]]:
    """Yield the inputs of all calls in chunks, each as views of one call or more.

    What is left over comes first, as the last chunk is computed once only.
    """
    n = sum(map(len, calls))
    ends = range(n % n_inputs or n_inputs, n + 1, n_inputs)
    for end in ends:
        start, offset, chunk = max(end - n_inputs, 0), 0, []
        for call in calls:
            chunk.append(call[max(start - offset, 0) : max(end - offset, 0)])
            offset += len(call)
        yield [piece for piece in chunk if len(piece)]


def _joined(chunk: Sequence[Tensor]) -> Tensor:
    return chunk[0] if len(chunk) == 1 else torch.cat(list(chunk))


class LossScale(nn.Module):
    """The factor that keeps small float16 gradients from vanishing: halved after an overflow, doubled after a while.

    A step whose gradients overflowed changes no weight. The factor is part of the model's state, so that a training
    that goes on has it; nothing in here waits for the device.
    """

    scale: Tensor
    n_whole: Tensor

    def __init__(self, start: float = 2.0**16, *, double_after: int = 2000) -> None:
        super().__init__()
        self.double_after = double_after
        self.register_buffer("scale", torch.tensor(start))
        self.register_buffer("n_whole", torch.tensor(0))

    def unscale(self, parameters: Iterable[Tensor]) -> Tensor:
        """Divide the gradients by the factor; return whether one of them overflowed, 0.0 or 1.0."""
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(grads, 1 / self.scale)
        return (~torch.isfinite(torch.nn.utils.get_total_norm(grads))).float()

    def update(self, overflowed: Tensor) -> None:
        """Set the factor for the next step."""
        self.n_whole.copy_(torch.where(overflowed > 0, 0, self.n_whole + 1))
        grows = self.n_whole >= self.double_after
        self.n_whole.copy_(torch.where(grows, 0, self.n_whole))
        factor = torch.where(overflowed > 0, 0.5, torch.where(grows, 2.0, 1.0))
        self.scale.mul_(factor)


def checkpoint_blocks(tower: Tower) -> None:
    """Keep only the inputs of the blocks of a tower in training and compute the rest again in the backward pass.

    Gradients are the same to the bit. Running statistics move once: the second forward works on copies of them.

    Raises:
        InputError: the backbone has no blocks that are known here.
    """
    blocks = _blocks(tower.module)
    if not blocks:
        raise InputError(f"{tower.backbone.name} has no blocks that are known here: leave --checkpoint-blocks out")
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Return the residual or transformer blocks of a backbone: the children of its stages, none inside another."""
    lists = [child for child in module.modules() if isinstance(child, (nn.Sequential, nn.ModuleList))]
    stages = [stage for stage in lists if len(stage) and all(_is_block(child) for child in stage)]
    return [block for stage in stages for block in stage]


def _is_block(module: nn.Module) -> bool:
    name = type(module).__name__
    return "Block" in name or name in ("Bottleneck", "InvertedResidual", "DepthwiseSeparableConv", "ConvBnAct")


def _checkpointed(block: nn.Module, forward: Any, *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), _still_statistics(block)


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """Give the batch norms of a block copies of their buffers for a while.

    They are exchanged and not copied back: writing to buffers that a graph holds would make its backward fail.
    """
    kept = [(norm, dict(norm._buffers)) for norm in batch_norms(block)]
    for norm, buffers in kept:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
