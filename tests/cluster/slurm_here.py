"""A SLURM of two nodes on this machine: loopback only, everything below one folder, ended by who started it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "runuser")
N_NODES, CPUS = 2, 4
CONF = """
ClusterName=fsartest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/run/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdTimeout=60
SlurmctldTimeout=60
InactiveLimit=0
MinJobAge=3600
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Return why there can be no SLURM here, None if there can."""
    missing = [name for name in NEEDED if _which(name) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started by root here"


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def slurm() -> Iterator[Path]:
    """Start one; yield its slurm.conf."""
    # Not pytest's folder, which is this user's alone: munge runs as a user of its own.
    folder = Path(tempfile.mkdtemp(prefix="fsar-slurm-"))
    folder.chmod(0o755)
    try:
        with ExitStack() as stack:
            stack.callback(_end_munge, folder)
            _start_munge(folder)
            conf = _write_conf(folder)
            environment = {**os.environ, "SLURM_CONF": str(conf)}
            commands = [["slurmctld", "-D", "-c", "-f", str(conf)]]
            commands += [["slurmd", "-D", "-f", str(conf), "-N", f"n{node}"] for node in range(N_NODES)]
            for command in commands:
                process = subprocess.Popen(
                    [_which(command[0]) or "", *command[1:]],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                stack.callback(_end, process)
            _wait_until_idle(environment)
            stack.callback(subprocess.run, ["scancel", "--user=root"], env=environment, check=False)
            yield conf
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_munge(folder: Path) -> None:
    munge = folder / "munge"
    (munge / "run").mkdir(parents=True)
    (folder / "state").mkdir()
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    for path in (munge, munge / "run", munge / "key"):
        shutil.chown(path, "munge", "munge")
    command = [_which("munged") or "", f"--key-file={munge}/key", f"--socket={munge}/run/socket"]
    command += [f"--pid-file={munge}/run/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
    subprocess.run(["runuser", "-u", "munge", "--", *command, "--group-update-time=-1"], check=True)


def _end_munge(folder: Path) -> None:
    try:
        os.kill(int((folder / "munge/run/pid").read_text()), 15)
    except (FileNotFoundError, ProcessLookupError):
        return


def _write_conf(folder: Path) -> Path:
    ports, host = _free_ports(1 + N_NODES), socket.gethostname().partition(".")[0]
    lines = [CONF.format(host=host, port=ports[0], folder=folder)]
    for node, port in enumerate(ports[1:]):
        (folder / f"spool.n{node}").mkdir()
        place = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        lines.append(f"NodeName=n{node} {place} CPUs={CPUS} RealMemory=4000 State=UNKNOWN\n")
    conf = folder / "slurm.conf"
    conf.write_text("".join(lines))
    return conf


def _free_ports(n_ports: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n_ports)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline, seen = time.monotonic() + 60, ""
    while time.monotonic() < deadline:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%T"], env=environment, capture_output=True, text=True
        )
        seen = asked.stdout + asked.stderr
        if asked.stdout.split().count("idle") == N_NODES:
            return
        time.sleep(0.1)
    raise TimeoutError(f"SLURM did not come up: {seen}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
