"""A small supernet in train mode on a CPU, compiled: everything up to the classifier as one function.

The plain twin is the same supernet with ``compiled = False``. An operation's batch norm has no scale of its own:
here the mixing weight is its scale, and what an identity or a pooling adds is scaled by it. The gradient of w
is that of those scales.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from nas_lib import kernels, program
from nas_lib.ops import follow
from nas_lib.program import ADD, IDLE, POOL, even

OPS = {"none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"}
MAP = 2048          # values C x H x W of a feature map up to which this is faster than PyTorch


class Program(program.Program):
    """All operations of a supernet. Operation o of edge e has slot ``e * O + o``, and w is flat.

    ``scales [m]`` are the positions in theta that hold a mixing weight, ``slots [m]`` say which. ``owners`` are
    the slots of parameters and of batch norms, -1 for those that are always used. ``first``: the number of
    instructions up to the end of the first cell, and its output.
    """

    def __init__(self, space, shape, channels, cells, batch, recorded):
        self.space, self.first, self._needs, self._owner, self._mixing = space, None, {}, {}, []
        names = ["stem", *(f"cells.{k}" for k in range(3 * cells + 2)), "lastact.0"]
        super().__init__(shape, channels, cells, names, batch, recorded)
        self.needs = np.zeros((len(self.rows), len(space.edges) * len(space.ops)), dtype=bool)
        for row, slots in self._needs.items():
            self.needs[row, slots] = True
        self.scales, self.slots = np.array(self._mixing).T
        self.owners = [[self._owner.get(name, -1) for name in names] for names in (self.places, self.stats)]
        self.flat = np.concatenate(list(self.places.values())), np.concatenate(list(self.stats.values()))

    def cell(self, x, name, width, side):
        space, pooled = self.space, {}
        nodes = [x, *(self.node(width, side) for _ in range(space.nodes - 1))]
        for slot, ((target, source), op) in enumerate((edge, op) for edge in space.edges for op in space.ops):
            x, y = nodes[source], nodes[target]
            self._mixed(IDLE, x, y, width, side, slot)
            if op == "skip_connect":
                self._mixed(ADD, x, y, width, side, slot)
            elif op == "avg_pool_3x3":
                if source not in pooled:
                    pooled[source] = self.node(width, side)
                    self._needs[len(self.rows)] = self._twins(slot)
                    self.row(POOL, x, pooled[source], 0, (width, width), (side, side))
                self._mixed(ADD, pooled[source], y, width, side, slot)
            elif op != "none":
                conv, kernel = f"{name}.edges.{target}<-{source}.{slot % len(space.ops)}.op", int(op[-1])
                self._needs[len(self.rows)] = [slot]
                self._owner |= {f"{conv}.1.weight": slot, f"{conv}.2": slot}
                self.conv(x, y, f"{conv}.1", width, width, side, kernel, norm=f"{conv}.2",
                          affine=partial(self._scaled, slot))
        self.first = self.first or (len(self.rows), nodes[-1])
        return nodes[-1]

    def _mixed(self, op, x, y, width, side, slot):
        self._needs[len(self.rows)] = [slot]
        self.row(op, x, y, 0, (width, width), (side, side), norm=(self._weights(slot, 1), 0))

    def _twins(self, slot) -> list[int]:
        """Slots of the same operation on all edges that leave the same node."""
        edge, op = divmod(slot, len(self.space.ops))
        edges = self.space.edges
        return [e * len(self.space.ops) + op for e in range(len(edges)) if edges[e][1] == edges[edge][1]]

    def _scaled(self, slot, name, channels) -> tuple[int, int]:
        """A batch norm scaled by w, its shift being 0."""
        scale = self._weights(slot, even(channels))
        self.parameters += even(channels)
        return scale, self.statistics(name, channels)

    def _weights(self, slot, n) -> int:
        start = self.parameters
        self.parameters += n
        self._mixing += [(k, slot) for k in range(start, start + n)]
        return start

    def select(self, active: np.ndarray, idle=False) -> np.ndarray:
        """Instructions that the operations ``active [slot]`` need; ``idle``: what the others add to gradients."""
        on, kind = self.needs[:, active].any(1), self.code[:, 0]
        return self.code[np.where(kind == IDLE, ~on & idle, on | ~self.needs.any(1))]

    def vector(self, parameters, w) -> np.ndarray:
        """theta of a supernet's parameters, in order, and mixing weights ``w [slot]``."""
        theta = np.zeros(self.parameters, dtype=np.float32)
        theta[0] = 1
        theta[self.flat[0]] = torch.cat([p.detach().reshape(-1) for p in parameters]).numpy()
        theta[self.scales] = w[self.slots]
        return theta


def applies(net, x: Tensor, w: Tensor) -> bool:
    """Whether ``features`` can be computed here, and faster than by PyTorch."""
    channels, side = net.stem[0].out_channels, x.shape[-1]
    return (x.device.type == "cpu" and x.dtype == net.stem[0].weight.dtype == torch.float32
            and (w.dtype == torch.float32 or not w.is_floating_point()) and x.shape[-2] == side
            and channels * side**2 <= MAP and len(x) * (-(-side // 4))**2 > 1 and set(net.space.ops) <= OPS)


def features(net, x: Tensor, w: Tensor) -> Tensor:
    """Mean over the last feature map ``[B, 4C]`` of images ``x [B, C, side, side]``, batch norm in train mode.

    ``w`` as in ``Supernet.forward``. Differentiable once, by x, w and the weights; running statistics follow.
    """
    layers = _layers(net)
    parameters = [p for m in layers for p in (m._parameters.values()) if p is not None]
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w, *parameters))
    p = _program(net.space, tuple(x.shape[1:]), net.stem[0].out_channels, (len(net.cells) - 2) // 3, len(x),
                 recorded)
    if w.is_floating_point():
        weights = w.detach().numpy().ravel()
    else:
        weights = np.zeros((len(net.space.edges), len(net.space.ops)), dtype=np.float32)
        weights[np.arange(len(w)), w.numpy()] = 1
        weights = weights.ravel()
    code = p.select(weights != 0, recorded and w.requires_grad)
    statistics = np.zeros((2, p.channels), dtype=np.float32)
    found = _Features.apply(p, code, statistics, weights, w, x, *parameters)
    _follow([m for m in layers if isinstance(m, nn.BatchNorm2d)], p, weights, statistics)
    return found


def _layers(module: nn.Module) -> list:
    """The convolutions and batch norms inside, in order."""
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
        return [module]
    return [layer for m in module._modules.values() for layer in _layers(m)]


@lru_cache(maxsize=32)
def _program(*args) -> Program:
    return Program(*args)


def _follow(norms, p: Program, weights, statistics):
    """Let the running statistics of the batch norms used follow those of the batch."""
    used = [o < 0 or weights[o] != 0 for o in p.owners[1]]
    sizes = [m.num_features for m in norms]
    mean, var = (torch.from_numpy(s[p.flat[1]]).split(sizes) for s in statistics)
    follow(*([v for v, on in zip(values, used, strict=True) if on] for values in (norms, mean, var)))


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, code, statistics, weights, w, x, *parameters):
        theta, saved = p.vector(parameters, weights), np.zeros((2, p.channels), np.float32)
        maps, pad = np.empty(p.nodes + p.drafts, np.float32), np.empty(p.room, np.float32)
        images = program.by_column(x.detach(), even(x.shape[1])).ravel()
        maps[:len(images)] = images
        maps[len(images):p.nodes] = 0
        program.forward(code, p.batch, maps, theta, *statistics, np.float32(1), saved, pad)
        ctx.kept = p, code, weights, theta, maps, saved, w.shape, x.shape, [q.shape for q in parameters]
        found = kernels.features(maps, p.output, even(p.width), p.area, p.batch)
        return torch.from_numpy(found[:p.width].T)

    @staticmethod
    def backward(ctx, df):
        if torch.is_grad_enabled():
            raise RuntimeError("a compiled supernet can be differentiated once; set net.compiled = False for more")
        p, code, weights, theta, maps, saved, w, x, shapes = ctx.kept
        _, _, _, _, for_w, for_x, *for_parameters = ctx.needs_input_grad
        slopes, gradient = np.empty(p.nodes + p.room, np.float32), np.zeros_like(theta)
        slopes[:p.nodes] = 0
        pad, back = np.empty((2, p.room), np.float32)
        df = np.pad(df.numpy().T, ((0, p.width % 2), (0, 0)))
        kernels.features_back(maps, slopes, p.output, p.area, df)
        program.backward(code, p.batch, maps, slopes, p.nodes, theta, gradient, saved, pad, back,
                         any(for_parameters), for_x)
        dw = dx = None
        if for_w:
            dw = np.bincount(p.slots, gradient[p.scales], len(weights)).reshape(w)
            dw = torch.from_numpy(dw.astype(np.float32))
        if for_x:
            batch, channels, *sides = x
            dx = slopes[:even(channels) * batch * sides[0] * sides[1]].reshape(-1, *sides, batch)[:channels]
            dx = torch.from_numpy(dx).movedim(-1, 0).contiguous()
        dp = torch.from_numpy(gradient[p.flat[0]]).split([s.numel() for s in shapes])
        dp = [g.view(s) if wanted and (o < 0 or weights[o] != 0) else None
              for g, s, o, wanted in zip(dp, shapes, p.owners[0], for_parameters, strict=True)]
        return None, None, None, None, dw, dx, *dp
