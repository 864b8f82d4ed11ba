"""Engines by the name that a user gives."""

from collections.abc import Mapping

from fsar.cluster.engine import Engine
from fsar.errors import InputError, unknown_name

KINDS = ("local", "slurm", "dask", "ray")
WITH_ADDRESS = ("dask", "ray")


def open_engine(cluster: str, slurm: Mapping[str, str], resources: Mapping[str, str]) -> Engine:
    """Return the engine that `cluster` names: local, slurm, dask=ADDRESS or ray=ADDRESS.

    Args:
        cluster: the name.
        slurm: options of sbatch.
        resources: amounts of what a worker needs of Dask or Ray.

    Raises:
        InputError: no such engine, no address, options of another one.
    """
    kind, _, address = cluster.partition("=")
    _refuse_misfits(cluster, kind, address, slurm, resources)
    if kind == "slurm":
        from fsar.cluster.slurm import SlurmEngine

        return SlurmEngine(slurm)
    if kind == "dask":
        from fsar.cluster.dask import DaskEngine

        return DaskEngine(address, resources)
    if kind == "ray":
        from fsar.cluster.ray import RayEngine

        return RayEngine(address, resources)
    from fsar.cluster.local import LocalEngine

    return LocalEngine()


def _refuse_misfits(
    cluster: str, kind: str, address: str, slurm: Mapping[str, str], resources: Mapping[str, str]
) -> None:
    if kind not in KINDS or (address and kind not in WITH_ADDRESS):
        raise unknown_name("cluster", cluster, KINDS)
    if kind in WITH_ADDRESS and not address:
        raise InputError(f"--cluster {kind} needs an address: --cluster {kind}={_EXAMPLES[kind]}")
    if slurm and kind != "slurm":
        raise InputError(f"--slurm does not go with --cluster {cluster}")
    if resources and kind not in WITH_ADDRESS:
        raise InputError(f"--resource does not go with --cluster {cluster}")


_EXAMPLES = {"dask": "tcp://HOST:8786", "ray": "HOST:6379"}
