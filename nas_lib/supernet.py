"""The supernet: every operation of a space on every edge of every cell, one set of shared weights.

Skeleton (algorithms of NAS-Bench-201): stem, ``cells`` cells at C channels, reduction, ``cells``
at 2C, reduction, ``cells`` at 4C, batch norm, ReLU, global average pool, linear classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_lib import graphed
from nas_lib.networks import PairSupernet, grow, growth, published_names
from nas_lib.ops import Reduction, ReLUConvBN, Zero, candidate, follow, shuffle, stem
from nas_lib.spaces import NB201, SPACES, Space


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
        for e, ((target, source), ops) in enumerate(zip(self.space.edges, self.edges.values(), strict=True)):
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
            mixed = self._leaving(nodes[source], [w[e] for e, _, _ in leaving], [o for *_, o in leaving], statistics)
            for y, (_, target, _) in zip(mixed, leaving, strict=True):
                nodes[target] = y if nodes[target] is None else nodes[target] + y
        return nodes[-1]

    def _leaving(self, x, w, ops, statistics) -> list[Tensor]:
        """What the edges from one node give, ``[B, C, H, W]`` each. All stays channels last, on the way back, too:
        there a batch norm takes nine times as long in another layout."""
        rectified, total, edges = x.relu(), None, len(ops)
        for o, first in enumerate(ops[0]):
            if isinstance(first, ReLUConvBN):
                convs, norms = [m[o].op[1] for m in ops], [m[o].op[2] for m in ops]
                y = F.conv2d(rectified, torch.cat([c.weight for c in convs]), padding=convs[0].padding)
                scale = torch.stack([row[o] for row in w]).repeat_interleave(x.shape[1])
                n = y.numel() // y.shape[1]
                y, mean, deviation = torch.native_batch_norm(y, scale, None, None, None, True, 0.1, norms[0].eps)
                statistics.append((norms, mean.detach(), deviation.detach(), n))
                total = y if total is None else total + y
        mixed = list(total.chunk(edges, 1)) if total is not None else [0] * edges
        for o, first in enumerate(ops[0]):
            if not isinstance(first, ReLUConvBN | Zero):
                y = first(x)
                mixed = [m + row[o] * y for m, row in zip(mixed, w, strict=True)]
        return mixed


class Supernet(nn.Module):
    """Weights shared by all architectures of ``space``; ``net(x, w)`` says which to use.

    Args: ``channels`` C of the first stage, ``cells`` N per stage, ``classes``, ``in_channels`` of
    the images; ``partial`` k: the operations see one k-th of the channels (see ``_Part``). Operation batch
    norms have no affine part; all batch norms keep running statistics. Raises ValueError if k does not divide C.
    """

    def __init__(self, space: Space, channels=16, cells=5, classes=10, in_channels=3, partial=1):
        super().__init__()
        if channels % partial:
            raise ValueError(f"operations cannot see one {partial}-th of {channels} channels: take a multiple")
        self.space = space
        self.partial = partial
        self.auxiliary = False          # an auxiliary skip is one of the operations here
        self.fuse = True                # mix operations together where that is the same: see Cell
        self.layout = torch.channels_last       # of all feature maps
        self.compiled = True            # and where ``compiled`` or ``graphed`` applies, a pass at once; no second derivative
        self.stem = stem(in_channels, channels)
        self.cells = nn.ModuleList()
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                self.cells.append(Reduction(width // 2, width))
            self.cells.extend(Cell(space, width // partial) for _ in range(cells))
        self.lastact = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)
        self.to(memory_format=self.layout)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``x [B, C, H, W]``; ``w`` may lie on another device, best on the CPU.

        ``w`` is either floating ``[edge, op]``, mixing weights: edge e gives
        ``sum_o w[e, o] op_o(x)``; or integer ``[edge]``, the one operation on each edge, with
        weight exactly 1. An operation whose weight is exactly 0 is not evaluated; where ``w``
        carries a gradient such an entry adds its own value 0, so that a straight-through sample
        reaches all logits of its edge (the rule of GDAS' published code). With partial channels a last
        column, ``[edge, op + 1]``, weighs the channels that pass by; without it they pass as they are.

        Raises ValueError if ``w`` has neither shape.
        """
        shape, passing = (len(self.space.edges), len(self.space.ops)), None
        if self.partial > 1 and w.is_floating_point() and w.shape == (shape[0], shape[1] + 1):
            w, passing = w[:, :-1], w[:, -1].to(x.device, non_blocking=True)
        if w.is_floating_point() and w.shape == shape:
            on = (w.detach() != 0).tolist()         # before w moves: a GPU is not waited for
            w = w.to(x.device, non_blocking=True)
            terms = partial(_mixtures, on)
        elif not w.is_floating_point() and w.shape == shape[:1]:
            on, terms = None, _samples
        else:
            raise ValueError(f"w must be floating {shape} or integer {shape[:1]}, got {w.dtype} {tuple(w.shape)}")
        if self.training and (fast := self.engine(x, w)):
            return self.classifier(fast.features(self, x, w))
        if self.partial > 1:
            terms = partial(_parts, terms, self.partial, passing)
        elif self.training and self.fuse and on and all(map(all, on)):
            terms = None                            # mixed together: see Cell
        parts = (self.stem, self.cells, self.lastact)
        work = partial(features, *parts, self.layout, terms)
        if self.training and self.compiled and on and self.partial == 1:
            return self.classifier(graphed.features(self, parts, work, x, w, on))
        return self.classifier(work(x, w))

    def engine(self, x: Tensor, w: Tensor | None = None):
        """The module ``compiled`` where it is to be used on images ``x [..., C, H, W]`` under ``w``, else None."""
        if not (self.fuse and self.compiled and self.partial == 1 and x.device.type == "cpu"
                and not torch.is_autocast_enabled("cpu")):
            return None
        from nas_lib import compiled  # numba takes long to import

        return compiled if compiled.applies(self, x, w) else None

    def widen(self, partial: int) -> None:
        """Let the operations see one ``partial``-th of the channels, more than before, in place; see ``grow``."""
        times = growth(self.partial, partial)
        for cell in self.cells:
            if isinstance(cell, Cell):
                grow(cell, times)
        self.partial = partial


def features(stem: nn.Module, cells: nn.ModuleList, tail: nn.Module, layout: torch.memory_format, terms, x: Tensor, w: Tensor) -> Tensor:
    """Last features ``[B, 4C]`` of images ``x``; ``terms(w)`` are the edges' of ``Cell.forward``, None: all operations mixed together."""
    statistics: list = []
    edges = terms and terms(w)
    x = stem(x.contiguous(memory_format=layout))
    for cell in cells:
        if not isinstance(cell, Cell):
            x = cell(x)
        else:
            x = cell(x, edges) if edges else cell.forward_mixed(x, w, statistics)
    _follow(statistics)
    return tail(x).mean((2, 3))


def _follow(statistics: list) -> None:
    """Let running statistics follow those of a batch, all layers in a few calls."""
    norms, means, variances = [], [], []
    for group, mean, deviation, n in statistics:
        var = (deviation**-2 - group[0].eps) * (n / max(n - 1, 1))
        norms += group
        means += mean.chunk(len(group))
        variances += var.chunk(len(group))
    follow(norms, means, variances)


class _One:
    """An edge that carries one operation."""

    def __init__(self, op):
        self.op = op

    def __call__(self, ops, x):
        return ops[self.op](x)


def _samples(w: Tensor) -> list[_One]:
    return [_One(o) for o in w.tolist()]


class _Mixture:
    """An edge that carries the sum of its operations that are ``on [op]``, weighted by ``w [op]``.

    What the others weigh, 0, is added where it carries a gradient: once for all cells.
    """

    def __init__(self, on, w):
        self.on, self.w = [o for o, active in enumerate(on) if active], w.unbind()
        off = [v for v, active in zip(self.w, on, strict=True) if not active]
        self.idle = sum(off) if off and w.requires_grad else None

    def __call__(self, ops, x):
        total = sum(self.w[o] * ops[o](x) for o in self.on) if self.on else x * 0
        return total if self.idle is None else total + self.idle


def _mixtures(on: list[list[bool]], w: Tensor) -> list[_Mixture]:
    return [_Mixture(*edge) for edge in zip(on, w.unbind(), strict=True)]


class _Part:
    """An edge whose ``term`` sees one k-th of the channels; the others pass by, weighted by ``passing``.

    Then the channels are shuffled (Xu et al., PC-DARTS, ICLR 2020, section 3.2, and its code).
    """

    def __init__(self, term, k, passing):
        self.term, self.k, self.passing = term, k, passing

    def __call__(self, ops, x):
        inner, outer = x.tensor_split([x.shape[1] // self.k], 1)
        if self.passing is not None:
            outer = outer * self.passing
        return shuffle(torch.cat([self.term(ops, inner), outer], 1), self.k)


def _parts(terms, k: int, passing: Tensor | None, w: Tensor) -> list[_Part]:
    return [_Part(t, k, None if passing is None else passing[e]) for e, t in enumerate(terms(w))]


LOGITS = ("_arch_parameters", "alpha_normal", "alpha_reduce")


class StateError(ValueError):
    """A state does not belong to such a supernet; the message names what does not fit."""


def load_published(state: Mapping[str, Tensor], space: str = "nb201", *, channels: int, cells: int, classes: int,
                   partial: int = 1) -> Supernet | PairSupernet:
    """The supernet whose tensors ``state`` holds under the names of the published code.

    Args: ``state`` maps names to tensors or arrays, as ``state_dict()`` gave them (logits, stored as
    ``_arch_parameters``, ``alpha_normal`` or ``alpha_reduce``, are no weights and are left out); ``space`` "nb201",
    "s0" to "s4"; ``channels`` C of the first stage, ``cells`` N per stage of nb201, else the cells L of the whole;
    ``classes``; ``partial`` k: the operations see one k-th of the channels. An auxiliary skip is there if its
    tensors are. In the other spaces both published ways to name poolings and auxiliary skips are known.

    Returns it in train mode, on the CPU, with ``net(x, w)`` as in ``Supernet.forward`` or ``PairSupernet.forward``.
    Raises StateError, naming everything that is missing, unknown or of another shape; ValueError for another space.
    """
    if space not in SPACES:
        raise ValueError(f"unknown space {space!r}: supernets of {', '.join(SPACES)} can be loaded")
    if not isinstance(state, Mapping):
        raise StateError(f"a {type(state).__name__} is no state: give a state_dict, names to tensors")
    state = {name: _tensor(name, value) for name, value in state.items() if name not in LOGITS}
    stem = state.get("stem.0.weight")
    width = channels if space == "nb201" else 3 * channels
    known = (stem is not None and stem.ndim == 4 and stem.shape[::2] == (width, 3)
             and stem.untyped_storage().nbytes() >= stem.numel())       # else it claims to be larger than it is
    shape = (channels, cells, classes, stem.shape[1] if known else 3)
    if space == "nb201":
        net = Supernet(NB201, *shape, partial=partial)
    else:
        # Rounds as the published code does: one ReLU input that falls on the other side of 0 moves gradients by 0.2 %.
        state = published_names(state)
        net = PairSupernet(SPACES[space], *shape, partial=partial, auxiliary=any("aux_skip" in n for n in state),
                           layout=torch.contiguous_format)
    own = net.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}    # of no consequence, if absent
    faults = [f"missing: {name}" for name in own if name not in state and name not in counters]
    faults += [f"unknown: {name}" for name in state if name not in own]
    faults += [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in own
               if name in state and state[name].shape != own[name].shape]
    faults += [f"{name} is {state[name].dtype}" for name in own
               if name in state and state[name].is_floating_point() != own[name].is_floating_point()]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise StateError(f"no supernet of {space} with channels={channels}, cells={cells}, classes={classes}, "
                         f"partial={partial}: {'; '.join(faults[:8])}{more}; check these four numbers")
    net.load_state_dict(state, strict=False)
    return net


def _tensor(name: str, value) -> Tensor:
    try:
        if not isinstance(name, str):
            raise TypeError
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise StateError(f"{name} is no tensor but {type(value).__name__}: give a state_dict, names to "
                         "tensors") from None
