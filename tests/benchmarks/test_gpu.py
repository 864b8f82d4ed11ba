"""The benchmark of a GPU, on the CPU and with sizes that show its logic and no speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def test_one_table_is_measured(tmp_path):
    ended = run("--device", "cpu", "--tiny", "--only", "The device", "--json", tmp_path / "one.json")
    assert ended.returncode == 0, ended.stderr
    tables = json.loads((tmp_path / "one.json").read_text())
    assert list(tables) == ["device", "torch", "The device against the CPU"]
    assert {"otam", "trx", "hyrsm", "tsn"} <= {row["head"] for row in tables["The device against the CPU"]}
    assert all(row["same answers"] == 1 for row in tables["The device against the CPU"])


@pytest.mark.slow
def test_every_table_is_measured(tmp_path):
    ended = run("--device", "cpu", "--tiny", "--json", tmp_path / "all.json")
    assert ended.returncode == 0, ended.stderr
    tables = json.loads((tmp_path / "all.json").read_text())
    assert tables.pop("device") == "CPU"
    assert tables.pop("torch") == torch.__version__
    assert list(tables) == [
        "The device against the CPU",
        "Arithmetic of features",
        "Alignment",
        "Encoding",
        "A training step",
        "Heads against their plain statements",
        "A step of fine-tuning",
    ]
    assert {"otam", "trx", "hyrsm", "tsn"} <= {row["head"] for row in tables["The device against the CPU"]}
    assert all(row["same answers"] == 1 for row in tables["The device against the CPU"])
    assert all(value > 0 for row in tables["Encoding"] for name, value in row.items() if name.startswith("clips/s"))
    assert all(row["operations"] > 0 for row in tables["A training step"])
    for title in tables:
        assert f"### {title}\n" in ended.stdout


def test_a_table_that_fails_costs_no_other(tmp_path):
    lines = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import gpu",
        "def broken(*arguments): raise RuntimeError('no such kernel')",
        "gpu.parity = broken",
        "gpu.main()",
    )
    options = ("--device", "cpu", "--tiny", "--only", "The device|Al|Arith", "--json", str(tmp_path / "some.json"))
    command = [sys.executable, "-c", "\n".join(lines), str(SCRIPT.parent), *options]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "no such kernel" in ended.stderr
    assert ended.stderr.endswith("not measured: The device against the CPU\n")
    tables = json.loads((tmp_path / "some.json").read_text())
    assert tables["The device against the CPU"] == "failed: no such kernel"
    by_form = {(row["matrices"], row["form"]): row for row in tables["Alignment"]}
    assert {form for _, form in by_form} == {"small steps", "logarithms"}  # a CPU has no kernel
    assert all(row["error"] < 1e-5 and row["operations"] > 0 for row in tables["Alignment"])
    assert by_form[10, "logarithms"]["operations"] > 3 * by_form[10, "small steps"]["operations"]
    by_precision = {row["precision"]: row for row in tables["Arithmetic of features"]}
    assert set(by_precision) == {"fp32", "amp-bf16"}  # nor TF32
    assert by_precision["fp32"]["relative difference"] == 0
    assert 0 < by_precision["amp-bf16"]["relative difference"] < 0.05


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so():
    ended = run()
    assert ended.returncode == 2
    assert "this machine has no CUDA device; --device cpu --tiny shows the logic" in ended.stderr
