"""How fast the engine is: against the plain form, and against what the machine can do.

The plain form is the published algorithm, one operation and one architecture at a time through PyTorch's layers as
they stand. Both sides run in one process, in turns, on made-up images, and must agree.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from nas_lib import methods, proxies, ranking
from nas_lib.data import Data
from nas_lib.spaces import NB201
from nas_lib.steps import Run
from nas_lib.supernet import Supernet
from nas_lib.training import Budget


def measure(shapes, rounds: int = 5, device="cpu", methods_timed=("darts", "gdas"), rule="batch",
            candidates: int = 100) -> xr.Dataset:
    """Everything timed at every shape (channels, cells, side): ``seconds (work, shape, side, round)``.

    With ``agreement (work, shape)`` where both sides give losses, and ``attainable (shape)`` in multiply-accumulates
    per second.
    """
    found = {}
    for shape in map(tuple, shapes):
        name = "C={}, N={}, {side} x {side}".format(*shape[:2], side=shape[2])
        timed = {f"step of {m}": training_step(m, *shape, rounds=rounds, device=device) for m in methods_timed}
        timed["ranking, per cell"] = ranking_pass(*shape, rounds=rounds, rule=rule, device=device)
        timed["scores, per candidate"] = selection(*shape, candidates, rounds=rounds, device=device) / candidates
        work = xr.concat([t.drop_attrs() for t in timed.values()], xr.Variable("work", list(timed)))
        found[name] = xr.Dataset({
            "seconds": work, "agreement": ("work", [t.attrs.get("agreement", np.nan) for t in timed.values()]),
            "attainable": attainable(*shape, rounds=rounds, device=device)})
    return xr.concat(found.values(), xr.Variable("shape", list(found))).assign_attrs(rule=rule)


def ratios(seconds: xr.DataArray) -> xr.Dataset:
    """How many times faster ours is, ``(work, shape)``: ``ratio``, the median over rounds, ``low`` and ``high``, the least
    and the greatest."""
    times = seconds.sel(side="plain") / seconds.sel(side="ours")
    return xr.Dataset({"ratio": times.median("round"), "low": times.min("round"), "high": times.max("round")})


def paired(sides: dict[str, Callable[[], object]], rounds: int, device="cpu") -> xr.DataArray:
    """Seconds that each of the ``sides`` takes, ``(side, round)``: in turns, after one warm-up each."""
    def timed(work):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - start

    for work in sides.values():
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


def training_step(method: str, channels: int, cells: int, side: int, batch: int = 64, rounds: int = 5,
                  device="cpu") -> xr.DataArray:
    """Seconds of one step of Stage 1, of alpha where it learns and of the weights: ``plain`` and ``ours``.

    Attribute ``agreement``: largest relative difference of the two losses in these steps.
    """
    data, budget = noise(side, batch, device=device), Budget(channels=channels, cells=cells, batch=batch)
    losses: dict = {"plain": [], "ours": []}

    def side_of(name):
        run = Run(methods.stage1(method), NB201, data, budget, 0, None)
        run.net.compiled = run.net.fuse = name == "ours"
        run.net.train()
        (x, y), (xv, yv) = data.halves()

        def step():
            if run.learns:
                run.architecture_step(xv, yv, 0.0, (x, y))
            losses[name].append(run.weight_step(x, y, 0.0)[0].item())

        return step

    seconds = paired({name: side_of(name) for name in losses}, rounds, device)
    a, b = (np.array(v) for v in losses.values())
    return seconds.assign_attrs(agreement=float(np.max(abs(a - b) / abs(a))))


def ranking_pass(channels: int, cells: int, side: int, images: int = 256, few: int = 4,
                 block: int | None = None, rounds: int = 3, rule="batch", device="cpu") -> xr.DataArray:
    """Seconds per architecture of the space under ``rule``: ``plain`` on ``few`` of them, ``ours`` on a ``block``.

    Ours evaluates equal networks once, and its seconds are shared by all architectures. Attribute ``agreement``: largest
    relative difference of the losses of the few.
    """
    data = noise(side, images, device=device)
    net = trained(channels, cells, data)
    (x, y), (members, _) = data.halves()[1], ranking.representatives(NB201, rule)
    start = len(members) // 2
    archs = NB201.archs[members[start:start + (block or ranking.block_size(net, x, 256))]]
    calibration = data.halves()[0][0] if rule == "recalibrate" else None
    slow = _plain(net)
    sides = {"plain": lambda: ranking.one_by_one(slow, archs[:few], x, y, rule, 256, calibration),
             "ours": lambda: ranking.accuracy(net, archs, x, y, rule, calibration=calibration)}
    a, b = sides["plain"]()[1], sides["ours"]()[1][:few]
    share = {"plain": 1 / few, "ours": len(members) / len(NB201) / len(archs)}
    seconds = paired(sides, rounds, device) * xr.DataArray(list(share.values()), {"side": list(share)})
    return seconds.assign_attrs(agreement=float(np.max(abs(a - b) / abs(a))))


def selection(channels: int, cells: int, side: int, candidates: int = 100, images: int = 256, batch: int = 64,
              rounds: int = 3, device="cpu") -> xr.DataArray:
    """Seconds for valid, synflow and jacob_cov of ``candidates``: ``plain`` and ``ours``."""
    data = noise(side, images, device=device)
    net, rng = trained(channels, cells, data), np.random.default_rng(0)
    archs = NB201.archs[rng.integers(len(NB201), size=candidates)]
    (x, y), (xv, yv) = data.halves()
    names, slow = ("synflow", "jacob_cov"), _plain(net)

    def plain():
        ranking.one_by_one(slow, archs, xv, yv, "batch", 256, None)
        return [proxies.score(slow, arch, x[:batch], y[:batch], names) for arch in archs]

    def ours():
        ranking.accuracy(net, archs, xv, yv, "batch")
        scorer = proxies.Scorer(net, names, training=True)
        return [scorer(arch, x[:batch], y[:batch]) for arch in archs]

    return paired({"plain": plain, "ours": ours}, rounds, device)


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


def _plain(net: Supernet) -> Supernet:
    net = copy.deepcopy(net)
    net.compiled = net.fuse = False
    return net


def trained(channels, cells, data) -> Supernet:
    """A supernet whose batch norms have seen images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Supernet(NB201, channels, cells, data.classes, 3).to(data.device).train()
    with torch.no_grad():
        net(data.halves()[0][0][:64], torch.full((len(NB201.edges), len(NB201.ops)), 1 / len(NB201.ops)))
    return net


def _wait(device) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
