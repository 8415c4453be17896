"""How the cost of the engine grows with the size of the problem, its memory, and what images, processes and populations cost."""

from __future__ import annotations

import multiprocessing
import re
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from nas_lib import data, methods, performance, plan, ranking
from nas_lib.augment import Augment
from nas_lib.spaces import NB201
from nas_lib.standalone import Recipe, train_from_scratch
from nas_lib.steps import Run
from nas_lib.training import Budget

BASE = {"channels": 8, "cells": 1, "side": 16, "batch": 64, "images": 256}
AXES = {"channels": (4, 8, 16, 32), "cells": (1, 3, 5), "side": (8, 16, 32), "batch": (16, 64, 256), "images": (64, 256, 1024)}
WORKS = {"step of darts": "images", "ranking, per cell": "batch"}       # and the size that does not matter to it
NEIGHBOURS = 8                                                          # that are ranked together
REPEATS = 10                                                            # of a job whose processes are counted


def growth(rounds: int = 3, axes: dict | None = None, base: dict | None = None) -> xr.Dataset:
    """Seconds of ours as one size after another differs from ``base``: ``seconds (point, work, round)`` with coordinates
    ``axis`` and ``value``; NaN where it does not matter to the work."""
    base, rows, points = BASE | (base or {}), [], []
    for axis, values in (axes or AXES).items():
        for value in values:
            jobs = {w: job(w, "ours", base | {axis: value}) for w, idle in WORKS.items() if idle != axis}
            timed = performance.paired(jobs, rounds) / xr.DataArray([1, NEIGHBOURS], {"side": list(WORKS)})
            rows.append(timed.rename(side="work").reindex(work=list(WORKS)))
            points.append((axis, value))
    axis, value = zip(*points, strict=True)
    return xr.Dataset({"seconds": xr.concat(rows, "point")}, {"axis": ("point", list(axis)), "value": ("point", list(value))},
                      {"base": ", ".join(f"{v} {k}" for k, v in base.items())})


def job(work: str, side: str, size: dict, device="cpu") -> Callable[[], object]:
    """One step of a method ("step of darts"), or the ranking of neighbours, of a ``size`` like ``BASE``; ``side`` as in
    ``performance``."""
    channels, cells, batch, images = (size[k] for k in ("channels", "cells", "batch", "images"))
    stepping = work.startswith("step of ")
    noise = performance.noise(size["side"], batch if stepping else images, device=device)
    (x, y), (xv, yv) = noise.halves()
    if stepping:
        method = methods.stage1(work.removeprefix("step of "))
        run = Run(method, NB201, noise, Budget(channels=channels, cells=cells, batch=batch), 0, None)
        performance.shown(run.net, side).train()
        return lambda: (run.learns and run.architecture_step(xv, yv, 0.0), run.weight_step(x, y, 0.0))
    net = performance.shown(performance.trained(channels, cells, noise), side)
    archs = plan.neighbours(NEIGHBOURS)
    if side == "ours":
        return lambda: ranking.accuracy(net, archs, xv, yv)
    return lambda: ranking.one_by_one(net, archs, xv, yv, "batch", 256, None)


def augmentation(shapes, batch: int = 64, rounds: int = 20, device="cpu") -> xr.Dataset:
    """Seconds of cropping, flipping and normalising a batch, and of a step that takes two such batches or one: ``seconds
    (shape, work)``, medians; shapes (channels, cells, side)."""
    rows = []
    for channels, cells, side in shapes:
        x = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
        mean, std = (torch.full((3, 1, 1), v, device=device) for v in (0.5, 0.25))
        augment, generator = Augment(mean, std, pad=side // 8, flip=True, cutout=0), torch.Generator(device).manual_seed(0)
        timed = performance.paired({"a batch of images": partial(augment, x, generator)}, rounds, device).median("round")
        steps = [performance.training_step(m, channels, cells, side, batch, 5, device).sel(side=["ours"]).median("round").drop_attrs()
                 for m in ("darts", "rsps")]
        names = ["a batch of images", "step of darts", "step of rsps"]
        rows.append(xr.concat([timed.rename(side="work"), *(s.rename(side="work") for s in steps)], "work").assign_coords(work=names))
    shape = [f"C={c}, N={n}, {s} x {s}" for c, n, s in shapes]
    return xr.Dataset({"seconds": xr.concat(rows, xr.Variable("shape", shape))})


def populations(channels=(4, 16), seeds: int = 4, rounds: int = 3, archs: int = 4, device="cpu") -> xr.Dataset:
    """Seconds per network of cells at random that are trained from scratch on the embedded images, ``seconds (way, channels, round)``.

    All ``seeds`` of a cell one by one through PyTorch's layers, together as groups of one network, and, on a CPU, compiled. A tenth of
    the truth table's steps, evaluations included.
    """
    digits, cells = data.load("digits", device), NB201.archs[np.random.default_rng(0).integers(len(NB201), size=archs)]
    numbers, found = list(range(seeds)), []
    for width in channels:
        recipe = Recipe(channels=width, steps=48, copies=1)

        def way(groups, compiled, recipe=recipe):
            return lambda: [train_from_scratch(NB201, c, digits, recipe, g, compiled) for c in cells for g in groups]

        ways = {"one by one": way([[n] for n in numbers], False), "groups": way([numbers], False)}
        if torch.device(device).type == "cpu":
            ways["compiled"] = way([numbers], True)
        found.append(performance.paired(ways, rounds, device).rename(side="way") / (archs * seeds))
    return xr.Dataset({"seconds": xr.concat(found, xr.Variable("channels", list(channels)))}, attrs={"seeds": seeds, "archs": archs})


def processes(counts=(1, 2), rounds: int = 5, base: dict | None = None, work="ranking, per cell", device="cpu") -> xr.DataArray:
    """How often per second several processes at once do a ``work``, of one thread each, ``(processes, round)``, by the clock: steps, or
    architectures ranked. On a GPU they share it."""
    started = multiprocessing.get_context("spawn")
    found = []
    for count in counts:
        with started.Pool(count, _ready, (started.Barrier(count), work, BASE | (base or {}), device)) as pool:
            spans = [pool.map(_together, range(count), chunksize=1) for _ in range(rounds + 1)][1:]
        found.append([_rate(s, 1 if work.startswith("step of ") else NEIGHBOURS) for s in spans])
    return xr.DataArray(found, {"processes": list(counts), "round": range(rounds)}, name="rate")


def on_device(channels: int, cells: int, sides=(32, 16), batch: int = 64, counts=(1, 2, 4, 8), rounds: int = 5, device="cuda") -> xr.Dataset:
    """What a device does: ``seconds (side, unit, round)`` of ``performance.units``; ``rate (work, processes, round)`` of works that
    several processes do on it, images of the first side; ``launch``, seconds to start a kernel that does nearly nothing."""
    size = {"channels": channels, "cells": cells, "side": sides[0], "batch": batch}
    seconds = [performance.units(channels, cells, side, batch, rounds, device) for side in sides]
    works = ("step of rsps", "step of darts", "ranking, per cell")
    rate = [processes(counts, rounds, size, work, device) for work in works]
    one = torch.zeros((), device=device)
    launch = performance.paired({"kernels": lambda: [one.add_(1) for _ in range(1000)]}, rounds, device).median().item() / 1000
    return xr.Dataset({"seconds": xr.concat(seconds, xr.Variable("side", list(sides))), "launch": launch,
                       "rate": xr.concat(rate, xr.Variable("work", list(works)))}, attrs={"channels": channels, "cells": cells, "batch": batch})


def _ready(barrier, work: str, size: dict, device) -> None:
    torch.set_num_threads(1)
    global _shared
    _shared = barrier, job(work, "ours", size, device), device


def _together(_) -> tuple[float, float]:
    """When this process began and ended its job; the barrier gives every process one."""
    barrier, work, device = _shared
    barrier.wait()
    start = time.monotonic()
    for _ in range(REPEATS):
        work()
    performance.wait(device)
    return start, time.monotonic()


def _rate(spans: list[tuple[float, float]], each: int) -> float:
    starts, ends = zip(*spans, strict=True)
    return len(spans) * REPEATS * each / (max(ends) - min(starts))


def memory(size: dict, sides=("plain", "ours")) -> xr.DataArray:
    """Peak memory in bytes ``(work, side)``, above that of a process that has loaded the library; each in its own process."""
    started = multiprocessing.get_context("spawn")
    with started.Pool(1, maxtasksperchild=1) as pool:
        found = [[pool.apply(_peak, (work, side, size)) for side in sides] for work in WORKS]
    return xr.DataArray(found, {"work": list(WORKS), "side": list(sides)}, name="memory")


def _peak(work: str, side: str, size: dict) -> int:
    torch.set_num_threads(1)
    before = _resident()
    job(work, side, size)()
    return _resident() - before


def _resident() -> int:
    """Peak resident bytes of this process. ``ru_maxrss`` would do, had Linux not a process begin with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
