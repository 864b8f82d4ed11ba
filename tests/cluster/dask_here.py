"""A Dask cluster on loopback: a scheduler, and processes with a thread for each of our workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def dask(n_workers: int = 2, **more: Any) -> Iterator[str]:
    """Start one; yield the scheduler's address."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=n_workers,
        threads_per_worker=2,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        processes=True,
        **more,
    ) as cluster:
        yield cluster.scheduler_address
