"""The same numbers in every process."""

import os
import subprocess
import sys
from pathlib import Path

GRADIENTS = """
import hashlib, torch
from tests.heads.cases import CASES, make_batch, make_head, training_loss
torch.set_num_threads(1)
for name in sorted(CASES):
    head = make_head(name).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = training_loss(name, head, make_batch(name))
    values = [loss]
    if loss.requires_grad:
        wanted = [p for p in head.parameters() if p.requires_grad]
        values += [g for g in torch.autograd.grad(loss, wanted, allow_unused=True) if g is not None]
    joined = b"".join(value.detach().numpy().tobytes() for value in values)
    print(name, hashlib.sha256(joined).hexdigest())
"""


def test_gradients_are_the_same_to_the_bit_in_every_process() -> None:
    """The order of a set of strings is not: an interrupted training goes on in another process."""
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", GRADIENTS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1")
    ]
    one, other = (process.communicate()[0].splitlines() for process in processes)
    assert len(one) > 16
    assert one == other
