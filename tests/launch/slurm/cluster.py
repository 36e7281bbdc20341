"""A Slurm cluster of two virtual nodes on this machine, for as long as somebody wants it.

    python cluster.py FOLDER NODES CPUS

starts munged, slurmctld and a slurmd for each node, with all their files in FOLDER, prints "ready"
when the nodes are, and takes everything down when its standard input ends: also when the process
that held the other end was killed. FOLDER/slurm.conf is what SLURM_CONF must name.
"""

from __future__ import annotations

import getpass
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

START_SECONDS, STOP_SECONDS = 60, 20

CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.sock,cred_expire=5
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=30
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=debug Nodes=ALL Default=YES OverSubscribe=NO PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL OverSubscribe=NO PriorityTier=2 PreemptMode=OFF
"""
# cred_expire: Slurm holds a requeued job back for about five times that long.


def write_configuration(root: Path, nodes: int, cpus: int) -> Path:
    """The files of a cluster: its configuration, and a key for its daemons to know each other."""
    for name in ("munge", "state"):
        (root / name).mkdir(mode=0o700)
    key = root / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    ports = _free_ports(1 + nodes)
    lines = [
        f"NodeName=n{i} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
        f"Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN"
        for i, port in enumerate(ports[1:], 1)
    ]
    path = root / "slurm.conf"
    path.write_text(CONFIGURATION.format(
        root=root, user=getpass.getuser(), ports=ports, nodes="\n".join(lines)))
    return path


def serve(root: Path, nodes: int, cpus: int) -> None:
    """Run a cluster until standard input ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    configuration = write_configuration(root, nodes, cpus)
    os.environ["SLURM_CONF"] = str(configuration)
    munge = root / "munge"
    with ExitStack() as stack:
        stack.callback(_kill_the_rest, configuration)
        munged = ["munged", "--force", "--foreground", f"--key-file={munge}/key"]
        munged += [f"--{name}={munge}/{name}" for name in ("pid-file", "log-file", "seed-file")]
        _start(stack, [*munged, f"--socket={munge}/munge.sock"], munge / "output")
        _until("munged has no socket", (munge / "munge.sock").exists)
        _start(stack, ["slurmctld", "-D", "-c", "-f", str(configuration)], root / "slurmctld.out")
        for i in range(1, nodes + 1):
            command = ["slurmd", "-D", "-N", f"n{i}", "-f", str(configuration)]
            _start(stack, command, root / f"slurmd.n{i}.out")
        stack.callback(_empty_the_queue)
        _until("the nodes are not idle", lambda: _ask("sinfo", "-ho%T %D") == f"idle {nodes}")
        print("ready", flush=True)
        sys.stdin.read()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(stack: ExitStack, command: list[str], output: Path) -> None:
    """Start a daemon, to be stopped when the stack is left."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)

    def stop() -> None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def _until(what: str, holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} after {seconds} s")
        time.sleep(0.2)


def _ask(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return result.stdout.strip()


def _empty_the_queue() -> None:
    """Cancel every job and wait for its processes to go."""
    with suppress(TimeoutError, subprocess.TimeoutExpired):
        _ask("scancel", f"--user={getpass.getuser()}")
        _until("jobs are left", lambda: not _ask("squeue", "-h"), STOP_SECONDS)


def _kill_the_rest(configuration: Path) -> None:
    """Kill whatever of the cluster is left: daemons and jobs have its SLURM_CONF."""
    for pid in processes_of(configuration):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_of(configuration: Path) -> Iterator[int]:
    """Processes of the cluster with this configuration, but for this one."""
    mark = f"SLURM_CONF={configuration}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            mine = mark in (folder / "environ").read_bytes().split(b"\0")
            if mine and int(folder.name) != os.getpid():
                yield int(folder.name)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
