"""One optimiser step, for the loop of this package and for loops of one's own. Nothing in it waits for the device."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from fsar.heads.batch import EpisodeBatch, PairBatch, Targets
from fsar.heads.head import Head, Losses


@dataclass(frozen=True, slots=True)
class BrokenStep:
    """The first step whose loss or gradient was not finite."""

    step: int
    """Counted from the monitor's first step, which is 0."""
    loss: float
    gradient_norm: float


class StepMonitor:
    """What steps report, kept on the device until somebody reads it: loss terms, accuracy, and whether a step broke.

    A step is broken if its loss or its gradient is not finite. From then on optimisers made with `fused=True` change
    nothing, so that the weights are still those before the broken step when it is found out.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.broken = torch.zeros((), device=device)
        """1.0 once a step was broken, on the device: what torch's fused optimisers take as `found_inf`."""
        self.gradient_norm = torch.zeros((), device=device)
        """Of the latest step, before it was clipped."""
        self._n_whole = torch.zeros((), dtype=torch.int64, device=device)
        self._first = torch.zeros(2, device=device)
        self._latest: dict[str, Tensor] = {}

    def record(self, losses: Losses, accuracy: Tensor | None, gradient_norm: Tensor) -> None:
        """Take down one step."""
        self.gradient_norm = gradient_norm
        numbers = torch.stack((losses["total"].detach().float(), gradient_norm.float()))
        is_broken = ~torch.isfinite(numbers).all()
        self._first = torch.where(is_broken & (self.broken == 0), numbers, self._first)
        self.broken = torch.maximum(self.broken, is_broken.float())
        self._n_whole += self.broken == 0
        self._latest = {f"loss/{name}": value.detach() for name, value in losses.items()}
        if accuracy is not None:
            self._latest["train/accuracy"] = accuracy

    def latest(self) -> dict[str, float]:
        """Return the loss terms ("loss/total", ...) and "train/accuracy" of the latest step; waits for the device."""
        if not self._latest:
            return {}
        numbers = torch.stack([value.double() for value in self._latest.values()]).tolist()
        return dict(zip(self._latest, numbers, strict=True))

    def broken_step(self) -> BrokenStep | None:
        """Return the first broken step, None if all were whole; waits for the device."""
        if not bool(self.broken):
            return None
        loss, norm = self._first.tolist()
        return BrokenStep(int(self._n_whole), loss, norm)


def train_step(
    head: Head,
    batch: EpisodeBatch | PairBatch,
    targets: Targets | None,
    optimizer: Optimizer,
    *,
    clip_norm: float | None = None,
    gradient_scale: float = 1.0,
    amp: bool = False,
    monitor: StepMonitor | None = None,
) -> Tensor:
    """Train `head` on one batch and return its loss before the step, a scalar on the device of the head.

    Args:
        head: In training mode or not; it is in training mode afterwards.
        batch: On the device of the head.
        targets: What the loss may know beyond the batch; None for pairs, which carry their classes.
        optimizer: Over the parameters to train.
        clip_norm: Largest norm of the gradient of all these parameters together; None for no limit.
        gradient_scale: Factor of the gradient before it is clipped. Losses are means over the episodes of a batch: the
            number of episodes makes sums of them, as some published recipes want.
        amp: Compute in bfloat16 where torch deems it safe.
        monitor: Takes down loss terms, accuracy and whether anything was not finite.

    Raises:
        InputError: a head that trains on the other kind of batch.
    """
    head.train()
    optimizer.zero_grad(set_to_none=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with autocast(parameters[0].device, amp):
        losses, accuracy = training_losses(head, batch, targets)
    total = losses["total"].float()
    (total * gradient_scale).backward()  # type: ignore[no-untyped-call]
    norm = clip_gradients(parameters, clip_norm)
    if monitor is not None:
        monitor.record(losses, accuracy, norm)
    update_weights(optimizer, monitor)
    return total.detach()


def training_losses(
    head: Head, batch: EpisodeBatch | PairBatch, targets: Targets | None
) -> tuple[Losses, Tensor | None]:
    """Return the loss terms and, of a batch of episodes, the fraction of queries classified correctly, a scalar."""
    if isinstance(batch, PairBatch):
        return head.pair_loss(batch), None
    if targets is None:
        raise ValueError("a batch of episodes needs its targets")
    outputs = head.outputs(batch)
    right: Tensor = outputs["logits"].detach().argmax(-1) == targets.query_labels
    return head.loss(batch, outputs, targets), right.float().mean()


def clip_gradients(parameters: list[Tensor], largest: float | None) -> Tensor:
    """Return the norm of the gradient of all parameters together, after limiting it if a limit is given."""
    if largest is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, largest)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def autocast(device: str | torch.device, amp: bool) -> AbstractContextManager[object]:
    """Return the context in which a step computes."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if amp else nullcontext()


def update_weights(optimizer: Optimizer, monitor: StepMonitor | None, overflowed: Tensor | None = None) -> None:
    """Let the optimiser step, but not where the monitor saw a broken step or the gradients `overflowed`.

    A fused optimiser looks at the flag on the device, as it does for GradScaler.
    """
    flags = [flag for flag in (monitor.broken if monitor else None, overflowed) if flag is not None]
    if not flags or not optimizer.defaults.get("fused"):
        optimizer.step()
        return
    optimizer.found_inf = torch.stack(flags).amax()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
