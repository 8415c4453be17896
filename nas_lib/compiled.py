"""A small supernet in train mode on a CPU, compiled: everything up to the classifier as one function.

The plain twin is the same supernet with ``compiled = False``. An operation's batch norm has no scale of its own:
here the mixing weight is its scale, and what an identity or a pooling adds is scaled by it. The gradient of w
is that of those scales.
"""

from __future__ import annotations

from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from nas_lib import kernels, program
from nas_lib.jit import ROW, TABLE, F, I, aligned, native
from nas_lib.ops import follow
from nas_lib.program import ADD, IDLE, POOL, full

OPS = {"none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"}
MAP, WIDTH = 2048, 16       # values C x H x W and channels C of a first map up to which PyTorch is slower


class Program(program.Program):
    """All operations of a supernet. Operation o of edge e has slot ``e * O + o``, and w is flat.

    ``scales [m]`` are the positions in theta that hold a mixing weight, ``slots [m]`` say which. ``owners`` are
    the slots of parameters and of batch norms, -1 for those that are always used. ``first``: the number of
    instructions up to the end of the first cell, and its output.
    """

    def __init__(self, space, shape, channels, cells, batch, recorded):
        self.space, self.first, self._needs, self._owner, self._mixing = space, None, {}, {}, []
        self.free: list[np.ndarray] = []
        names = ["stem", *(f"cells.{k}" for k in range(3 * cells + 2)), "lastact.0"]
        super().__init__(shape, channels, cells, names, batch, recorded)
        self.needs = np.zeros((len(self.rows), len(space.edges) * len(space.ops)), dtype=bool)
        for row, slots in self._needs.items():
            self.needs[row, slots] = True
        self.scales, self.slots = np.array(self._mixing).T
        self.owners = [[self._owner.get(name, -1) for name in names] for names in (self.places, self.stats)]
        self.flat = np.concatenate(list(self.places.values())), np.concatenate(list(self.stats.values()))

    @cached_property
    def work(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Memory for the inputs of a convolution, for its gradients, and for those of all nodes."""
        return aligned(self.room), aligned(self.room), aligned(self.nodes + self.room)

    def take(self) -> np.ndarray:
        """Memory for all maps, to be appended to ``free`` after use: new memory takes longer than what is written."""
        return self.free.pop() if self.free else aligned(self.nodes + self.drafts)

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
                    self._needs[len(self.rows)] = self._needs[len(self.rows) + 1] = self._twins(slot)
                    pooled[source] = self.node(width, side)
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
        scale = self._weights(slot, full(channels))
        self.parameters += full(channels)
        return scale, self.statistics(name, channels)

    def _weights(self, slot, n) -> int:
        start = self.parameters
        self.parameters += n
        self._mixing += [(k, slot) for k in range(start, start + n)]
        return start

    def select(self, active: np.ndarray, idle=False) -> np.ndarray:
        """Which instructions ``[..., row]`` the operations ``active [..., slot]`` need.

        ``idle``: also what the others add to the gradient of w.
        """
        on = active @ self.needs.T
        return np.where(self.code[:, 0] == IDLE, ~on & idle, on | ~self.needs.any(1))

    def vector(self, parameters, w) -> np.ndarray:
        """theta of a supernet's parameters, in order, and mixing weights ``w [slot]``."""
        theta = np.zeros(self.parameters, dtype=np.float32)
        theta[0] = 1
        theta[self.flat[0]] = _flatten_dense_tensors(parameters).numpy()
        theta[self.scales] = w[self.slots]
        return theta


def applies(net, x: Tensor, w: Tensor | None = None) -> bool:
    """Whether this can be computed here, and faster than by PyTorch: ``x [..., C, H, W]``."""
    channels, side = net.stem[0].out_channels, x.shape[-1]
    return (x.device.type == "cpu" and x.dtype == net.stem[0].weight.dtype == torch.float32
            and (w is None or w.dtype == torch.float32 or not w.is_floating_point()) and x.shape[-2] == side
            and channels <= WIDTH and channels * side**2 <= MAP and x.shape[-4] * (-(-side // 4))**2 > 1
            and set(net.space.ops) <= OPS)


def features(net, x: Tensor, w: Tensor) -> Tensor:
    """Mean over the last feature map ``[B, 4C]`` of images ``x [B, C, side, side]``, batch norm in train mode.

    ``w`` as in ``Supernet.forward``. Differentiable once, by x, w and the weights; running statistics follow.
    """
    layers, parameters = _inside(net)
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w, *parameters))
    p = _program(net, x.shape[-1], len(x), recorded)
    weights = w.detach().numpy().ravel() if w.is_floating_point() else _one_hot(net.space, w.numpy())
    code = p.code[p.select(weights != 0, recorded and w.requires_grad)]
    statistics = np.zeros((2, p.channels), dtype=np.float32)
    found = _Features.apply(p, code, statistics, weights, w, x, *parameters)
    _follow([m for m in layers if m._buffers], p, weights, statistics)
    return found


def finish(net, x: Tensor, owner: np.ndarray, archs: np.ndarray, momentum: float, statistics=None):
    """Last features ``[arch, B, 4C]`` of ``archs [arch, edge]``, from the outputs of their first cells.

    ``x [u, B, H, W, C]`` are the different ones, ``owner [arch]`` says whose is whose. The batch's statistics are
    used and followed by ``statistics [2, arch, channel]``, which are returned too; with ``momentum`` 0 these are
    used in their place.
    """
    p = _program(net, x.shape[2], x.shape[1], False)
    start, first = p.first
    keep = p.select(_one_hot(net.space, archs) != 0)[:, start:]
    theta = p.vector(_inside(net)[1], np.ones(p.needs.shape[1], np.float32))
    inputs = program.by_column(x.movedim(-1, -3), full(x.shape[-1])).reshape(len(x), -1)
    found = np.empty((len(archs), p.width, p.batch), np.float32)
    statistics = np.zeros((2, len(archs), p.channels), np.float32) if statistics is None else statistics
    maps = p.take()
    _finish(p.code[start:], keep, p.batch, maps, p.work[0], p.output, p.area, theta, first, inputs, owner, *statistics,
            np.float32(momentum), found)
    p.free.append(maps)
    return torch.from_numpy(found).movedim(1, 2), statistics


@native("i8[:,::1]", "b1[:,:]", I, ROW, ROW, I, I, ROW, I, TABLE, "i8[::1]", TABLE, TABLE, F, "f4[:,:,::1]")
def _finish(code, keep, batch, maps, pad, output, area, theta, first, inputs, owner, mean, var, momentum, found):
    saved, rows = np.empty((2, mean.shape[1]), np.float32), np.empty_like(code)
    for a in range(len(keep)):
        n = 0
        for i in range(len(code)):
            if keep[a, i]:
                for k in range(code.shape[1]):
                    rows[n, k] = code[i, k]
                n += 1
        kernels.copy(maps, first, inputs[owner[a]], 0, inputs.shape[1], 0)
        program.forward(rows[:n], batch, maps, theta, mean[a], var[a], momentum, saved, pad)
        kernels.features(maps, output, area, found[a])


def _inside(net) -> tuple[list, list]:
    """The modules up to the classifier that hold parameters or statistics, in order, and the parameters."""
    layers = _layers(net, [])[:-1]
    return layers, [p for m in layers for p in m._parameters.values() if p is not None]


def _layers(module: nn.Module, found: list) -> list:
    for m in module._modules.values():      # modules() would take a tenth of a training step
        if m._parameters or m._buffers:
            found.append(m)
        else:
            _layers(m, found)
    return found


def _one_hot(space, archs: np.ndarray) -> np.ndarray:
    """``archs [..., edge]`` as weights ``[..., slot]``."""
    return np.eye(len(space.ops), dtype=np.float32)[archs].reshape(*archs.shape[:-1], -1)


def _program(net, side: int, batch: int, recorded: bool) -> Program:
    conv = net.stem[0]
    return _cached(net.space, (conv.in_channels, side, side), conv.out_channels, (len(net.cells) - 2) // 3, batch,
                   recorded)


@lru_cache(maxsize=32)
def _cached(*args) -> Program:
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
        maps, pad = p.take(), p.work[0]
        maps[:p.images] = program.by_column(x.detach(), full(x.shape[1])).ravel()
        found = np.empty((p.width, p.batch), np.float32)
        program.forward(code, p.batch, maps, theta, *statistics, np.float32(1), saved, pad)
        kernels.features(maps, p.output, p.area, found)
        if not p.recorded:
            p.free.append(maps)
        ctx.kept = p, code, weights, theta, maps, saved, w.shape, x.shape, parameters
        return torch.from_numpy(found.T)

    @staticmethod
    def backward(ctx, df):
        if torch.is_grad_enabled() or ctx.kept is None:
            raise RuntimeError("a compiled supernet can be differentiated once; set net.compiled = False for more")
        p, code, weights, theta, maps, saved, w, x, parameters = ctx.kept
        ctx.kept = None
        _, _, _, _, for_w, for_x, *for_parameters = ctx.needs_input_grad
        (pad, back, slopes), gradient = p.work, np.zeros_like(theta)
        slopes[:p.nodes] = 0
        kernels.features_back(maps, slopes, p.output, p.area, np.ascontiguousarray(df.numpy().T))
        program.backward(code, p.batch, maps, slopes, p.nodes, theta, gradient, saved, pad, back,
                         any(for_parameters), for_x)
        dw = dx = None
        if for_w:
            dw = np.bincount(p.slots, gradient[p.scales], len(weights)).reshape(w)
            dw = torch.from_numpy(dw.astype(np.float32))
        if for_x:
            dx = torch.from_numpy(slopes[:p.images]).view(-1, *x[2:], x[0]).movedim(-1, 0)[:, :x[1]].clone(memory_format=torch.contiguous_format)
        p.free.append(maps)
        dp = _unflatten_dense_tensors(torch.from_numpy(gradient[p.flat[0]]), parameters)
        dp = [g if wanted and (slot < 0 or weights[slot] != 0) else None
              for g, slot, wanted in zip(dp, p.owners[0], for_parameters, strict=True)]
        return None, None, None, None, dw, dx, *dp
