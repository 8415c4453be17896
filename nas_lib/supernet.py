"""The supernet: every operation of a space on every edge of every cell, one set of shared weights.

Skeleton (algorithms of NAS-Bench-201): stem, ``cells`` cells at C channels, reduction, ``cells``
at 2C, reduction, ``cells`` at 4C, batch norm, ReLU, global average pool, linear classifier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_lib.ops import Reduction, ReLUConvBN, candidate, stem
from nas_lib.spaces import Space


class Cell(nn.Module):
    """One searchable cell: node i is the sum over its incoming edges, the last node the output."""

    def __init__(self, space: Space, channels: int):
        super().__init__()
        self.space = space
        self.edges = nn.ModuleDict({
            f"{i}<-{j}": nn.ModuleList(candidate(o, channels, affine=False) for o in space.ops)
            for i, j in space.edges
        })

    def forward(self, x: Tensor, terms) -> Tensor:
        """``terms[e](ops, input)`` gives the output of edge e: see ``Supernet.forward``."""
        nodes = [x] + [None] * (self.space.nodes - 1)
        for e, ((target, source), ops) in enumerate(
            zip(self.space.edges, self.edges.values(), strict=True)
        ):
            y = terms[e](ops, nodes[source])
            nodes[target] = y if nodes[target] is None else nodes[target] + y
        return nodes[-1]

    def forward_mixed(self, x: Tensor, w: Tensor, statistics: list) -> Tensor:
        """The cell under mixing weights ``w [edge, op]``, all operations of a node's outgoing edges at once.

        They read the same input: one ReLU, one convolution per kernel with the output channels of all edges,
        one batch norm whose scale per channel is the mixing weight (it has no other), one pooling. The same as
        ``forward`` with ``_Mixture`` terms, in train mode. Appends (batch norm, batch mean, batch 1/deviation,
        count) to ``statistics``.
        """
        nodes = [x] + [None] * (self.space.nodes - 1)
        edges = list(enumerate(zip(self.space.edges, self.edges.values(), strict=True)))
        for source in range(self.space.nodes - 1):
            leaving = [(e, target, ops) for e, ((target, s), ops) in edges if s == source]
            mixed = self._leaving(nodes[source], w[[e for e, _, _ in leaving]], [o for *_, o in leaving],
                                  statistics)                            # B, edge, C, H, W
            for k, (_, target, _) in enumerate(leaving):
                y = mixed[:, k]
                nodes[target] = y if nodes[target] is None else nodes[target] + y
        return nodes[-1]

    def _leaving(self, x, w, ops, statistics):
        rectified, total, channels = x.relu(), None, x.shape[1]
        for o, first in enumerate(ops[0]):
            if isinstance(first, ReLUConvBN):
                convs, norms = [m[o].op[1] for m in ops], [m[o].op[2] for m in ops]
                y = F.conv2d(rectified, torch.cat([c.weight for c in convs]), padding=convs[0].padding)
                scale = w[:, o].repeat_interleave(channels)
                n = y.numel() // y.shape[1]
                y, mean, deviation = torch.native_batch_norm(y, scale, None, None, None, True, 0.1, norms[0].eps)
                statistics.append((norms, mean.detach(), deviation.detach(), n))
                term = y.unflatten(1, (len(ops), channels))
            else:
                term = first(x)[:, None] * w[:, o].view(-1, 1, 1, 1)
            total = term if total is None else total + term
        return total


class Supernet(nn.Module):
    """Weights shared by all architectures of ``space``; ``net(x, w)`` says which to use.

    Args: ``channels`` C of the first stage, ``cells`` N per stage, ``classes``, ``in_channels`` of
    the images. Operation batch norms have no affine part; all batch norms keep running statistics.
    """

    def __init__(self, space: Space, channels=16, cells=5, classes=10, in_channels=3):
        super().__init__()
        self.space = space
        self.fuse = True                # mix operations together where that is the same: see Cell
        self.stem = stem(in_channels, channels)
        self.cells = nn.ModuleList()
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                self.cells.append(Reduction(width // 2, width))
            self.cells.extend(Cell(space, width) for _ in range(cells))
        self.lastact = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``x [B, C, H, W]``.

        ``w`` is either floating ``[edge, op]``, mixing weights: edge e gives
        ``sum_o w[e, o] op_o(x)``; or integer ``[edge]``, the one operation on each edge, with
        weight exactly 1. An operation whose weight is exactly 0 is not evaluated; where ``w``
        carries a gradient such an entry adds its own value 0, so that a straight-through sample
        reaches all logits of its edge (the rule of GDAS' published code).

        Raises ValueError if ``w`` has neither shape.
        """
        shape = (len(self.space.edges), len(self.space.ops))
        if w.is_floating_point() and w.shape == shape:
            active = (w.detach() != 0).tolist()
            terms = [_Mixture(w[e], active[e]) for e in range(shape[0])]
        elif not w.is_floating_point() and w.shape == shape[:1]:
            terms = [_One(o) for o in w.tolist()]
        else:
            raise ValueError(f"w must be floating {shape} or integer {shape[:1]}, "
                             f"got {w.dtype} {tuple(w.shape)}")
        together = self.training and self.fuse and w.is_floating_point() and all(map(all, active))
        statistics: list = []
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for cell in self.cells:
            if not isinstance(cell, Cell):
                x = cell(x)
            else:
                x = cell.forward_mixed(x, w, statistics) if together else cell(x, terms)
        _follow(statistics)
        return self.classifier(self.lastact(x).mean((2, 3)))


@torch.no_grad()
def _follow(statistics: list) -> None:
    """Move running statistics by momentum 0.1 towards those of a batch, for all layers in a few calls."""
    running, batch = [], []
    for norms, mean, deviation, n in statistics:
        var = (deviation**-2 - norms[0].eps) * (n / max(n - 1, 1))
        for norm, m, v in zip(norms, mean.chunk(len(norms)), var.chunk(len(norms)), strict=True):
            running += [norm.running_mean, norm.running_var]
            batch += [m, v]
            norm.num_batches_tracked += 1
    if running:
        torch._foreach_lerp_(running, batch, 0.1)


class _One:
    """An edge that carries one operation."""

    def __init__(self, op):
        self.op = op

    def __call__(self, ops, x):
        return ops[self.op](x)


class _Mixture:
    """An edge that carries the sum of its active operations, weighted by ``w [op]``."""

    def __init__(self, w, active):
        self.w, self.active = w, active

    def __call__(self, ops, x):
        on = [o for o, a in enumerate(self.active) if a]
        total = sum(self.w[o] * ops[o](x) for o in on) if on else x * 0
        if len(on) < len(self.active) and self.w.requires_grad:
            total = total + sum(self.w[o] for o, a in enumerate(self.active) if not a)
        return total
