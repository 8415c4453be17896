"""How long a campaign on NAS-Bench-201 takes on a GPU that is not here: operations and bytes, counted, and a machine.

Every unit of work is run once on the meta device, where tensors have shapes and no numbers, while its multiply-adds, the
bytes that its kernels read and write, and the kernels are counted. A machine then needs for the unit

    seconds = max(flops / attainable flops, bytes / bandwidth, kernels * launch)

the roofline of Williams et al. (CACM 2009) with a third ceiling for many small kernels. Those of mixtures are recorded
(``graphed``) and start faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nas_lib import ranking
from nas_lib.methods import stage1
from nas_lib.spaces import NB201
from nas_lib.supernet import Supernet

IMAGES = {"cifar10": (25_000, 32), "cifar100": (25_000, 32), "ImageNet16-120": (75_850, 16)}      # of each half, side
RECORDED = "mixed|projected|trial"                  # units that ``graphed`` records
SAMPLED = ("gdas", "rsps", "rsps+", "rsps2")        # one operation on every edge


@dataclass(frozen=True)
class Machine:
    """What one device does: multiply-adds count as two operations. Defaults: NVIDIA H100 SXM, its data sheet's TF32 and
    memory, the share of either that convolutions of few channels reach, and what it takes to start a counted kernel.
    """

    flops: float = 495e12       # per second, dense TF32
    bandwidth: float = 3.35e12  # bytes per second
    share: float = 0.25         # of both that is reached
    launch: float = 6e-5        # seconds per kernel, by Python and PyTorch
    recorded: float = 2e-6      # seconds per kernel of a recorded graph

    def seconds(self, work: pd.DataFrame) -> pd.DataFrame:
        """Seconds by each ceiling; ``work`` has unit, flops, bytes and kernels."""
        launch = np.where(work["unit"].str.match(RECORDED), self.recorded, self.launch)
        return pd.DataFrame({"arithmetic": work["flops"] / (self.share * self.flops),
                             "memory": work["bytes"] / (self.share * self.bandwidth), "launches": work["kernels"] * launch})


class _Traffic(TorchDispatchMode):
    """Counts kernels and the bytes that they read and write; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = self.kernels = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in touched)
            self.kernels += 1
        return out


def counted(net: Supernet, images: int, w, backward: bool, weights: bool = True, side: int = 32) -> np.ndarray:
    """``[flops, bytes, kernels]`` of a pass over ``images`` under ``w``, and ``backward`` to the ``weights`` or to alpha.

    That of the images stands for the gradient of alpha, which takes the same way back.
    """
    x = torch.empty(images, 3, side, side, device="meta", requires_grad=backward and not weights)
    y = torch.empty(images, dtype=torch.int64, device="meta")
    for p in net.parameters():
        p.requires_grad_(backward and weights)
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic, torch.set_grad_enabled(backward):
        loss = F.cross_entropy(net.train()(x, w), y)
        if backward:
            loss.backward()
    return np.array([flops.get_total_flops(), traffic.bytes, traffic.kernels], dtype=float)


def units(channels: int, cells: int, batch: int, side: int = 32) -> dict[str, np.ndarray]:
    """What a unit of each kind of work costs on a batch of images of a ``side``: ``[flops, bytes, kernels]``.

    A step of the weights or of alpha with all operations mixed, with one left on half of the edges (``projected``), or with
    one sampled per edge, where the mean over samples of one operation holds every operation of every edge once, as a uniform
    law does on average; a forward pass of the mixture (``trial``), and of one architecture of a block, neighbours (``ranked``)
    or at random (``scored``).
    """
    with torch.device("meta"):
        net = Supernet(NB201, channels, cells)
    mixture = torch.full((len(NB201.edges), len(NB201.ops)), 1 / len(NB201.ops))

    def sampled(weights):
        archs = [torch.full(mixture.shape[:1], o) for o in range(len(NB201.ops))]
        return np.mean([counted(net, batch, arch, True, weights, side) for arch in archs], 0)

    mixed = {name: {"weights": counted(net, batch, w, True, True, side), "alpha": counted(net, batch, w, True, False, side)}
             for name, w in (("mixed", mixture), ("projected", projected(mixture)))}
    return {f"{name} {of}": cost for name, both in mixed.items() for of, cost in both.items()} | {
        "sampled weights": sampled(True), "sampled alpha": sampled(False), "trial": counted(net, batch, mixture, False, side=side)} | {
        name: together(net, archs, batch, side) for name, archs in blocks(net, batch, side).items()}


def blocks(net: Supernet, batch: int, side: int) -> dict[str, np.ndarray]:
    """Architectures ``[arch, edge]`` that are evaluated together: neighbours of the ranking, and as a uniform law draws them."""
    size = ranking.block_size(net, torch.empty(batch, 3, side, side, device="meta"), batch)
    drawn = np.random.default_rng(0).integers(len(NB201), size=size)
    return {"ranked": neighbours(size), "scored": NB201.archs[drawn]}


def neighbours(size: int) -> np.ndarray:
    """So many architectures ``[arch, edge]`` that follow each other in a ranking, from its middle."""
    members = ranking.representatives(NB201, "batch")[0]
    return NB201.archs[members[len(members) // 2:][:size]]


def together(net: Supernet, archs: np.ndarray, images: int, side: int = 32) -> np.ndarray:
    """``[flops, bytes, kernels]`` for each of ``archs [arch, edge]`` where all see a batch of ``images`` together."""
    x = torch.empty(images, 3, side, side, device="meta")
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        ranking.logits(net.train(), archs, x, ranking.Layers("batch"))
    return np.array([flops.get_total_flops(), traffic.bytes, traffic.kernels]) / len(archs)


def projected(w: torch.Tensor) -> torch.Tensor:
    """Mixing weights ``w [edge, op]`` with one operation left on the first half of the edges, as in the middle of ``perturb``."""
    half = len(w) // 2
    chosen = F.one_hot(torch.full((half,), NB201.ops.index("nor_conv_3x3")), w.shape[1]).to(w)
    return torch.cat([chosen, w[half:]])


def work(campaign: dict) -> pd.DataFrame:
    """The work of a ``campaign`` (its YAML file): a row per data set, method and kind, with the ``count`` of its units for one
    seed, its name in ``units``, the ``side`` of its images and what one of them costs: ``flops``, ``bytes``, ``kernels``.

    ``perturb`` tries all operations of all edges on the whole validation half. Synflow, jacob_cov and prune are left out: a batch
    or two each per candidate, where ``valid`` has hundreds. Equal networks are ranked once. On smaller images flops and bytes are fewer as the area is.
    """
    p, rows = campaign["parameters"], []
    costs = units(p["channels"], p["cells"], p["batch"])
    distinct = len(ranking.representatives(NB201, "batch")[0])
    for data in np.atleast_1d(campaign["data"]):
        images, side = IMAGES[data]
        area = np.array([side**2 / 32**2] * 2 + [1])
        batches = -(-images // p["batch"])
        tuning = campaign["settings"]["perturb"]["epochs"] * batches
        for name in campaign["stage1"]:
            method = stage1(name)
            steps = method.trains * campaign.get("own", {}).get(name, {}).get("epochs", p["epochs"]) * batches
            ranked = 0 if name in campaign["unscored"] else distinct * campaign["ranking"]["images"] / p["batch"]
            way = "sampled" if name in SAMPLED else "mixed"
            kinds = ((f"train: {way} steps of weights", f"{way} weights", steps),
                     (f"train: {way} steps of alpha", f"{way} alpha", steps * method.learns))
            kinds += (("rank the space", "ranked", ranked),
                      ("select: valid", "scored", campaign["candidates"] * (images + ranking.CALIBRATION) / p["batch"]),
                      ("select: perturb, trials", "trial", len(NB201.edges) * len(NB201.ops) * batches),
                      ("select: perturb, tuning of weights", "projected weights", tuning),
                      ("select: perturb, tuning of alpha", "projected alpha", tuning))
            rows += [[data, name, kind, round(count), unit, side, *costs[unit] * area] for kind, unit, count in kinds if count]
    return pd.DataFrame(rows, columns=["data", "stage1", "work", "count", "unit", "side", "flops", "bytes", "kernels"])


def makespan(hours, devices: int) -> float:
    """Hours until all runs are done if every free device takes the longest that is left (Graham, 1969)."""
    busy = np.zeros(devices)
    for run in sorted(hours, reverse=True):
        busy[busy.argmin()] += run
    return float(busy.max())
