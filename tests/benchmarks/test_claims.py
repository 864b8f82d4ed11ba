"""The simulation of many workers at one store: what each step costs, and who does how much."""

import pytest

from tests.benchmarks.printed import tables


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
    rows = tables("claims.py", "--videos", "2560", "--workers", "16")
    assert [row["workers"] for row in rows] == ["16"]
    check_workers(rows)


@pytest.mark.slow
def test_256_workers_share_a_store_as_well() -> None:
    rows = tables("claims.py")
    assert [row["workers"] for row in rows] == ["1", "16", "64", "256"]
    check_workers(rows)
