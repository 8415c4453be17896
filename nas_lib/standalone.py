"""Architectures trained from scratch, several seeds of one architecture at once.

The seeds are a population: group k of every grouped convolution is seed k's network, with its own
initial weights, its own order of the images and its own noise, so that the result of a seed does not
depend on which others train beside it (up to rounding).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from nas_lib.checkpoint import Checkpoint
from nas_lib.data import Data
from nas_lib.ops import Reduction, candidate, stem
from nas_lib.spaces import Space


class FixedCell(nn.Module):
    """A cell that holds one operation per live edge; others are left out, a zero input is None."""

    def __init__(self, space: Space, arch, channels: int, groups: int):
        super().__init__()
        self.space = space
        self.edges = nn.ModuleDict({
            f"{space.edges[e][0]}<-{space.edges[e][1]}":
                candidate(space.ops[arch[e]], channels * groups, affine=True, groups=groups)
            for e in np.flatnonzero(space.live(arch))
        })

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x] + [None] * (self.space.nodes - 1)
        for name, op in self.edges.items():
            target, source = map(int, name.split("<-"))
            y = op(nodes[source])
            nodes[target] = y if nodes[target] is None else nodes[target] + y
        return torch.zeros_like(x) if nodes[-1] is None else nodes[-1]


class Network(nn.Module):
    """``groups`` networks of one architecture ``[edge]`` side by side: all batch norms affine.

    ``[B, groups * C, H, W] -> [groups, B, classes]``.
    """

    def __init__(self, space: Space, arch, channels=16, cells=5, classes=10, in_channels=3, groups=1):
        super().__init__()
        self.groups = groups
        layers = [stem(in_channels * groups, channels * groups, groups)]
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                layers.append(Reduction(width // 2 * groups, width * groups, groups))
            layers += [FixedCell(space, arch, width, groups) for _ in range(cells)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(width * groups), nn.ReLU())
        self.classifier = nn.Conv2d(width * groups, classes * groups, 1, groups=groups)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).mean((2, 3), keepdim=True)
        return self.classifier(features).view(len(x), self.groups, -1).transpose(0, 1)


def singles(space: Space, arch, seeds, **shape) -> list[dict]:
    """Initial states of one network per seed."""
    states = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            states.append(Network(space, arch, **shape).state_dict())
    return states


def population(space: Space, arch, states: list[dict], **shape) -> Network:
    """A ``Network`` whose group k is in the state ``states[k]`` of a single network."""
    with torch.random.fork_rng(devices=[]):
        net = Network(space, arch, **shape, groups=len(states))
    net.load_state_dict({k: v if v.dim() == 0 else torch.cat([s[k] for s in states])
                         for k, v in states[0].items()})
    return net


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from scratch: SGD with Nesterov momentum and one cycle of the rate."""

    channels: int = 4
    cells: int = 1
    steps: int = 480
    batch: int = 64
    lr: float = 0.25
    warmup: float = 0.2         # share of the steps in which the rate rises
    momentum: float = 0.9
    weight_decay: float = 5e-4
    copies: int = 6             # views of every test and validation image


def train_from_scratch(space: Space, arch, data: Data, recipe: Recipe, seeds, compiled=None) -> dict:
    """Train ``arch [edge]`` once per seed; test and validation accuracy in percent, ``[seed]`` each.

    Also ``seconds`` of processor time, for all seeds together. ``compiled`` (default: on a CPU) trains the seeds one after
    the other by ``smallnets``, else together as groups of one network; both see the same images.
    """
    start = time.process_time()
    shape = {"channels": recipe.channels, "cells": recipe.cells, "classes": data.classes,
             "in_channels": data.shape[0]}
    states = singles(space, arch, seeds, **shape)
    streams = [_Stream(data, recipe.batch, seed) for seed in seeds]
    if data.device.type == "cpu" if compiled is None else compiled:
        from nas_lib import smallnets  # numba is slow to import, and every run imports this module

        program = smallnets.Program(space, arch, data.shape, recipe.channels, recipe.cells, data.classes,
                                    recipe.batch)
        states = [smallnets.train(program, state, stream, rates(recipe), recipe.momentum, recipe.weight_decay)
                  for state, stream in zip(states, streams, strict=True)]
        scores = {part: np.array([smallnets.accuracy(program, state, *data.fixed(part, recipe.copies))
                                  for state in states]) for part in ("test", "valid")}
    else:
        net = population(space, arch, states, **shape).to(data.device)
        _train_groups(net, streams, recipe)
        scores = {part: _evaluate(net, *data.fixed(part, recipe.copies)) for part in ("test", "valid")}
    return scores | {"seconds": time.process_time() - start}


def rates(recipe: Recipe) -> np.ndarray:
    """Learning rates ``[step]``: up from lr/25 to lr and down to lr/250,000, along half cosines."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=recipe.steps,
                                                   pct_start=recipe.warmup, cycle_momentum=False)
    found = []
    for _ in range(recipe.steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return np.array(found)


def _train_groups(net: Network, streams: list[_Stream], recipe: Recipe) -> None:
    optimiser = torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, nesterov=True,
                                weight_decay=recipe.weight_decay)
    for rate in rates(recipe):
        optimiser.param_groups[0]["lr"] = rate
        inputs, labels = zip(*(next(s) for s in streams), strict=True)
        logits = net(torch.cat(inputs, 1).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.flatten(0, 1), torch.cat(labels), reduction="sum") / recipe.batch
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


class _Stream:
    """Endless batches of one seed: an epoch at a time is shuffled and transformed, with its own noise."""

    def __init__(self, data: Data, batch: int, seed: int):
        self.data, self.batch = data, batch
        self.x, self.y = data.parts["train"]
        self.order = torch.Generator().manual_seed(seed)
        self.pixels = torch.Generator(data.device).manual_seed(seed)
        self.queue: list = []

    def __iter__(self):
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if not self.queue:
            full = len(self.y) // self.batch * self.batch
            rows = torch.randperm(len(self.y), generator=self.order)[:full].to(self.y.device)
            x = self.data.augment(self.x[rows], self.pixels)
            self.queue = list(zip(x.split(self.batch), self.y[rows].split(self.batch), strict=True))
        return self.queue.pop(0)


@torch.no_grad()
def _evaluate(net: Network, x: Tensor, y: Tensor, batch=512) -> np.ndarray:
    """Top-1 accuracy in percent of every network of the population on the same images."""
    net.eval()
    right = sum((net(xb.repeat(1, net.groups, 1, 1)).argmax(-1) == yb).sum(1)
                for xb, yb in zip(x.split(batch), y.split(batch), strict=True))
    return (100 * right / len(y)).cpu().numpy()


def train_shard(space: Space, networks, data: Data, recipe: Recipe, seeds, file=None,
                progress=True) -> xr.Dataset:
    """Train many architectures (benchmark indices ``networks``), each once per seed.

    Returns ``test``, ``valid`` (network, train_seed) in percent and ``seconds`` (network) per seed. With
    ``file`` what is done is stored there as architectures end, and a stopped shard goes on from it.
    """
    purpose = json.dumps([space.name, asdict(recipe), data.config, list(seeds), list(map(int, networks))])
    kept = Checkpoint(file, purpose)

    def take(state):
        number = range(len(networks) + 1).index(len(state["seconds"]))
        shapes = {"test": (number, len(seeds)), "valid": (number, len(seeds)), "seconds": (number,)}
        if any(state[k].dtype != torch.float64 for k in shapes):
            raise ValueError("its numbers are of another type")
        return {k: state[k].reshape(shape).tolist() for k, shape in shapes.items()}

    rows = kept.load(take) or {"test": [], "valid": [], "seconds": []}
    bar = tqdm(networks[len(rows["seconds"]):], desc="train from scratch", unit="cell",
               initial=len(rows["seconds"]), total=len(networks), disable=not progress)
    for index in bar:
        result = train_from_scratch(space, space.archs[index], data, recipe, seeds)
        rows["test"].append(result["test"].tolist())
        rows["valid"].append(result["valid"].tolist())
        rows["seconds"].append(result["seconds"] / len(seeds))
        kept.keep({k: torch.tensor(v, dtype=torch.float64) for k, v in rows.items()},
                  len(rows["seconds"]) == len(networks))
    dims = ("network", "train_seed")
    return xr.Dataset(
        {"test": (dims, np.float32(rows["test"])), "valid": (dims, np.float32(rows["valid"])),
         "seconds": ("network", np.float32(rows["seconds"]))},
        coords={"network": np.asarray(networks), "train_seed": list(seeds)},
        attrs={"recipe": asdict(recipe), "data": data.config})
