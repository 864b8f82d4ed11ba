"""docs/store.md: its snippets run as they stand, and the names in it are those on the disk."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fsar.pipeline.store import open_store
from fsar.pipeline.store.format.schema import FORMAT_VERSION
from tests.pipeline.store.samples import write_sample

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "store.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for suffix in (".zarr", ".h5"):
        write_sample(tmp_path / f"ssv2{suffix}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_snippets_read_a_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python"):
        exec(compile(block, "store.md", "exec"), {})
    recipe = open_store(folder / "ssv2.zarr").recipe_id
    assert capsys.readouterr().out == f"(9, 2, 4, 6) {recipe}\n" * 2 + "v000 class 0\n"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_a_store_can_be_checked_by_hand(folder: Path) -> None:
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)

    def check(block: str) -> "subprocess.CompletedProcess[str]":
        command = f'PATH="{python.parent}:$PATH"\n{block}'
        return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)

    damaged = (folder / "ssv2.zarr/status/c.0", folder / "ssv2.h5")
    for block, file in zip(blocks("sh"), damaged, strict=True):
        done = check(block)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        assert check(block).returncode != 0


def test_the_page_names_every_file_array_and_the_format(folder: Path) -> None:
    store = open_store(folder / "ssv2.h5")
    for name in store.layout.arrays():
        assert f"`{name.replace('pooled', 'TAP').replace('map', 'TAP')}`" in PAGE
    for name in store.files.names():
        top = name.split("/")[0]
        assert top in PAGE
    assert f"Format {FORMAT_VERSION} " in PAGE
