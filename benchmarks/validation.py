"""What stopping hopeless validations early would save: trainings on the features of `make demo`, replayed.

    python benchmarks/validation.py [--demo DIR] [--only NAME]

Every validation of a run has the same episodes, so accuracies are paired. The replay stops one as soon as the best so
far leads by more than z standard errors of the paired differences, looked at every 10 episodes from the 20th on; what
may become the best is measured whole. Printed is the share of episodes that are left out, the same where a validation
stops only when no answer to what is left could win, and whether the run ends as it did: at the same step, by the same
patience, with the same weights.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fsar.heads.evaluation.evaluate import Evaluation, evaluate
from fsar.heads.training import experiment
from fsar.heads.training.settings import TrainSettings
from fsar.heads.training.train_head import train_head

Floats = NDArray[np.float64]
Rule = Callable[[Floats, Floats, int], bool]

HEADS: dict[str, dict[str, Any]] = {
    "otam": {"store": "tuned.zarr", "options": {"adapter": "temporal"}, "steps": 400},
    "trx": {"store": "tuned.zarr", "options": {"out_dim": 64}, "steps": 200},
    "hyrsm": {"store": "tuned.zarr", "steps": 120},
    "chamfer": {"store": "tuned.zarr", "options": {"out_dim": 32}, "steps": 100},
    "strm": {"store": "tuned.zarr", "steps": 60},
    "clip-fsar": {"store": "clip.zarr", "text": "text", "steps": 200, "episodes_per_step": 2},
}
RATES = {"3e-5": 0, "1e-4": 0, "1e-3": 0, "3e-3": 1}
"""Learning rate -> seed. Small ones give late peaks, large ones early."""
N_VALIDATIONS, N_EPISODES, PATIENCE = 20, 200, 10
LEAST, EVERY = 20, 10
Z = (2.5, 3.0, 4.0)


@dataclass(frozen=True)
class End:
    """How a run of validations ends."""

    best: int
    last: int
    used: float
    """Share of the episodes of its validations."""


def main() -> None:
    """Print a line for each run, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of `make demo`")
    parser.add_argument("--only", default="", help="this head alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | best at | share of the time | " + " | ".join(f"z = {z:g}" for z in Z) + " | certain | same end |")
    print("|---" * (5 + len(Z)) + "|")
    found = [line for head in HEADS if options.only in head for line in lines(options.demo, head)]
    print("| mean | | | " + " | ".join(f"{mean:.0%}" for mean in np.mean(found, 0)) + " | |")


def lines(demo: Path, head: str) -> Iterator[list[float]]:
    """Print the lines of a head; yield the shares of episodes that are left out."""
    for rate, seed in RATES.items():
        accuracies, share = recorded(demo, head, float(rate), seed)
        whole = replayed(accuracies, never)
        ends = [replayed(accuracies, rule) for rule in (*map(racing, Z), certain)]
        saved = [1 - end.used for end in ends]
        same = all((end.best, end.last) == (whole.best, whole.last) for end in ends)
        cells = " | ".join(f"{each:.0%}" for each in saved)
        print(f"| {head} {rate} | {whole.best + 1} of {whole.last + 1} | {share:.0%} | {cells} | {same} |", flush=True)
        yield saved


def recorded(demo: Path, head: str, rate: float, seed: int) -> tuple[Floats, float]:
    """Return the accuracies (validations, episodes) of a training, and what validating took of its time."""
    found, seconds = list[Floats](), list[float]()

    def recording(*arguments: Any, **options: Any) -> Evaluation:
        begin = time.process_time()
        result = evaluate(*arguments, **options)
        seconds.append(time.process_time() - begin)
        found.append(result.accuracies)
        return result

    experiment.evaluate, out = recording, Path(tempfile.mkdtemp(prefix="fsar-bench-"))  # type: ignore[attr-defined]
    begin = time.process_time()
    try:
        train_head(settings(demo, head, lr=rate, seed=seed, out=out / "run"))
    finally:
        experiment.evaluate = evaluate  # type: ignore[attr-defined]
        shutil.rmtree(out)
    return np.stack(found), sum(seconds) / (time.process_time() - begin)


def settings(demo: Path, head: str, **more: Any) -> TrainSettings:
    """Return the settings of a training that validates to its end."""
    own = HEADS[head] | {"store": demo / HEADS[head]["store"]}
    rhythm = {"validate_every": own["steps"] // N_VALIDATIONS, "val_episodes": N_EPISODES, "patience": 0}
    return TrainSettings(head=head, test=False, quiet=True, **rhythm, **own, **more)


def replayed(accuracies: Floats, hopeless: Rule) -> End:
    """Return how a run with patience ends whose validations stop where they are hopeless."""
    n_episodes = accuracies.shape[1]
    best, last, used = 0, 0, n_episodes
    for last in range(1, len(accuracies)):
        looks = range(LEAST, n_episodes, EVERY)
        n = next((n for n in looks if hopeless(accuracies[best], accuracies[last], n)), n_episodes)
        used += n
        if n == n_episodes and accuracies[last].mean() > accuracies[best].mean():
            best = last
        if last - best >= PATIENCE:
            break
    return End(best, last, used / ((last + 1) * n_episodes))


def never(best: Floats, own: Floats, n: int) -> bool:
    """Go on to the end, as trainings do."""
    return False


def certain(best: Floats, own: Floats, n: int) -> bool:
    """Stop after n episodes if no answer to the others could win."""
    return bool(own[:n].sum() + len(own) - n < best.sum())


def racing(z: float) -> Rule:
    """Return the rule that stops at a lead of z paired standard errors."""

    def behind(best: Floats, own: Floats, n: int) -> bool:
        lead = best[:n] - own[:n]
        return bool(lead.mean() > z * lead.std(ddof=1) / np.sqrt(n))

    return behind


if __name__ == "__main__":
    main()
