"""Faults at random moments: whatever stops a run, the same call ends with the bits of a run that was never stopped.

    python tests/faults.py --faults 200 --seed 0

Training, ranking, selection, final training and a shard of the truth are stopped, up to three times in a row, by SIGKILL,
SIGTERM, a full disk (a small file system where one can be mounted, else a limit on the size of files), a folder that turns
read-only, and a lack of memory (an error at any instruction). ``--workflows`` whole Snakemake runs
are killed, too, with all that they started. A fault counts if it hit: if the run had not ended before. Every result set is
compared, byte by byte; a full disk and a read-only folder must end in one clear error.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import xarray as xr
import yaml
from tqdm.auto import tqdm

import tiny
from fuzz import tell
from nas_lib import checkpoint, final, methods, results
from nas_lib.checkpoint import CheckpointError
from nas_lib.ranking import rank
from nas_lib.results import ResultError
from nas_lib.spaces import SPACES
from nas_lib.spaces.published_cells import CELLS
from nas_lib.standalone import Recipe, train_shard
from nas_lib.training import train
from test_slurm import TINY, snakemake

KINDS = ("SIGKILL", "SIGTERM", "full disk", "read-only folder", "out of memory")
NOBODY = 65534


def works() -> dict:
    """Long work, made short: name -> function of a folder, in which it keeps its state and leaves ``result.nc``."""
    # What is forked from here must share no lock: a killed child would keep it for ever.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    data, b = tiny.data(), replace(tiny.BUDGET, epochs=8)
    learn = partial(train, "gdas", methods.stage1("gdas"), tiny.SPACE, data, b, 0, progress=False)
    trained, perturb = learn(), methods.stage2("perturb", epochs=6)
    x, y = data.fixed("valid half", first=8)
    cells = SPACES["s1"].genotype(SPACES["s1"].parse(CELLS["s1"]["dartsm_pt"]))
    small = final.Recipe(channels=1, cells=3, epochs=3, batch=32, auxiliary=0, cutout=0)

    def training(folder):
        run = learn(folder=folder)
        weights = np.concatenate([t.numpy().ravel().astype(float) for t in run.supernet.state_dict().values()])
        return xr.Dataset({"alpha": (("e", "o"), run.alpha.numpy()), "weights": ("w", weights),
                           "loss": ("epoch", run.history["train_loss"])})

    def selection(folder):
        choice = perturb(trained, data, np.arange(5), 0, folder=folder)
        return xr.Dataset({"choice": choice.arch, "ties": choice.ties})

    def shard(folder):
        how = Recipe(channels=2, steps=20, batch=8, copies=1)
        return train_shard(tiny.SPACE, [3, 5, 9, 14], data, how, [0, 1], folder / "shard.pt", progress=False).drop_vars("seconds")

    found = {"training": training, "selection": selection, "truth shard": shard,
             "ranking": lambda f: rank(trained.supernet, x, y, block=2, folder=f, progress=False),
             "final training": lambda f: final.train_final(cells, data, small, 0, f / "s0.pt", progress=False).drop_vars("seconds")}
    return {name: partial(_whole, work) for name, work in found.items()}


def _whole(work, folder: Path) -> None:
    results.write(work(folder), folder / "result.nc")


def start(work, folder: Path, prepare=lambda: None, humble=False) -> int:
    """The process that does ``work``. It ends with 0, with 2 after a clear error of storing, else with 3.

    ``humble``: as a user who may not write everywhere."""
    if child := os.fork():
        return child
    code = 3
    try:
        with open(f"{folder}.said", "a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        checkpoint.EVERY = 0.0
        if humble and os.geteuid() == 0:       # whom nothing is forbidden
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        prepare()
        work(folder)
        code = 0
    except (CheckpointError, ResultError) as error:
        print(error, flush=True)
        code = 2
    except BaseException as error:  # noqa: B036  also what a fault raises while it is dealt with
        print(repr(error), flush=True)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


class Disk:
    """A folder on a file system of its own, whose size can be changed; where that is not allowed, an ordinary folder."""

    def __init__(self, folder: Path):
        self.folder, self.own = folder, False
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.own = os.geteuid() == 0 and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True).returncode
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

    def limit(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.own:
            subprocess.run(["umount", "-l", self.folder], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def strike(kind: str, work, disk: Disk, seconds: float, used: int, rng) -> int:
    """Start ``work`` and let the fault happen; how it ended."""
    moment, room = rng.uniform(0, seconds), int(rng.integers(1, max(used, 2)))
    if kind == "full disk":
        if disk.own:
            disk.limit(str(_size(disk.folder) + room + 4096))
            code = ended(start(work, disk.folder))
            disk.limit("64m")
            return code
        return ended(start(work, disk.folder, partial(_files_up_to, room)))
    if kind == "out of memory":
        return ended(start(work, disk.folder, partial(_fails_at, moment)))
    child = start(work, disk.folder, humble=kind == "read-only folder")
    time.sleep(moment)
    if kind == "read-only folder":
        disk.folder.chmod(0o500)
        code = ended(child)
        disk.folder.chmod(0o700)
        return code
    os.kill(child, getattr(signal, kind))
    return ended(child)


def _size(folder: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file())


def _files_up_to(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _fails_at(moment: float) -> None:
    def fail(*_):
        raise MemoryError("a fault")

    signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, max(moment, 1e-4))


def campaign(faults: int, seed: int, show=3) -> tuple[dict[str, Counter], list[str]]:
    """Faults that hit, by kind and work, until there are ``faults``; and what went wrong."""
    rng, counts, wrong = np.random.default_rng(seed), {k: Counter() for k in KINDS}, []
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        home.chmod(0o755)
        good = {}
        for name, work in works().items():
            with Disk(home / "here") as disk:       # imports and compiles what the others then have
                work(disk.folder)
            with Disk(home / "good") as disk:
                begun = time.monotonic()
                assert ended(start(work, disk.folder)) == 0, (home / "good.said").read_text()
                seconds, used = time.monotonic() - begun, _size(disk.folder)
                good[name] = work, seconds, used, (disk.folder / "result.nc").read_bytes()
        plan = [(kind, name) for name in good for kind in KINDS]
        while sum(c.total() for c in counts.values()) < faults:
            kind, name = plan[rng.integers(len(plan))]
            work, seconds, used, whole = good[name]
            (home / "run.said").unlink(missing_ok=True)
            with Disk(home / "run") as disk:
                for _ in range(rng.integers(1, 4)):
                    code = strike(kind, work, disk, seconds, used, rng)
                    counts[kind][name] += code != 0
                    if kind in ("full disk", "read-only folder") and code not in (0, 2):
                        wrong.append(f"{name}, {kind}: no clear error\n{(home / 'run.said').read_text()[-800:]}")
                    file = disk.folder / "result.nc"
                    if file.exists() and file.read_bytes() != whole:
                        wrong.append(f"{name}, {kind}: a result that is not whole")
                if ended(start(work, disk.folder)) or (disk.folder / "result.nc").read_bytes() != whole:
                    wrong.append(f"{name}, {kind}: lost or changed\n{(home / 'run.said').read_text()[-800:]}")
    return counts, wrong


def workflow(folder: Path, kills: int, seed: int, whole=True) -> tuple[int, list[str]]:
    """A whole Snakemake run, killed with all that it started ``kills`` times; how often that hit, and what went wrong.

    The command is the same each time, and so are the results in the end, but for times. ``whole``: stop it anywhere, else while
    its first run computes.
    """
    rng, hits, wrong, good = np.random.default_rng(seed), 0, [], None
    clone(folder)
    seconds = 20.0
    for turn in range(kills + 1):
        shutil.rmtree(folder / "results", ignore_errors=True)
        for _ in range(rng.integers(1, 3) if turn else 0):
            run = begin(folder)
            moment = time.monotonic() + rng.uniform(0, seconds)
            while run.poll() is None and (time.monotonic() < moment if whole else not list(folder.glob("results/cache/*rsps*"))):
                time.sleep(0.05)
            hits += run.poll() is None
            kill_all(run)
        begun, run = time.monotonic(), begin(folder)
        said = run.communicate(timeout=600)[0]
        found = {p.name: _content(p) for p in sorted(folder.glob("results/tiny/*.nc"))}
        if run.returncode or len(found) != 3:
            wrong.append(f"workflow: exit {run.returncode}\n{said[-2000:]}")
        if good is None:
            good, seconds = found, time.monotonic() - begun
        wrong += [f"workflow: {n} has changed" for n in good if n not in found or not found[n].identical(good[n])]
    return hits, wrong


def clone(folder: Path) -> Path:
    """Make ``folder`` a copy of the repository, with a tiny campaign."""
    for name in ("notebooks", "book"):
        (folder / name).symlink_to(results.root() / name)
    shutil.copytree(results.root() / "nas_lib", folder / "nas_lib")         # whose parent is where results go
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


def begin(folder: Path) -> subprocess.Popen:
    """The command of the README, for a tiny campaign."""
    command, kinds = snakemake("local", "--configfile", "tiny.yaml", cwd=folder,
                               env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"})
    return subprocess.Popen(command, **kinds)


def kill_all(run: subprocess.Popen) -> None:
    """SIGKILL for a process and all that it started, whatever sessions they have; stopped first, so that they start no more."""
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(run.pid)
        while new := [p for p in (first, *first.children(recursive=True)) if p not in found]:
            for process in new:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            found += new
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found[1:], 10)
    run.communicate()


def _content(path: Path) -> xr.Dataset:
    """A result without its clocks and the origin, which has times as well."""
    run = results.read(path)
    run.attrs.pop("provenance", None)
    return run.drop_vars([v for v in run if str(v).endswith("seconds")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workflows", type=int, default=6, help="Snakemake runs to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the counts, too")
    asked = parser.parse_args()
    begun = time.time()
    counts, wrong = campaign(asked.faults, asked.seed)
    kills = 0
    if asked.workflows:
        with tempfile.TemporaryDirectory() as folder:
            kills, more = workflow(Path(folder), asked.workflows, asked.seed)
            wrong += more
    print("\n".join(wrong[:5]))
    total = sum(c.total() for c in counts.values())
    tell(counts, sorted(set().union(*counts.values())), f"{total} faults and {kills} whole workflows killed (seed {asked.seed}): "
         f"{len(wrong)} results lost or changed", begun, asked.out)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
