"""Perturbation-based selection (DARTS-PT; Wang et al., ICLR 2021): the operation whose removal hurts most stays.

The network mixes its operations by ``p = softmax(alpha)``. One edge after another, in random order, is projected:
for each of its operations o the network is evaluated with ``p[edge, o] = 0`` and nothing else changed, on the
validation half; the operation without which it is worst becomes the only one of the edge. Between projections the
weights are tuned by SGD, at a tenth of Stage 1's first learning rate, and alpha by Adam, both started anew.

``alpha`` is that of Stage 1; where it is another thing than logits per edge, the log probabilities; where nothing
was learned (rsps, none), ``1e-3 N(0, 1)``, so that DARTS is what selects (D11). The candidates are not looked at.
Evaluations are in train mode, on the same fixed images in the same batches of Stage 1's size.
The result depends on the supernet and the seed alone.
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
from nas_lib.selection import Choice, learned
from nas_lib.steps import Run
from nas_lib.training import Budget, Stage1, TrainingError

CRITERIA = {"accuracy": lambda out, y: (out.argmax(1) != y).sum(),
            "loss": lambda out, y: F.cross_entropy(out, y, reduction="sum").double()}
FIXED = ("blank", "blank-")         # Stage 1 never trained their alpha, and neither does the projection


def select(trained, data, candidates, seed, crit="accuracy", epochs=None, freeze_alpha=False, folder=None):
    """``crit``: remove by the lowest accuracy or the highest loss. ``epochs`` of tuning: None means a quarter of
    Stage 1's (25 of 100, as published). ``freeze_alpha``: tune the weights only (D11). With ``folder`` the state is
    kept there as epochs end: a stopped selection goes on where it was, a finished one is only read."""
    if crit not in CRITERIA:
        raise ValueError(f"unknown criterion {crit!r}: {' or '.join(CRITERIA)}")
    start = time.perf_counter()
    stage1 = Budget(**trained.config["budget"])
    epochs = max(1, stage1.epochs // 4) if epochs is None else epochs
    method = _Projected(trained, learns=not (freeze_alpha or trained.config["stage1"] in FIXED),
                        kept=torch.full((len(trained.space.edges),), -1))
    run = Run(method, trained.space, data, replace(stage1, lr=stage1.lr / 10, lr_min=stage1.lr / 10), seed, None,
              replace(trained.protocol, untrained_cells=False))
    run.net.load_state_dict(trained.supernet.state_dict())
    ties, before = 1, 0.0
    stored = Checkpoint(folder and Path(folder) / "perturb.pt", f"perturb by {crit}, {epochs} epochs, alpha learns: "
                        f"{method.learns}, seed {seed}, of {trained.config}")
    if (state := stored.load()) is not None:
        run.restore(state)
        method.kept.copy_(state["kept"])
        ties, before = state["ties"], state["spent"]
    while run.epoch < epochs:
        for edge in (e for e, epoch in schedule(len(method.kept), epochs, seed) if epoch == run.epoch):
            harm = removals(run, edge, CRITERIA[crit])
            method.kept[edge] = int(np.argmax(harm))            # the first among equals
            ties *= harm.count(max(harm))
        if not math.isfinite(run.train_epoch(epochs)):
            raise TrainingError(f"perturb: the loss is not finite in tuning epoch {run.epoch - 1}; lower Stage 1's "
                                f"learning rate ({stage1.lr}), of which a tenth is used here")
        spent = before + time.perf_counter() - start
        stored.keep(run.state() | {"kept": method.kept, "ties": ties, "spent": spent}, run.epoch == epochs)
    return Choice(int(trained.space.index(method.kept.numpy())), ties, seconds=before + time.perf_counter() - start)


def schedule(edges: int, epochs: int, seed: int) -> list[tuple[int, int]]:
    """(edge, epoch before which it is projected): evenly spread, the last edge before the last epoch.

    The order is numpy's ``choice`` among the sorted rest, again and again, as published.
    """
    rng, rest, order = np.random.RandomState(seed), list(range(edges)), []
    while rest:
        order.append(int(rng.choice(rest, size=1)[0]))
        rest.remove(order[-1])
    return [(e, min(i * epochs // max(edges - 1, 1), epochs - 1)) for i, e in enumerate(order)]


@torch.no_grad()
def removals(run: Run, edge: int, criterion) -> list[float]:
    """Wrong answers, or the summed loss, on the validation half without each operation of ``edge``, ``[op]``."""
    mixture = run.method.mix(run.space, run.alpha, 0.0, None).to(run.data.device)
    batches = [t.split(run.budget.batch) for t in run.data.fixed("valid half")]
    net, harm = run.net.train(), []
    for op in range(mixture.shape[-1]):
        w = mixture.clone()
        w[edge, op] = 0
        harm.append(sum(criterion(net(x, w), y) for x, y in zip(*batches, strict=True)).item())
    return harm


@dataclass(frozen=True)
class _Projected(Stage1):
    """Tuning as a training: softmax of alpha, and where an edge is projected its one operation ``kept [edge]``."""

    trained: object
    kept: torch.Tensor              # -1: not yet projected
    learns: bool = True

    def init(self, space, generator, truth):
        if not learned(self.trained):
            return super().init(space, generator, truth)
        alpha, shape = self.trained.alpha, (len(space.edges), len(space.ops))
        logits = isinstance(alpha, torch.Tensor) and alpha.shape == shape
        return alpha.clone() if logits else self.trained.probs.clamp(min=1e-12).log()

    def mix(self, space, alpha, progress, generator):
        w = alpha.softmax(-1)
        one_hot = F.one_hot(self.kept.clamp(min=0), w.shape[-1]).to(w)
        return torch.where((self.kept >= 0)[:, None], one_hot, w)

    def probs(self, space, alpha):
        return self.mix(space, alpha, 0.0, None)

    def partial_at(self, progress):
        return self.trained.supernet.partial
