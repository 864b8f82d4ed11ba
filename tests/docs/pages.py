"""The pages of the documentation as lists of code blocks, and the way to run them as a reader would."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"commands.md", "heads.md", "benchmarks.md", "api.md"}
"""Pages made from the code: a test compares them with it, or the site builds them from docstrings."""
RUN = {"sh", "python"}
SHOWN = {"text", "toml", "json", "csv", "bibtex"}
"""Languages of blocks that a reader looks at and does not run. `toml` and `json` must still parse."""

_FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    code: str


def pages() -> list[Path]:
    """Return every page that somebody wrote by hand: the README and docs/*.md."""
    return [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.name not in GENERATED)]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of `page` in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, found.start()) + 1, found["language"], found["code"])
        for found in _FENCE.finditer(text)
    ]


def run_page(page: Path, folder: Path) -> None:
    """Run all `sh` and `python` blocks of `page` in `folder`, one after the other, each in a process of its own.

    Python blocks of one page share their names: a later block sees what an earlier one defined.

    Raises AssertionError with page, line and output for the first block that fails.
    """
    earlier = ""
    for block in blocks(page):
        if block.language == "sh":
            _run(["bash", "-euo", "pipefail", "-c", block.code], block, folder)
        elif block.language == "python":
            _run([sys.executable, "-c", earlier + block.code], block, folder)
            earlier += block.code + "\n"


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a reader's shell: our programs and Python first on the path, a home of its own."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    packages = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PATH": programs, "PYTHONPATH": packages, "HOME": str(folder), "OMP_NUM_THREADS": "1"}


def _run(command: list[str], block: Block, folder: Path) -> None:
    ended = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=600)
    where = f"{block.page}, line {block.line}"
    assert ended.returncode == 0, f"{where} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
