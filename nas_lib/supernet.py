"""The supernet: every operation of a space on every edge of every cell, one set of shared weights.

Skeleton (algorithms of NAS-Bench-201): stem, ``cells`` cells at C channels, reduction, ``cells``
at 2C, reduction, ``cells`` at 4C, batch norm, ReLU, global average pool, linear classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_lib.ops import Reduction, candidate, stem
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


class Supernet(nn.Module):
    """Weights shared by all architectures of ``space``; ``net(x, w)`` says which to use.

    Args: ``channels`` C of the first stage, ``cells`` N per stage, ``classes``, ``in_channels`` of
    the images. Operation batch norms have no affine part; all batch norms keep running statistics.
    """

    def __init__(self, space: Space, channels=16, cells=5, classes=10, in_channels=3):
        super().__init__()
        self.space = space
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
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for cell in self.cells:
            x = cell(x, terms) if isinstance(cell, Cell) else cell(x)
        return self.classifier(self.lastact(x).mean((2, 3)))


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
