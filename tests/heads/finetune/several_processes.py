"""One process of a training by several: `python -m tests.heads.finetune.several_processes CATALOG OUT DIES_AT`."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from fsar.heads.finetune.learner import FinetuneLearner
from fsar.heads.training.experiment import run
from tests.heads.finetune.videos import PRESET, prepared


def main(catalog: Path, out: Path, dies_at: int) -> None:
    """Train; with `dies_at` 0 or more, die in that step by kill -9. The state is saved after every step."""
    torch.set_num_threads(1)
    step = FinetuneLearner.step

    def dying(self, number, batch, monitor):
        if number == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, batch, monitor)

    FinetuneLearner.step = dying  # type: ignore[method-assign]
    experiment, trainer = prepared(catalog, preset=replace(PRESET, n_episodes=8))
    run(experiment, out, trainer=replace(trainer, save_every_seconds=0.0), quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
