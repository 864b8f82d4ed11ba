"""Learning-rate schedules, in episodes: a factor of the base rate as a function of how many episodes came before."""

import bisect
import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Schedule(Protocol):
    """Anything that gives the factor of the learning rate at an episode."""

    def factor(self, episode: int, n_episodes: int) -> float:
        """Return the factor at episode index `episode` of a training of `n_episodes`."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The base rate throughout."""

    def factor(self, episode: int, n_episodes: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Cosine:
    """A linear warm-up, then half a cosine down to `last`."""

    warmup: float = 0.05
    """Share of the episodes."""
    last: float = 0.01

    def factor(self, episode: int, n_episodes: int) -> float:
        """Return the factor; `last` after the end."""
        n_warmup = self.warmup * n_episodes
        if episode < n_warmup:
            return (episode + 1) / (n_warmup + 1)
        progress = min((episode - n_warmup) / max(n_episodes - n_warmup, 1), 1.0)
        return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class MultiStep:
    """A factor of `gamma` at each milestone."""

    milestones: tuple[int, ...]
    """Episodes, ascending."""
    gamma: float = 0.1

    def factor(self, episode: int, n_episodes: int) -> float:
        """Return gamma to the number of milestones passed."""
        return float(self.gamma ** bisect.bisect_right(self.milestones, episode))


@dataclass(frozen=True, slots=True)
class Steps:
    """A factor for each stretch of episodes, after a linear warm-up to the first."""

    starts: tuple[int, ...]
    """Episodes at which the next factor starts to hold; the first is 0."""
    factors: tuple[float, ...]
    start: float = 1.0
    """Factor at episode 0 of the warm-up."""
    warmup: int = 0
    """Episodes of it."""

    def factor(self, episode: int, n_episodes: int) -> float:
        """Return the factor; the last one holds for ever."""
        if episode < self.warmup:
            return self.start + (self.factors[0] - self.start) * episode / self.warmup
        return self.factors[bisect.bisect_right(self.starts, episode) - 1]


@dataclass(frozen=True, slots=True)
class DoubleClock:
    """The schedule of the CLIP-FSAR, MoLo and EMP-Net code base, whose pseudo-epoch counts every epoch twice.

    At episode i the pseudo-epoch is floor(i / period) + i / period: 0.5 at half a period, but 2.0 after one and 4.0
    after two. The steps therefore come at half the episodes that their numbers suggest; the published rates rely on it.
    """

    period: int
    """Episodes per pseudo-epoch."""
    steps: tuple[float, ...]
    """Pseudo-epochs at which the next factor starts to hold; the first is 0."""
    factors: tuple[float, ...]
    start: float
    """Factor at episode 0, from which the warm-up rises linearly."""
    warmup: float = 1.0
    """Pseudo-epochs."""

    def factor(self, episode: int, n_episodes: int) -> float:
        """Return the factor; the last one holds for ever."""
        clock = episode // self.period + episode / self.period
        if clock < self.warmup:
            return self.start + (self._stepped(self.warmup) - self.start) * clock / self.warmup
        return self._stepped(clock)

    def _stepped(self, clock: float) -> float:
        return self.factors[bisect.bisect_right(self.steps, clock) - 1]


KINDS = (Constant, Cosine, MultiStep, Steps, DoubleClock)
"""All of them, for recipes in files."""


def describe(schedule: Schedule) -> dict[str, Any]:
    """Return the schedule for a config file."""
    return {"kind": type(schedule).__name__, **asdict(schedule)}  # type: ignore[call-overload]
