"""The programs in examples/ run as their readers run them, and stay short."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import environment
from tests.heads.stores import ordered_store

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ordered_store(tmp_path_factory.mktemp("store") / "s.zarr").path


def run(name: str, folder: Path, *arguments: object) -> str:
    line = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    ended = subprocess.run(line, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_store_to_a_number(store, tmp_path):
    out = run("store_to_number.py", tmp_path, store, "--head", "tsn", "--steps", 2, "--shots", 1, 3, "--episodes", 20)
    assert len(re.findall(r"^5-way [13]-shot, mean of 3 seeds: \d+\.\d\d% ± \d+\.\d\d%$", out, flags=re.M)) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_a_head_of_ones_own_in_a_loop_of_ones_own(store, tmp_path):
    out = run("own_head_own_loop.py", tmp_path, store, "--steps", 101, "--episodes", 200)
    assert len(re.findall(r"^step \d+: loss \d+\.\d+$", out, flags=re.M)) == 2
    accuracy = float(re.search(r"gated-mean\s+5\s+1\s+(\d+\.\d+)", out)[1])
    assert accuracy > 40  # a mean over frames cannot tell the two classes of a pair apart


def test_a_store_read_by_plain_pytorch(store, tmp_path):
    out = run("plain_pytorch.py", tmp_path, store, "--epochs", 20)
    losses = [float(loss) for loss in re.findall(r"^epoch \d+: loss (\d+\.\d+)$", out, flags=re.M)]
    assert len(losses) == 20
    assert losses[-1] < 0.8 * losses[0]
    assert re.search(r"\d+ of 12$", out.strip())


def test_the_notebook_runs_from_videos_to_an_answer(tmp_path):
    execute = Path(sys.executable).with_name("jupyter-execute")
    if not execute.exists():
        pytest.skip("no jupyter-execute beside this Python (packages nbclient and ipykernel)")
    shutil.copy(EXAMPLES / "quickstart.ipynb", tmp_path)
    line = [str(execute), "--output", "done", "quickstart.ipynb"]
    ended = subprocess.run(line, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    printed = ["".join("".join(o.get("text", "")) for o in cell.get("outputs", [])) for cell in cells]
    assert re.search(r"^otam +2 +1 +\d+\.\d\d ", "\n".join(printed), flags=re.M)
    assert re.search(r"^decided by the seconds \(\d", printed[-1], flags=re.M)
    assert not any(cell.get("outputs") for cell in json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_each_is_run(path):
    assert len(path.read_text().splitlines()) < 80
    assert f'"{path.name}"' in Path(__file__).read_text()
