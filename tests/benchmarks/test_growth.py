"""What grows with a store, as the benchmark of it measures."""

import pytest

from tests.benchmarks.printed import tables


def costs(cell: str) -> tuple[float, float]:
    """Return the seconds and MB of a cell of the table."""
    seconds, megabytes = cell.split(", ")
    return float(seconds.removesuffix(" s")), float(megabytes.removesuffix(" MB"))


def test_the_table_has_a_column_for_every_size(tmp_path) -> None:
    (row,) = tables("growth.py", "--videos", "100,300,900", "--only", "open", "--folder", str(tmp_path / "stores"))
    assert list(row) == ["", "100 videos", "300 videos", "900 videos", "growth"]
    assert all(min(costs(row[f"{n} videos"])) > 0 for n in (100, 300, 900))
    assert not (tmp_path / "stores").exists()


@pytest.mark.slow
def test_a_store_of_100_000_videos_takes_some_hundred_bytes_of_each() -> None:
    rows = tables("growth.py", "--videos", "100,100000")
    assert len(rows) == 9
    for row in rows:
        (_, small), (_, large) = (costs(row[f"{n} videos"]) for n in ("100", "100,000"))
        assert large - small < 200  # MB
