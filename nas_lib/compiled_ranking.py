"""Many architectures of a compiled supernet, one after the other: what they share with the one before is kept.

The plain twin is ``ranking.logits`` of a supernet with ``compiled = False``. Of the first cell every operation has a
map of its own, which stays as long as the node that it reads does. Architectures in lexicographic order change the
first nodes seldom.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nas_lib import compiled, kernels, program
from nas_lib.program import ADD, POOL, full


class Program(compiled.Program):
    """Instructions of the stem, of the first cell one by one, and of the rest.

    ``made[slot]`` are those that compute an operation, ``added[slot]`` the one that adds it to its node, ``emptied[node]``
    the one that clears a node; ``stem`` and ``start`` are where the first cell begins and ends.
    """

    def __init__(self, *args):
        self.made: dict[int, list[int]] = {}
        self.added, self.emptied, self.stem, self.start = {}, {}, 0, 0
        super().__init__(*args, False)

    def cell(self, x, name, width, side):
        if self.start:
            return super().cell(x, name, width, side)
        ops, self.stem = len(self.space.ops), len(self.rows)
        nodes = [x]
        for t in range(1, self.space.nodes):
            self.emptied[t] = len(self.rows)
            nodes.append(self.node(width, side))
        for e, (target, source) in enumerate(self.space.edges):
            for o, op in enumerate(self.space.ops):
                slot, begin, y = e * ops + o, len(self.rows), nodes[source]
                if op == "avg_pool_3x3":
                    y = self.node(width, side)
                    self.row(POOL, nodes[source], y, 0, (width, width), (side, side))
                elif op not in ("none", "skip_connect"):
                    y = self.node(width, side)
                    self.operation(nodes[source], y, f"{name}.edges.{target}<-{source}.{o}.op", width, side, slot)
                self.made[slot] = list(range(begin, len(self.rows)))
                if op != "none":
                    self.added[slot] = len(self.rows)
                    self.row(ADD, y, nodes[target], 0, (width, width), (side, side))
        self.start = len(self.rows)
        return nodes[-1]


class Nodes:
    """The first cell's nodes as the last architecture left them: each is known by the operations that lead to it."""

    def __init__(self, p: Program):
        self.p, self.ops = p, len(p.space.ops)
        self.known: dict[int, bytes] = {0: b""}
        self.kept: dict[int, bytes] = {}            # slot: the node that its operation read
        self.into = {t: [e for e, (target, _) in enumerate(p.space.edges) if target == t]
                     for t in range(1, p.space.nodes)}

    def change(self, arch: np.ndarray) -> list[int]:
        """The instructions that make the nodes those of ``arch [edge]``, and nothing that is there already."""
        p, rows = self.p, []
        for t, edges in self.into.items():
            key = arch[:edges[-1] + 1].tobytes()
            if self.known.get(t) == key:
                continue
            added = []
            for e in edges:
                slot, read = e * self.ops + int(arch[e]), self.known[p.space.edges[e][1]]
                if slot in p.added:
                    if p.made[slot] and self.kept.get(slot) != read:
                        rows += p.made[slot]
                        self.kept[slot] = read
                    added.append(p.added[slot])
            rows += [p.emptied[t], *added]
            self.known[t] = key
        return rows


def features(net, archs: np.ndarray, images: Tensor, momentum: float, statistics=None):
    """Mean over the last feature map, ``[arch, B, 4C]``, of ``archs [arch, edge]`` whose dead edges hold ``none``.

    ``images [B, C, H, W]`` are those of all, or ``[arch, B, C, H, W]`` each one's own. The batch's statistics are used
    and followed by ``statistics [2, arch, channel]``, which are returned too; with ``momentum`` 0 these are used in
    their place, or, if there are none, those stored in the supernet. An operation computed once for several
    architectures has its statistics with the first of them.
    """
    *own, batch, channels, _, side = images.shape
    p: Program = compiled.made(Program, net, side, batch)
    rest = p.select(compiled.one_hot(net.space, archs) != 0)
    rest[:, :p.start] = False
    theta = p.vector(compiled.inside(net)[1], np.ones(p.needs.shape[1], np.float32))
    inputs = program.by_column(images, full(channels)).reshape(*own, -1)
    found = np.empty((len(archs), p.width, batch), np.float32)
    if statistics is None:
        statistics = np.zeros((2, len(archs), p.channels), np.float32)
        if momentum == 0:
            norms = [m._buffers for m in compiled.inside(net)[0] if m._buffers]
            for vector, name in zip(statistics, ("running_mean", "running_var"), strict=True):
                vector[:, p.flat[1]] = torch.cat([n[name] for n in norms]).numpy()
    mean, var = statistics
    saved, maps, nodes = np.zeros((2, p.channels), np.float32), p.take(), None
    for a, arch in enumerate(archs):
        rows = []
        if own or not nodes:
            maps[:p.images] = inputs[a] if own else inputs
            nodes, rows = Nodes(p), list(range(p.stem))
        rows += nodes.change(arch)
        code = p.code[np.concatenate([np.array(rows, np.int64), np.flatnonzero(rest[a])])]
        program.forward(code, batch, maps, theta, mean[a], var[a], np.float32(momentum), saved, p.work[0])
        kernels.features(maps, p.output, p.area, found[a])
    p.free.append(maps)
    return torch.from_numpy(found).movedim(1, 2), statistics
