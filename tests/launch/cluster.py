"""A real Slurm of one machine, on loopback and ports of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

import pytest

CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_min_interval=100000,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 State=UP
"""


@contextlib.contextmanager
def slurm(folder):
    """Runs slurmctld and slurmd with their files in ``folder``, for commands of this process."""
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch")):
        pytest.skip("Slurm is not installed (Debian: slurm-wlm)")
    if os.geteuid():
        pytest.skip("slurmd runs as root alone")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, ports=_free_ports()))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(conf))
        for name in ("slurmctld", "slurmd"):
            stack.enter_context(_daemon(name, folder))
        until(lambda: "idle" in said("sinfo", "--noheader", "--format=%T"), "the node is ready")
        try:
            yield
        finally:
            end_jobs()


def end_jobs():
    """Kills what is left of jobs, so that the next test finds the machine free."""
    subprocess.run(["scancel", f"--user={os.getuid()}", "--signal=KILL", "--full"])
    subprocess.run(["scancel", f"--user={os.getuid()}"])
    until(lambda: not said("squeue", "--noheader"), "all jobs have ended")


@contextlib.contextmanager
def _daemon(name, folder):
    with open(folder / f"{name}.out", "w") as out:
        process = subprocess.Popen([name, "-D"], stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _free_ports():
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
        return [taken.getsockname()[1] for taken in (one, two)]


def said(*command):
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def until(true, what, seconds=900):
    """Waits for what must come; how long it takes does not matter."""
    for _ in range(10 * seconds):
        if true():
            return
        time.sleep(0.1)
    pytest.fail(f"not within {seconds} s: {what}")
