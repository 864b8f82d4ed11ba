"""The tables that a benchmark prints."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def tables(script: str, *arguments: str) -> list[dict[str, str]]:
    """Return the rows of the tables that the script prints."""
    ended = subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = [line.strip("|").split("|") for line in ended.stdout.splitlines() if line.startswith("|")]
    titles, rows = [], []
    for cells, below in zip(lines, [*lines[1:], [""]], strict=True):
        texts = [cell.strip() for cell in cells]
        if set(below[0]) == {"-"}:
            titles = texts
        elif set(cells[0]) != {"-"}:
            rows.append(dict(zip(titles, texts, strict=True)))
    return rows
