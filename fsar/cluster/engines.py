"""Engines by the name that a user gives."""

from collections.abc import Mapping

from fsar.cluster.engine import Engine
from fsar.errors import InputError, unknown_name

KINDS = ("local", "slurm")


def open_engine(cluster: str, slurm: Mapping[str, str]) -> Engine:
    """Return the engine that `cluster` names: local or slurm.

    Args:
        cluster: the name.
        slurm: options of sbatch.

    Raises:
        InputError: no such engine, options of another one.
    """
    if cluster not in KINDS:
        raise unknown_name("cluster", cluster, KINDS)
    if slurm and cluster != "slurm":
        raise InputError(f"--slurm does not go with --cluster {cluster}")
    if cluster == "slurm":
        from fsar.cluster.slurm import SlurmEngine

        return SlurmEngine(slurm)
    from fsar.cluster.local import LocalEngine

    return LocalEngine()
