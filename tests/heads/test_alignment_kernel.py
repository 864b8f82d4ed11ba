"""The Triton kernels of alignment: their numbers in Triton's interpreter, and that they compile, both without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fsar.heads.layers import alignment, functional
from fsar.heads.layers.functional import soft_alignment, two_way_alignment
from tests.conftest import GOLDENS

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
TYPES = ("float64", "bfloat16", "float16")


@pytest.fixture(scope="module")
def interpreted() -> dict:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.heads.interpreted_alignment"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@needs_triton
def test_costs_and_gradients_are_within_the_promised_error(interpreted):
    beyond = {case: error for case, error in interpreted["errors"].items() if not error <= 1}
    assert beyond == {}
    assert len(interpreted["errors"]) > 15


@needs_triton
def test_distances_that_are_no_numbers_do_what_they_do_elsewhere(interpreted):
    assert [case for case, holds in interpreted["edges"].items() if not holds] == []


@needs_triton
@pytest.mark.skipif(not (GOLDENS / "otam").is_dir(), reason=f"no parity vectors at {GOLDENS} (set FSAR_GOLDENS)")
def test_heads_reproduce_official_numbers_through_the_kernel(interpreted):
    assert {name.partition("/")[0] for name in interpreted["official"]} == {"otam", "clip_mei"}


class PretendedDriver:
    """What Triton asks of a GPU before it launches; none is there."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        return 1000 + self.capability  # kernels are kept by device: no real one shall get these

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in TYPES)])
def test_what_is_launched_on_a_gpu_compiles_to_machine_code(capability, dtype, tmp_path, monkeypatch):
    from triton.runtime.driver import driver

    from fsar.heads.layers.alignment_kernel import FusedAlignment, cost_kernel, gradient_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", PretendedDriver(capability))
    made = []
    for kernel in (cost_kernel, gradient_kernel):

        def compile_only(*arguments, launch=kernel.run, **options):
            made.append(launch(*arguments, **options | {"warmup": True}))

        monkeypatch.setattr(kernel, "run", compile_only)
    distance = torch.rand(3, 8, 8).to(getattr(torch, dtype)).requires_grad_()
    FusedAlignment.apply(distance, 0.1, True).sum().backward()
    FusedAlignment.apply(distance.detach(), 0.1)
    assert [kernel.name for kernel in made] == ["cost_kernel", "gradient_kernel", "cost_kernel"]
    assert all(f".target sm_{capability}" in kernel.asm["ptx"] for kernel in made)
    assert all(kernel.asm["cubin"][:4] == b"\x7fELF" for kernel in made)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (7, 4, 6), (2, 32, 32), (2, 40, 40)])
def test_the_device_computes_what_the_cpu_does(shape):
    distance = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    results = []
    for device in ("cpu", "cuda"):
        x = distance.to(device).requires_grad_()
        cost = two_way_alignment(x, 0.1)
        cost.square().sum().backward()
        results.append((cost.detach().cpu(), x.grad.cpu()))
    (cost, gradient), (found, found_gradient) = results
    torch.testing.assert_close(found, cost, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_only_matrices_on_a_gpu_take_the_kernel(monkeypatch):
    asked = []
    monkeypatch.setattr(alignment, "_kernel_of", asked.append)
    assert alignment.fused_alignment(torch.zeros(2, 8, 8)) is None
    assert asked == []


def test_square_matrices_are_aligned_both_ways_at_once_and_others_one_by_one(monkeypatch):
    calls = []

    class Recorded(alignment.ProductAlignment):
        @staticmethod
        def apply(distance, smoothing, both_ways=False):
            calls.append((tuple(distance.shape), both_ways))
            return alignment.ProductAlignment.apply(distance, smoothing, both_ways)

    square, oblong = torch.rand(2, 4, 4), torch.rand(2, 4, 6)
    expected = [two_way_alignment(square, 0.1), two_way_alignment(oblong, 0.1), soft_alignment(square, 0.1)]
    monkeypatch.setattr(functional, "fused_alignment", lambda distance: Recorded)
    monkeypatch.setattr(functional, "fits_products", None)  # nobody looks at the distances
    found = [two_way_alignment(square, 0.1), two_way_alignment(oblong, 0.1), soft_alignment(square, 0.1)]
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert calls == [((2, 4, 4), True), ((2, 4, 6), False), ((2, 6, 4), False), ((2, 4, 4), False)]


def test_a_kernel_that_gives_other_numbers_is_not_used(monkeypatch):
    class Doubled(alignment.ProductAlignment):
        @staticmethod
        def apply(*arguments):
            return 2 * alignment.ProductAlignment.apply(*arguments)

    with torch.inference_mode():
        assert alignment.agrees(alignment.ProductAlignment, torch.device("cpu"))
        assert not alignment.agrees(Doubled, torch.device("cpu"))


def test_a_machine_where_triton_cannot_be_used_says_so_once(monkeypatch, capsys):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    alignment._kernel_of.cache_clear()
    try:
        assert alignment._kernel_of(torch.device("cuda:7")) is None
        assert alignment._kernel_of(torch.device("cuda:7")) is None
    finally:
        alignment._kernel_of.cache_clear()
    assert capsys.readouterr().err.count("note: alignment takes many small steps on cuda:7") == 1
