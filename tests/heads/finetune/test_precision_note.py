"""What is said of float32 on a GPU before a training from frames begins."""

import pytest
import torch

from fsar.heads.finetune.memory import precision_note


@pytest.mark.parametrize(
    ("autocast", "device", "is_said"),
    [(None, "cuda:0", True), (None, "cpu", False), (torch.bfloat16, "cuda", False), (torch.float16, "cuda:1", False)],
)
def test_only_float32_on_a_gpu_is_worth_a_word(autocast, device, is_said):
    note = precision_note(autocast, device)
    assert (note is not None) == is_said
    if note:
        assert note.startswith(f"precision fp32 on {device}; --precision bf16")
