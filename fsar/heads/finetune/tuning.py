"""What decides how a backbone trains with a head, beyond the recipe of the head."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fsar.errors import InputError
from fsar.heads.finetune.tower import BatchNormMode


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the backbone trains. The defaults are the correct forms; `compat="official"` keeps published quirks."""

    trainable: str = "all"
    """all, none, last:N (transformer blocks or stages), norm (affine parameters of normalisations), lora:R, st-adapter,
    d2st-adapter."""
    adapters_projected: bool = True
    """Whether features of adapted CLIP models go through the last projection: D2ST-Adapter was published without."""
    backbone_rate: float = 1.0
    """Learning rate of the backbone as a share of the head's."""
    batch_norm: Literal["train", "eval", "eval-then-train"] = "train"
    """Statistics of batch norm: those of each call (as published), those of the weights, or first these, then those."""
    batch_norm_from: int = 0
    """Episode at which "eval-then-train" begins to train (CLIP-MEI: after its first validation)."""
    compat: Literal["fixed", "official"] = "fixed"
    """"official" decides weight decay by the parameter names of the official code (see `official_names`), and takes one
    episode less in the first step where the code does; "fixed" exempts all normalisations where a recipe exempts some.
    """
    short_first_step: bool = False
    """TRX, STRM and CLIP-MEI count episodes from one: with compat="official" their first step has one episode less."""
    processes: int = 1
    """Processes of the published run, which average their gradients: a step takes the episodes of all of them, and the
    schedule counts those of one."""
    divisor: float | None = None
    """What a loss is divided by in one process; None for the episodes of a step, or 1 where a recipe sums them."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InputError(f"processes must be at least 1, got {self.processes}")
        if self.backbone_rate < 0:
            raise InputError(f"the backbone's share of the learning rate must be at least 0, got {self.backbone_rate}")
        if self.divisor is not None and self.divisor <= 0:
            raise InputError(f"the divisor of the loss must be positive, got {self.divisor}")

    def batch_norm_at(self, episode: int) -> BatchNormMode:
        """Return the mode of batch norm for an episode of the training."""
        if self.batch_norm == "eval-then-train":
            return "train" if episode >= self.batch_norm_from else "eval"
        return self.batch_norm

    def episodes_of(self, step: int, episodes_per_step: int) -> range:
        """Return the numbers of the episodes of a step."""
        n = episodes_per_step * self.processes
        shift = 1 if self.short_first_step and self.compat == "official" and n > 1 else 0
        return range(max(step * n - shift, 0), (step + 1) * n - shift)

    def describe(self) -> Mapping[str, Any]:
        """Return the settings for a config file."""
        return asdict(self)
