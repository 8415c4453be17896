"""So many runs for each CUDA device, one unless ``NAS_RUNS_PER_GPU`` says more: a run takes a device with a free place, or waits."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from functools import cache

import torch

WAIT = 1.0      # seconds between two looks for a free device
LIST = "import torch.cuda as c; [print(c.get_device_properties(i).uuid) for i in range(c.device_count())]"


def visible() -> list[str]:
    """Identities of the devices that CUDA shows here, in its order; none without a device or a driver.

    Another process asks, since what a process sees cannot be narrowed once it has asked itself.
    """
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


@cache
def claim() -> socket.socket | None:
    """Make a free device the only one that this process sees, and so ``cuda``; with all taken, wait.

    A place on it belongs to this process to its end, whichever way it ends; a device without any run comes before one
    with some. Where ``CUDA_VISIBLE_DEVICES``, by the user or a cluster, names some, it is one of those. Without any device
    nothing happens: CUDA says so itself. Raises ValueError where ``NAS_RUNS_PER_GPU`` is no number from 1.
    """
    share = os.environ.get("NAS_RUNS_PER_GPU", "1")
    if not (share.isdecimal() and int(share) > 0):
        raise ValueError(f"NAS_RUNS_PER_GPU = {share!r:.50}: give the number of runs that share a device, from 1")
    there = visible()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(len(there))]
    devices = list(zip(names, there, strict=False))         # CUDA shows none after the first name it does not know
    if torch.cuda.is_initialized():                         # too late to see fewer
        devices = [devices[torch.cuda.current_device()]]
    for look in range(sys.maxsize if devices else 0):
        for place, (name, identity) in itertools.product(range(int(share)), devices):
            if (lock := _lock(f"{identity} {place}" if place else identity)) is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                return lock
        if not look:
            runs = "a run" if share == "1" else f"{share} runs"
            print(f"Every CUDA device ({', '.join(names)}) has {runs}: waiting until one ends.", flush=True)
        time.sleep(WAIT)
    return None


def _lock(identity: str) -> socket.socket | None:
    """A name that one process of the machine can hold, of whichever user; None if another has it.

    A name in Linux's abstract namespace: no file that a cleaner of old files, or a user's logout, would remove.
    """
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0nas_lib device {identity}")
    except OSError:
        lock.close()
        return None
    return lock
