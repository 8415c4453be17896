"""Perturbation-based selection (DARTS-PT; Wang et al., ICLR 2021): the operation whose removal hurts most stays.

The network mixes its operations by ``p = softmax(alpha)``. One edge after another, in random order, is projected:
for each of its operations o the network is evaluated with ``p[edge, o] = 0`` and nothing else changed, on the
validation half; the operation without which it is worst becomes the only one of the edge. Where a node takes two of
its edges, nodes follow: the edge is dropped without whose row the network is best, until two are left. Between
projections the weights are tuned by SGD, at a tenth of Stage 1's first learning rate, and alpha by Adam, both anew.

``alpha`` is that of Stage 1; where it is another thing than logits per edge, the log probabilities; where nothing
was learned (rsps, none), ``1e-3 N(0, 1)``, so that DARTS is what selects (D11). The candidates are not looked at.
Evaluations are in train mode, on the same fixed images in the same batches of Stage 1's size. Supernet and seed decide alone.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nas_lib.checkpoint import Checkpoint
from nas_lib.ops import draw_from
from nas_lib.selection import Choice, learned
from nas_lib.steps import Run
from nas_lib.training import Budget, Stage1, TrainingError

DROPPED = -2
TUNING = {True: (25, 100), False: (81, 50)}     # epochs here per epochs of Stage 1: NAS-Bench-201, the DARTS spaces
CRITERIA = {"accuracy": lambda out, y: (out.argmax(1) != y).sum(),
            "loss": lambda out, y: F.cross_entropy(out, y, reduction="sum").double()}
FIXED = ("blank", "blank-")         # Stage 1 never trained their alpha, and neither does the projection


def select(trained, data, candidates, seed, crit="accuracy", epochs=None, freeze_alpha=False, blind=False, folder=None):
    """``crit``: remove by the lowest accuracy or the highest loss. ``epochs`` of tuning: None means as published, to
    the scale of Stage 1's (25 of 100, in the DARTS spaces 81 of 50). ``freeze_alpha``: tune the weights only (D11).
    ``blind``: an edge dropped from a node stays active until the node is decided, as published (D22). With ``folder`` the
    state is kept there as epochs end: a stopped selection goes on where it was, a finished one is only read."""
    if crit not in CRITERIA:
        raise ValueError(f"unknown criterion {crit!r}: {' or '.join(CRITERIA)}")
    start = time.perf_counter()
    stage1 = Budget(**trained.config["budget"])
    share, of = TUNING[trained.space.enumerable]
    epochs = max(1, stage1.epochs * share // of) if epochs is None else epochs
    method = _Projected(trained, learns=not (freeze_alpha or trained.config["stage1"] in FIXED),
                        kept=torch.full((len(trained.space.edges),), -1))
    budget = replace(stage1, lr=stage1.lr / 10, lr_min=stage1.lr / 10, partial=1)
    run = Run(method, trained.space, data, budget, seed, None, replace(trained.protocol, untrained_cells=False))
    run.net.load_state_dict(trained.supernet.state_dict())
    stored = Checkpoint(folder and Path(folder) / "perturb.pt", f"perturb by {crit}, {epochs} epochs, alpha learns: "
                        f"{method.learns}{', blind' if blind else ''}, seed {seed}, of {trained.config}")

    def take(state):
        run.restore(state)
        method.kept.copy_(state["kept"])
        return int(state["ties"]), float(state["spent"])

    ties, before = stored.load(take) or (1, 0.0)
    while run.epoch < epochs:
        for edges in (edges for epoch, edges in schedule(trained.space, epochs, seed) if epoch == run.epoch):
            ties *= project(run, edges, CRITERIA[crit], blind)
        if not math.isfinite(run.train_epoch(epochs)):
            raise TrainingError(f"perturb: the loss is not finite in tuning epoch {run.epoch - 1}, step {run.diverged}; lower Stage 1's "
                                f"learning rate ({stage1.lr}), of which a tenth is used here")
        spent = before + time.perf_counter() - start
        stored.keep(run.state() | {"kept": method.kept, "ties": ties, "spent": spent}, run.epoch == epochs)
    return Choice(trained.space.name_of(trained.space.strongest(run.probs())), ties, seconds=before + time.perf_counter() - start)


def schedule(space, epochs: int, seed: int) -> list[tuple[int, tuple[int, ...]]]:
    """(epoch before which, edges): one edge whose operation, or all of a node of which two are then chosen.

    Evenly spread, the last before the last epoch. The order in a cell is numpy's ``choice`` among the sorted rest, again
    and again, one of each cell in turn, as published.
    """
    rng, steps = np.random.RandomState(seed), []
    for groups in ([[(e,) for e in cell] for cell in space.cells], [space.crowded(cell) for cell in space.cells]):
        for _ in range(max(map(len, groups))):
            steps.append([group.pop(rng.choice(len(group), size=1)[0]) for group in groups])
    last = max(len(steps) - 1, 1)
    return [(min(i * epochs // last, epochs - 1), edges) for i, step in enumerate(steps) for edges in step]


def project(run: Run, edges: tuple[int, ...], criterion, blind: bool) -> int:
    """Decide what ``schedule`` asks for, in the method's ``kept``; the number of choices that were as good."""
    kept, ties, rest = run.method.kept, 1, list(edges)
    if len(edges) == 1:
        harm = removals(run, [(edges[0], op) for op in range(len(run.space.ops))], criterion)
        kept[edges[0]] = int(np.argmax(harm))                   # the first among equals
        return harm.count(max(harm))
    while len(rest) > 2:
        harm = removals(run, rest, criterion)
        least = len(harm) - 1 - int(np.argmin(harm[::-1]))      # the last among equals
        ties *= harm.count(harm[least])
        dropped = rest.pop(least)
        if not blind:
            kept[dropped] = DROPPED
    kept[[e for e in edges if e not in rest]] = DROPPED
    return ties


@torch.no_grad()
def removals(run: Run, places: list, criterion) -> list[float]:
    """Wrong answers, or the summed loss, on the validation half without each of ``places``: (edge, op), or an edge."""
    mixture = run.method.mix(run.space, run.alpha, 0.0, None)
    batches = [t.split(run.budget.batch) for t in run.data.fixed("valid half")]
    net, harm = run.net.train(), []
    for place in places:
        w = mixture.clone()
        w[place] = 0
        draw_from(net, torch.Generator(run.data.device).manual_seed(0))     # the same noise for all, if there is any
        harm.append(sum(criterion(net(x, w), y) for x, y in zip(*batches, strict=True)).item())
    draw_from(net, run.pixels)
    return harm


@dataclass(frozen=True)
class _Projected(Stage1):
    """Tuning as a training: softmax of alpha, and where an edge is projected its one operation ``kept [edge]``."""

    trained: object
    kept: torch.Tensor              # -1: not yet projected, -2: dropped
    learns: bool = True

    @property
    def auxiliary(self):
        return self.trained.supernet.auxiliary

    def init(self, space, generator, truth):
        if not learned(self.trained):
            return super().init(space, generator, truth)
        alpha, shape = self.trained.alpha, (len(space.edges), len(space.ops))
        logits = isinstance(alpha, torch.Tensor) and alpha.shape == shape
        return alpha.clone() if logits else self.trained.probs.clamp(min=1e-12).log()

    def mix(self, space, alpha, progress, generator):
        w = alpha.softmax(-1)
        one_hot = F.one_hot(self.kept.clamp(min=0), w.shape[-1]).to(w)
        w = torch.where((self.kept >= 0)[:, None], one_hot, w)
        return w.masked_fill((self.kept == DROPPED)[:, None], 0)

    def probs(self, space, alpha):
        return self.mix(space, alpha, 0.0, None)

    def partial_at(self, progress):
        return self.trained.supernet.partial
