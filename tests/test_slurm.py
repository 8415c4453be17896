"""The workflow on a cluster: what it asks for, and a real one-node Slurm on the loopback that gives the local results."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest
import yaml

from nas_lib import results
from nas_lib.experiments import Setup, stage1, stage2

ROOT = results.root()
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [p for p in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(p, path=PATH) is None]
TINY = {
    "campaign": "tiny", "data": "digits", "stage1": ["rsps"], "seeds": [0], "unscored": [], "pages": None,
    "stage2": ["random", "valid"], "candidates": 5, "ranking": {"images": 4, "views": 1},
    "parameters": {"channels": 1, "cells": 1, "epochs": 60, "batch": 512, "options": {}}}
CONFIG = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES
"""


def snakemake(profile, *options, **kinds):
    return [sys.executable, "-m", "snakemake", "--profile", f"notebooks/profiles/{profile}", *options], \
        {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **kinds}


def said(profile, *options, cwd=ROOT):
    command, kinds = snakemake(profile, *options, cwd=cwd)
    done = subprocess.run(command, timeout=300, **kinds)
    assert done.returncode == 0, done.stdout
    return done.stdout


def wait(until, seconds=240):
    """What ``until`` returns, once that is something."""
    for _ in range(seconds * 10):
        if found := until():
            return found
        time.sleep(0.1)
    raise TimeoutError(until)


def free_ports(number):
    with ExitStack() as stack:
        doors = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [d.getsockname()[1] for d in doors]


@contextmanager
def cluster(folder):
    """A Slurm of one node with two simulated GPUs, its files below ``folder``; how to call its programs."""
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, ports=free_ports(2), user=getpass.getuser()))
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1] Flags=nvidia_gpu_env\n")
    for name, line in {
            "prolog": f'echo "$SLURM_JOB_ID $CUDA_VISIBLE_DEVICES" >> {folder}/seen',
            # The plug-in clears what is called SLURM_..., as other clusters have their configuration in /etc.
            "srun": f'SLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=PATH)} "$@"'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name, device in (("gpu0", "null"), ("gpu1", "zero")):      # Slurm wants device files
        (folder / name).symlink_to(f"/dev/{device}")
    environment = os.environ | {"PATH": f"{folder}:{PATH}", "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(*command):
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment).stdout.strip()

    munge = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log",
             "seed-file": "munge.seed"}
    daemons = []
    try:
        for command in (["munged", "--foreground", "--force", *(f"--{k}={folder}/{v}" for k, v in munge.items())],
                        ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.out", "w") as out:
                daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
            if command[0] == "munged":
                wait((folder / "munge.socket").exists)
        wait(lambda: ask("sinfo", "-h", "-o", "%T") == "idle")
        yield environment, ask
    finally:
        ask("scancel", "--user", getpass.getuser())
        wait(lambda: not ask("squeue", "-h"), 30)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def prepare(folder, campaign):
    """A repository in ``folder`` with results of its own, a ``campaign.yaml`` and room for a cluster's files."""
    for name in ("notebooks", "book"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "nas_lib", folder / "nas_lib")           # whose parent is where results go
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    (folder / "cluster").mkdir()


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} (Debian: apt install slurmctld slurmd munge)")
def test_a_campaign_on_slurm_gives_the_local_results(tmp_path):
    """One of its jobs is cancelled in its middle, and done again; each has one device and sees no other."""
    prepare(tmp_path, TINY)
    with cluster(tmp_path / "cluster") as (environment, ask):
        command, kinds = snakemake(
            "slurm", "--configfile", "campaign.yaml", "--set-resources", "stage1:gpu=1", "stage2:gpu=1",
            "--default-resources", "mem_mb=100", "runtime=10", "--slurm-status-command", "squeue",
            "--slurm-init-seconds-before-status-checks", "1", cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"})
        with subprocess.Popen(command, **kinds) as submits:
            try:
                wait(lambda: list(tmp_path.glob("results/cache/*rsps*")) or submits.poll() is not None)
                jobs = dict(line.split() for line in ask("squeue", "-h", "-o", "%k %A").splitlines())
                middle, = jobs.values()
                ask("scancel", middle)
                output, _ = submits.communicate(timeout=400)
            finally:
                submits.kill()
        assert submits.returncode == 0, output
        assert "JobState=CANCELLED" in ask("scontrol", "show", "job", middle)
    seen = {}
    for line in (tmp_path / "cluster/seen").read_text().splitlines():
        job, *devices = line.split()
        seen.setdefault(job, set()).update(devices)
    assert len(seen) == 3 and all(s in ({"0"}, {"1"}) for s in seen.values())      # two runs, one of them begun twice
    same_as_here(tmp_path)


def same_as_here(folder):
    """The results in ``folder`` are those that the same runs give in this process."""
    setup = Setup(method="rsps", cache=str(folder / "here"), **TINY["parameters"])
    here = {1: stage1(setup, folder / "here/1.nc", TINY["ranking"]["images"]),
            2: stage2(setup, folder / "here/2.nc", TINY["stage2"], TINY["candidates"])}
    for stage, run in here.items():
        there = results.read(folder / f"results/tiny/stage{stage}-digits-rsps-s0.nc")
        run = results.read(results.write(run, folder / f"here/{stage}.nc"))
        clocks = [v for v in run if v.endswith("seconds")]
        assert run.drop_vars(clocks).equals(there.drop_vars(clocks)) and run.config == there.config
    assert (folder / "results/tiny/summary-digits.nc").exists()


@pytest.mark.parametrize("campaign, device", [("paper", True), ("cifar10-cpu", False)])
def test_a_run_asks_for_one_device_where_the_campaign_says_cuda(campaign, device):
    plan = said("slurm", "-n", "--quiet", "host", "--configfile", f"notebooks/campaigns/{campaign}.yaml")
    runs = re.findall(r"^rule (stage\d):.*?resources: (.*?)$", plan, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in runs} == {"stage1", "stage2"}
    assert all(("gpu=1" in asked.split(", ")) == device and "mem_mb=8000" in asked for _, asked in runs)


def test_the_picture_in_the_readme_is_the_workflow():
    text = re.search(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    drawn = set(re.findall(r"(\w+) --> (\w+)", text))
    graph = said("local", "--rulegraph", "mermaid-js", "--quiet", "all")
    name = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(name[a], name[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    assert drawn == {(a, b) for a, b in edges if b not in ("all", a)}      # one page waits for the others
