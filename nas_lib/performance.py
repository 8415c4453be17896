"""How fast the engine is: against the plain form, and against what the machine can do.

Three sides do the same work in one process, in turns, on made-up images, and must agree:

``plain``     the published algorithm: one operation and one architecture at a time through PyTorch's layers, in PyTorch's
              own layout of the maps (channels first)
``relaid``    the same with channels last: what the layout alone gives on this machine
``ours``      the engine in float32
``bfloat16``  the engine under autocast, where PyTorch computes it; small supernets are compiled and have no such side
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from nas_lib import graphed, methods, plan, proxies, ranking
from nas_lib.data import Data
from nas_lib.ops import LARGE
from nas_lib.protocol import PRECISIONS
from nas_lib.spaces import NB201
from nas_lib.steps import Run
from nas_lib.supernet import Supernet
from nas_lib.training import Budget, Stage1

SIDES = ("plain", "relaid", "ours", "bfloat16")


def measure(shapes, rounds: int = 5, device="cpu", methods_timed=("darts", "gdas"), rule="batch",
            candidates: int = 100, images: int = 256) -> xr.Dataset:
    """Everything timed at every shape (channels, cells, side): ``seconds (work, shape, side, round)`` and, of Stage 2 by its
    parts, ``scores (score, shape, side, round)``; at large shapes for an eighth of the ``candidates``.

    With ``agreement (work, shape)`` of float32 where the sides give losses, ``multiplies (work, shape)`` that ours must do,
    in the unit of the seconds, and ``attainable (shape)`` in multiply-accumulates per second.
    """
    found = {}
    for shape in map(tuple, shapes):
        name = "C={}, N={}, {side} x {side}".format(*shape[:2], side=shape[2])
        timed = {f"step of {m}": training_step(m, *shape, rounds=rounds, device=device) for m in methods_timed}
        timed["ranking, per cell"] = ranking_pass(*shape, images=images, rounds=rounds, rule=rule, device=device)
        number = max(1, candidates // 8) if large(shape[0], shape[2]) else candidates
        parts = selection(*shape, number, images, rounds=rounds, device=device)
        timed["scores, per candidate"] = parts.sum("score").assign_attrs(parts.attrs)
        work = xr.concat([t.drop_attrs() for t in timed.values()], xr.Variable("work", list(timed)))
        found[name] = xr.Dataset({
            "seconds": work, "scores": parts.drop_attrs(), "agreement": ("work", [t.attrs.get("agreement", np.nan) for t in timed.values()]),
            "multiplies": ("work", [t.attrs.get("multiplies", np.nan) for t in timed.values()]),
            "attainable": attainable(*shape, rounds=rounds, device=device)})
    return xr.concat(found.values(), xr.Variable("shape", list(found)), join="outer").assign_attrs(rule=rule, images=images)


def ratios(seconds: xr.DataArray) -> xr.Dataset:
    """How many times faster than the plain form the other sides are, ``(side, work, shape)``: ``ratio``, the median over
    rounds, ``low`` and ``high``, the least and the greatest."""
    times = seconds.sel(side="plain") / seconds.drop_sel(side="plain")
    return xr.Dataset({"ratio": times.median("round"), "low": times.min("round"), "high": times.max("round")})


def paired(sides: dict[str, Callable[[], object]], rounds: int, device="cpu") -> xr.DataArray:
    """Seconds that each of the ``sides`` takes, ``(side, round)``: in turns, after one warm-up each, on a GPU as many as come
    before a pass is recorded.

    On one thread of a CPU they are the processor's, in which waiting for others does not count; else they are by the clock.
    """
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def timed(work):
        wait(device)
        start = clock()
        work()
        wait(device)
        return clock() - start

    for work in sides.values():
        for _ in range(1 if torch.device(device).type == "cpu" else graphed.TIMES + 2):
            work()
    seconds = [[timed(work) for work in sides.values()] for _ in range(rounds)]
    return xr.DataArray(np.transpose(seconds), {"side": list(sides), "round": np.arange(rounds)}, name="seconds")


def noise(side: int, images: int, classes: int = 10, device="cpu") -> Data:
    """Made-up images ``[n, 3, side, side]`` with labels, as a data set that needs no transform."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * images, 3, side, side, generator=generator).to(device)
    y = torch.randint(classes, (2 * images,), generator=generator).to(device)
    return Data("noise", classes, (3, side, side), {"train": (x, y)}, lambda x, generator: x, {"name": "noise"},
                torch.device(device), lambda x: x)


def large(channels: int, side: int) -> bool:
    """Whether PyTorch computes the maps of a size: smaller ones are compiled."""
    return channels * side**2 > LARGE


def sides_of(channels: int, side: int) -> tuple[str, ...]:
    """Those that are timed at a size."""
    return SIDES if large(channels, side) else SIDES[:3]


def shown(net: Supernet, side: str) -> Supernet:
    """``net`` made to compute as a ``side`` does, in place."""
    net.compiled = net.fuse = side not in ("plain", "relaid")
    net.layout = torch.contiguous_format if side == "plain" else torch.channels_last
    return net.to(memory_format=net.layout)


def training_step(method: str, channels: int, cells: int, side: int, batch: int = 64, rounds: int = 5,
                  device="cpu") -> xr.DataArray:
    """Seconds of one step of Stage 1, of alpha where it learns and of the weights, on every side.

    Attribute ``agreement``: largest relative difference of the first two losses in float32, before rounding drives the
    trainings apart; ``multiplies``.
    """
    data, budget = noise(side, batch, device=device), Budget(channels=channels, cells=cells, batch=batch)
    losses: dict = {name: [] for name in sides_of(channels, side)}

    def side_of(name):
        run = Run(methods.stage1(method), NB201, data, replace(budget, precision=name if name == "bfloat16" else "float32"), 0, None)
        shown(run.net, name).train()
        (x, y), (xv, yv) = data.halves()

        def step():
            if run.learns:
                run.architecture_step(xv, yv, 0.0, (x, y))
            losses[name].append(run.weight_step(x, y, 0.0)[0].item())

        return step

    seconds = paired({name: side_of(name) for name in losses}, rounds, device)
    a, b = (np.array(losses[k][:2]) for k in ("plain", "ours"))
    way, costs = "sampled" if method in plan.SAMPLED else "mixed", plan.units(channels, cells, batch, side)
    count = sum(costs[f"{way} {of}"][0] for of in ("weights", "alpha")[:1 + methods.stage1(method).learns]) / 2
    return seconds.assign_attrs(agreement=float(np.max(abs(a - b) / abs(a))), multiplies=count)


def ranking_pass(channels: int, cells: int, side: int, images: int = 256, few: int = 4, blocks: int = 2,
                 block: int | None = None, rounds: int = 3, rule="batch", device="cpu") -> xr.DataArray:
    """Seconds per architecture of the space under ``rule``: plain on a ``few`` at random, ours on ``blocks`` of
    neighbours.

    Ours evaluates equal networks once, and its seconds are shared by all architectures. Attribute ``agreement``: largest
    relative difference of losses; ``multiplies`` of ours.
    """
    data, rng = noise(side, images, device=device), np.random.default_rng(0)
    net = trained(channels, cells, data)
    (x, y), (members, _) = data.halves()[1], ranking.representatives(NB201, rule)
    block = block or min(ranking.block_size(net, x, 256), 8 if large(channels, side) and data.device.type == "cpu" else 128)
    starts = rng.choice(len(members) - block, blocks)
    archs = [NB201.archs[members[k:k + block]] for k in starts]
    calibration = data.halves()[0][0] if rule == "recalibrate" else None
    slow = {name: shown(copy.deepcopy(net), name) for name in ("plain", "relaid")}
    some = NB201.archs[rng.integers(len(NB201), size=few)]

    def loop(name):
        return lambda: ranking.one_by_one(slow[name], some, x, y, rule, 256, calibration)[1]

    def engine(precision):
        return lambda: np.stack([ranking.accuracy(net, a, x, y, rule, calibration=calibration, precision=precision)[1] for a in archs])

    sides = {"plain": loop("plain"), "relaid": loop("relaid"), "ours": engine("float32"), "bfloat16": engine("bfloat16")}
    sides = {name: sides[name] for name in sides_of(channels, side)}
    a, b = sides["plain"](), ranking.accuracy(net, some, x, y, rule, calibration=calibration)[1]
    share = {name: 1 / few if name in slow else len(members) / len(NB201) / block / blocks for name in sides}
    seconds = paired(sides, rounds, device) * xr.DataArray(list(share.values()), {"side": list(share)})
    count = proxies.size(net, NB201.archs[members], (3, side, side))[1].sum() * (len(x) + len(x) * (rule == "recalibrate")) / len(NB201)
    return seconds.assign_attrs(agreement=float(np.max(abs(a - b) / abs(a))), multiplies=float(count))


def selection(channels: int, cells: int, side: int, candidates: int = 100, images: int = 256, batch: int = 64,
              rounds: int = 3, device="cpu") -> xr.DataArray:
    """Seconds per candidate ``(score, side, round)`` for valid, synflow and jacob_cov: as published, with channels last, and ours.

    Attribute ``multiplies``: those of the passes forward, and back to the images.
    """
    data = noise(side, images, device=device)
    net, rng = trained(channels, cells, data), np.random.default_rng(0)
    archs = NB201.archs[rng.integers(len(NB201), size=candidates)]
    (x, y), (xv, yv) = data.halves()
    slow = {name: shown(copy.deepcopy(net), name) for name in ("plain", "relaid")}

    def validated(name):
        return lambda: ranking.one_by_one(slow[name], archs, xv, yv, "batch", 256, None)

    def alone(name, measure):
        return lambda: [proxies.score(slow[name], arch, x[:batch], y[:batch], [measure]) for arch in archs]

    def ours(measure):
        scorer = proxies.Scorer(net, [measure], training=True)
        return lambda: [scorer(arch, x[:batch], y[:batch]) for arch in archs]

    sides = {"valid": {name: validated(name) for name in slow} | {"ours": lambda: ranking.accuracy(net, archs, xv, yv, "batch")}}
    sides |= {m: {name: alone(name, m) for name in slow} | {"ours": ours(m)} for m in ("synflow", "jacob_cov")}
    seconds = [paired(each, rounds, device) / candidates for each in sides.values()]
    passes = len(xv) + 2 * min(batch, len(x)) + 2
    count = proxies.size(net, archs, (3, side, side))[1].mean() * passes
    return xr.concat(seconds, xr.Variable("score", list(sides))).assign_attrs(multiplies=float(count))


@dataclass(frozen=True)
class _Projected(Stage1):
    """A mixture of which half the edges are decided."""

    def mix(self, space, alpha, progress, generator):
        return plan.projected(alpha.softmax(-1))


def units(channels: int, cells: int, side: int, batch: int = 64, rounds: int = 5, device="cpu") -> xr.DataArray:
    """Seconds ``(unit, round)`` of the units that ``plan.units`` counts, as the engine computes them."""
    data, budget = noise(side, batch, device=device), Budget(channels=channels, cells=cells, batch=batch)
    (x, y), (xv, yv) = data.halves()
    mixed, projected, gdas, rsps = (Run(m, NB201, data, budget, 0, None) for m in (
        methods.stage1("darts"), _Projected(), methods.stage1("gdas"), methods.stage1("rsps")))
    for run in (mixed, projected, gdas, rsps):
        run.net.train()
    w = torch.full((len(NB201.edges), len(NB201.ops)), 1 / len(NB201.ops))
    w[0, 0] = 0
    net = trained(channels, cells, data)
    blocks = plan.blocks(net, batch, side)

    @torch.no_grad()
    def trial():
        mixed.net(x, w)

    works = {f"{name} {of}": step for name, run in (("mixed", mixed), ("projected", projected)) for of, step in (
        ("weights", partial(run.weight_step, x, y, 0.0)), ("alpha", partial(run.architecture_step, xv, yv, 0.0)))}
    works |= {"sampled weights": partial(rsps.weight_step, x, y, 0.0), "sampled alpha": partial(gdas.architecture_step, xv, yv, 0.0),
              "trial": trial, **{name: partial(ranking.accuracy, net, archs, x, y, batch=batch) for name, archs in blocks.items()}}
    together = xr.DataArray([len(blocks[name]) if name in blocks else 1 for name in works], {"unit": list(works)})
    return paired(works, rounds, device).rename(side="unit") / together


def precisions(data: Data, channels: int, cells: int, steps: int, sample: int, images: int, rule="batch",
               seed: int = 0) -> xr.Dataset:
    """``score`` and ``loss (precision, arch)`` of ``sample`` different networks at random, under weights that ``rsps`` has
    trained for ``steps`` steps of 64 images at a rate of 0.1."""
    run = Run(methods.stage1("rsps"), NB201, data, Budget(channels=channels, cells=cells, lr=0.1), seed, None)
    x, y = data.halves()[0]
    for _ in range(steps):
        rows = torch.randint(len(y), (64,), generator=run.choices).to(y.device)
        run.net.train()
        run.weight_step(x[rows], y[rows], 0.0)
    ids = np.random.default_rng(seed).choice(ranking.representatives(NB201, rule)[0], sample, replace=False)
    xv, yv = data.fixed("valid half", first=images)
    calibration = data.fixed("train half", first=images)[0] if rule == "recalibrate" else None
    found = [ranking.accuracy(run.net, NB201.archs[ids], xv, yv, rule, calibration=calibration, precision=p) for p in PRECISIONS]
    score, loss = np.swapaxes(found, 0, 1)
    return xr.Dataset({"score": (("precision", "arch"), score), "loss": (("precision", "arch"), loss)},
                      {"precision": list(PRECISIONS), "arch": NB201.strings[ids]},
                      {"data": data.name, "channels": channels, "cells": cells, "steps": steps, "images": images, "rule": rule})


def attainable(channels: int, cells: int, side: int, batch: int = 64, rounds: int = 5, device="cpu") -> float:
    """Multiply-accumulates per second of the supernet's 3x3 convolutions alone, forward, channels last."""
    shapes = [(channels * 2**k, side // 2**k) for k in range(3)]
    work, count = [], 0
    for width, s in shapes:
        x = torch.randn(batch, width, s, s, device=device).to(memory_format=torch.channels_last)
        w = torch.randn(width, width, 3, 3, device=device).to(memory_format=torch.channels_last)
        work.append((x, w))
        count += cells * len(NB201.edges) * batch * 9 * width**2 * s**2

    def run():
        for x, w in work:
            for _ in range(cells * len(NB201.edges)):
                F.conv2d(x, w, padding=1)

    with torch.no_grad():
        return count / float(paired({"convolutions": run}, rounds, device).median())


def trained(channels, cells, data) -> Supernet:
    """A supernet whose batch norms have seen images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Supernet(NB201, channels, cells, data.classes, 3).to(data.device).train()
    with torch.no_grad():
        net(data.halves()[0][0][:64], torch.full((len(NB201.edges), len(NB201.ops)), 1 / len(NB201.ops)))
    return net


def wait(device) -> None:
    """Until everything that was started on the ``device`` has ended."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
