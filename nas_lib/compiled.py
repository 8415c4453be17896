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
from nas_lib.jit import aligned
from nas_lib.ops import follow
from nas_lib.program import ADD, IDLE, POOL, full

OPS = {"none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"}
MAP, WIDTH = 2048, 16       # values C x H x W and channels C of a first map up to which PyTorch is slower


class Program(program.Program):
    """All operations of a supernet. Operation o of edge e has slot ``e * O + o``, and w is flat.

    ``scales [m]`` are the positions in theta that hold a mixing weight, ``slots [m]`` say which. ``owners`` are
    the slots of parameters and of batch norms, -1 for those that are always used.
    """

    def __init__(self, space, shape, channels, cells, batch, recorded):
        self.space, self._needs, self._owner, self._mixing = space, {}, {}, []
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
                self.operation(x, y, f"{name}.edges.{target}<-{source}.{slot % len(space.ops)}.op", width, side, slot)
        return nodes[-1]

    def operation(self, x, y, name, width, side, slot):
        """Add to node y what the convolution of a slot makes of node x."""
        self._needs[len(self.rows)] = [slot]
        self._owner |= {f"{name}.1.weight": slot, f"{name}.2": slot}
        self.conv(x, y, f"{name}.1", width, width, side, int(self.space.ops[slot % len(self.space.ops)][-1]),
                  norm=f"{name}.2", affine=partial(self._scaled, slot))

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
    layers, parameters = inside(net)
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w, *parameters))
    p = made(Program, net, x.shape[-1], len(x), recorded)
    weights = w.detach().numpy().ravel() if w.is_floating_point() else one_hot(net.space, w.numpy())
    code = p.code[p.select(weights != 0, recorded and w.requires_grad)]
    statistics = np.zeros((2, p.channels), dtype=np.float32)
    found = _Features.apply(p, code, statistics, weights, w, x, *parameters)
    _follow([m for m in layers if m._buffers], p, weights, statistics)
    return found


def inside(net) -> tuple[list, list]:
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


def one_hot(space, archs: np.ndarray) -> np.ndarray:
    """``archs [..., edge]`` as weights ``[..., slot]``."""
    return np.eye(len(space.ops), dtype=np.float32)[archs].reshape(*archs.shape[:-1], -1)


def made(kind: type, net, side: int, batch: int, *more) -> program.Program:
    """The program of a ``kind`` for this supernet and images of this side, from the last few that were used."""
    conv = net.stem[0]
    return _cached(kind, net.space, (conv.in_channels, side, side), conv.out_channels, (len(net.cells) - 2) // 3, batch,
                   *more)


@lru_cache(maxsize=32)
def _cached(kind, *args) -> program.Program:
    return kind(*args)


def _follow(norms, p: Program, weights, statistics):
    """Let the running statistics of the batch norms used follow those of the batch."""
    used = [o < 0 or weights[o] != 0 for o in p.owners[1]]
    sizes = [m.num_features for m in norms]
    mean, var = (torch.from_numpy(s[p.flat[1]]).split(sizes) for s in statistics)
    follow(*([v for v, on in zip(values, used, strict=True) if on] for values in (norms, mean, var)))


class _Lease:
    """The maps of one pass, which go back when nothing holds them any more: a graph may be walked twice."""

    def __init__(self, p: Program):
        self.program, self.maps = p, p.take()

    def __del__(self):
        self.program.free.append(self.maps)


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, code, statistics, weights, w, x, *parameters):
        theta, saved = p.vector(parameters, weights), np.zeros((2, p.channels), np.float32)
        lease = _Lease(p)
        maps, pad = lease.maps, p.work[0]
        maps[:p.images] = program.by_column(x.detach(), full(x.shape[1])).ravel()
        found = np.empty((p.width, p.batch), np.float32)
        program.forward(code, p.batch, maps, theta, *statistics, np.float32(1), saved, pad)
        kernels.features(maps, p.output, p.area, found)
        ctx.kept = p, code, weights, theta, lease, saved, w.shape, x.shape, parameters
        return torch.from_numpy(found.T)

    @staticmethod
    def backward(ctx, df):
        if torch.is_grad_enabled():
            raise RuntimeError("a compiled supernet can be differentiated once; set net.compiled = False for more")
        p, code, weights, theta, lease, saved, w, x, parameters = ctx.kept
        maps = lease.maps
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
        dp = _unflatten_dense_tensors(torch.from_numpy(gradient[p.flat[0]]), parameters)
        dp = [g if wanted and (slot < 0 or weights[slot] != 0) else None
              for g, slot, wanted in zip(dp, p.owners[0], for_parameters, strict=True)]
        return None, None, None, None, dw, dx, *dp
