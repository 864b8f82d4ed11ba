"""The simulation of many workers at one store: what each step costs, and who does how much."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "claims.py"


def tables(*arguments: str) -> list[dict[str, str]]:
    """Return the rows of the tables that the script prints."""
    ended = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
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


def check_workers(rows: list[dict[str, str]]) -> None:
    """No step looks at more than each chunk's name once, or calls the disk more often than there are chunks."""
    for row in rows:
        n_chunks, n_steps, n_workers = (int(row[name]) for name in ("chunks", "steps", "workers"))
        assert n_chunks <= n_steps <= n_chunks + n_workers
        assert float(row["per chunk"]) <= 1.0
        assert float(row["calls a step"]) < n_chunks
        assert int(row["calls a wait (max)"].partition("(")[2].strip(")")) < n_chunks
        least, most = (float(share) for share in row["shares of work"].split(" to "))
        assert 0.8 <= least <= most <= 1.2


def test_sixteen_workers_share_a_store_evenly_at_a_bounded_cost() -> None:
    rows = tables("--videos", "2560", "--workers", "16", "--large", "0")
    assert [row["workers"] for row in rows] == ["16"]
    check_workers(rows)


@pytest.mark.slow
def test_256_workers_and_a_store_of_100_000_videos() -> None:
    *workers, plan, opened, info, watch = tables()
    assert [row["workers"] for row in workers] == ["1", "16", "64", "256"]
    check_workers(workers)
    for row in (plan, opened, info, watch):
        small, large = (float(row[f"memory, {n}"].removesuffix(" MB")) for n in ("100", "100,000"))
        assert large - small < 200  # MB: some hundred bytes of each video, and none of its features
