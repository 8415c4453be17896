"""Logits on large feature maps: one architecture after another, the batch in pieces that stay in the cache.

A node's value is a list of pieces ``[b, C, H, W]``, channels last. While a piece is at hand, all that leaves its node is
computed: one ReLU, the convolutions, and the sums for their statistics. Batch norm is no pass of its own: node i is the sum
over its incoming convolutions z of ``z * scale + shift``, a multiply-add each. Under autocast convolutions are computed in
its type, statistics and sums are not. The plain twin is ``ranking.one_by_one``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from nas_lib.ops import AveragePool, Reduction, ReLUConvBN
from nas_lib.supernet import Cell, Supernet

PIECE = 2**21       # bytes of a piece of the first map


def features(net: Supernet, archs: np.ndarray, images: Tensor, rule: str, passes: int, kept: list) -> Tensor:
    """Last features ``[arch, B, 4C]`` of ``archs [arch, edge]``, whose dead edges hold ``none``.

    ``images [B, C, H, W]`` are the same for all, or ``[arch, B, C, H, W]``. ``rule`` is one of ``layers.Layers``, ``passes``
    the number of this pass, and ``kept [arch]`` are dictionaries in which the statistics of earlier passes are. What
    neighbours share of the first cell is computed once.
    """
    own, shared, found = images.ndim == 5, {}, []
    for k, arch in enumerate(archs.tolist()):
        norms = _Norms(rule, passes, kept[k])
        if own or not k:
            start = _stem(net.stem, images[k] if own else images, norms)
            shared = {}
        else:
            kept[k] |= {m: kept[0][m] for m in net.stem if m in kept[0]}
        maps = start
        for cell in net.cells:
            if isinstance(cell, Reduction):
                maps = _reduced(cell, maps, norms)
            else:
                maps = _cell(cell, arch, maps, norms, shared if cell is net.cells[0] else {})
        found.append(_tail(net.lastact[0], maps, norms))
    return torch.stack(found)


class _Norms:
    """Statistics of one architecture's batch norms by a rule."""

    def __init__(self, rule: str, passes: int, kept: dict):
        self.rule, self.passes, self.kept = rule, passes, kept

    def known(self, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor] | None:
        """Mean and variance, where they are not those of the batch."""
        if self.rule == "running":
            return bn.running_mean, bn.running_var
        return self.kept[bn] if self.rule == "stored" else None

    def note(self, bn: nn.BatchNorm2d, mean: Tensor, var: Tensor, n: int) -> None:
        """Keep the average over passes of a batch's mean and unbiased variance, over ``n`` values."""
        if self.rule == "collect":
            now = mean, var * (n / max(n - 1, 1))
            before = self.kept[bn] if self.passes > 1 else now
            self.kept[bn] = tuple(old + (new - old) / self.passes for old, new in zip(before, now, strict=True))


class _Normed:
    """A convolution, if there is one, and its batch norm, given piece after piece and then closed."""

    def __init__(self, bn: nn.BatchNorm2d, norms: _Norms, conv: nn.Conv2d | None = None):
        self.bn, self.conv, self.pieces, self.count, self.sums = bn, conv, [], 0, None
        self.statistics = norms.known(bn)

    def take(self, x: Tensor) -> None:
        """One piece of the input. Its sums by place of a row are taken while it is at hand, around a ``pivot`` near the
        mean, so that little is lost in the difference of squares."""
        z = x if self.conv is None else self.conv(x)
        self.pieces.append(z)
        if self.statistics is not None:
            return
        width, rows = z.shape[3], _rows(z)
        if self.sums is None:
            pivot = rows[:z.shape[2]].to(self.bn.running_mean.dtype).view(-1, z.shape[1]).mean(0)
            self.pivot, self.sums = pivot.repeat(width), rows.new_zeros((2, rows.shape[1]), dtype=torch.float64)
        self.count += z.numel() // z.shape[1]
        if _compiled(z):
            _kernels()[z.dtype][0](_flat(z), self.pivot.numpy(), self.sums.numpy())
        else:
            away = rows - self.pivot
            self.sums += torch.stack([away.sum(0), away.square().sum(0)])

    def close(self, norms: _Norms) -> _Normed:
        """All pieces are there."""
        if self.sums is not None:
            first, second = self.sums.view(2, -1, self.bn.num_features).sum(1) / self.count
            mean, var = self.pivot[:self.bn.num_features] + first, second - first.square()
            self.statistics, self.sums = (mean.to(self.pivot.dtype), var.to(self.pivot.dtype)), None
        norms.note(self.bn, *self.statistics, self.count)
        mean, var = self.statistics
        self.scale = torch.rsqrt(var + self.bn.eps)
        self.shift = -mean * self.scale
        if self.bn.affine:
            self.scale, self.shift = self.scale * self.bn.weight, self.shift * self.bn.weight + self.bn.bias
        return self


class _Straight:
    """An operation without batch norm on a node's ``pieces``."""

    def __init__(self, op: nn.Module, pieces: list):
        self.op, self.pieces = op, pieces

    def close(self, norms: _Norms) -> None:
        """Nothing is measured."""

    def give(self, k: int) -> Tensor:
        v = self.pieces[k]
        return _averaged(v) if isinstance(self.op, AveragePool) and _compiled(v) else self.op(v)


def _stem(stem: nn.Sequential, images: Tensor, norms: _Norms) -> list[Tensor]:
    conv, bn = stem
    term, one = _Normed(bn, norms, conv), images[0, 0].numel() * conv.out_channels * images.element_size()
    size = max(PIECE // one, 1) if images.device.type == "cpu" else len(images)
    for part in images.contiguous(memory_format=torch.channels_last).split(size):
        term.take(part)
    term.close(norms)
    node = _Sum([term])
    return [node(k)[0] for k in range(len(term.pieces))]


def _cell(cell: Cell, arch: list[int], x: list[Tensor], norms: _Norms, shared: dict) -> list[Tensor]:
    """``shared`` holds convolutions by edge, operation and name of the input: of the architecture before, then of this."""
    space, ops = cell.space, list(cell.edges.values())
    names, terms, used = {}, {}, {}
    for node in range(space.nodes):
        incoming = [e for e, (t, _) in enumerate(space.edges) if t == node and e in terms]
        leaving = [e for e, (_, s) in enumerate(space.edges) if s == node and space.ops[arch[e]] != "none"]
        if not leaving and node < space.nodes - 1:
            continue
        names[node] = tuple((e, arch[e], names[space.edges[e][1]]) for e in incoming)
        pieces, fresh = [], []
        for e in leaving:
            op, key = ops[e][arch[e]], (e, arch[e], names[node])
            if not isinstance(op, ReLUConvBN):
                terms[e] = _Straight(op, pieces)
            else:
                if key not in shared:
                    fresh.append(_Normed(op.op[2], norms, op.op[1]))
                terms[e] = used[key] = shared.get(key) or fresh[-1]
        node_sum = _Sum([terms[e] for e in incoming])
        for k, first in enumerate(x):
            v, r = node_sum(k, first, bool(fresh)) if node else (first, None)
            pieces.append(v)
            if fresh and not node:
                r = _rectified(v)
            for term in fresh:
                term.take(r)
        for e in leaving:
            terms[e].close(norms)
    for key in [k for k in shared if k[2] not in names.values()]:
        del shared[key]
    shared |= used
    return pieces


class _Sum:
    """What ``terms`` add up to, and its ReLU for convolutions, piece by piece."""

    def __init__(self, terms: list):
        self.straight = [t for t in terms if isinstance(t, _Straight)]
        self.normed = [t for t in terms if isinstance(t, _Normed)]
        if self.normed:
            scale = torch.stack([t.scale for t in self.normed])
            shift = torch.stack([t.shift for t in self.normed]).sum(0)
            self.scale, self.shift = scale[:, None, :, None, None], shift[None, :, None, None]
            self.fast = _compiled(self.normed[0].pieces[0]) and len(self.normed) <= 3
            if self.fast:
                width = self.normed[0].pieces[0].shape[3]
                self.rows = np.tile(scale.numpy(), width), np.tile(shift.numpy(), width)

    def __call__(self, k: int, like: Tensor | None = None, rectify=False) -> tuple[Tensor, Tensor | None]:
        """Piece ``k``, of the shape of ``like`` where there are no terms."""
        total = None
        for term in self.straight:
            y = term.give(k)
            total = y if total is None else total + y
        if self.normed and self.fast:
            return self._blended(total, [t.pieces[k] for t in self.normed], rectify)
        if self.normed:
            total = self.shift if total is None else total + self.shift
            for term, scale in zip(self.normed, self.scale, strict=True):
                total = torch.addcmul(total, term.pieces[k], scale)
        elif total is None:
            total = torch.zeros_like(like)
        return total, _rectified(total) if rectify else None

    def _blended(self, base: Tensor | None, z: list[Tensor], rectify: bool) -> tuple[Tensor, Tensor | None]:
        b, channels, height, width = z[0].shape
        total = torch.empty(b, height, width, channels)
        r = torch.empty(b if rectify else 0, height, width, channels, dtype=z[0].dtype)
        flat, to = [_flat(v) for v in z], _bits(total)
        _kernels()[z[0].dtype][1](to, _bits(r), to if base is None else _flat(base), base is not None, *(flat * 3)[:3],
                                  len(z), *self.rows, rectify)
        return total.permute(0, 3, 1, 2), r.permute(0, 3, 1, 2) if rectify else None


def _averaged(x: Tensor) -> Tensor:
    b, channels, height, width = x.shape
    out = torch.empty(b, height, width, channels)
    share = np.full(width, 1 / 3, np.float32)
    share[[0, -1]] = 1 / 2 if width > 1 else 1
    _kernels()["average"](_flat(x), _bits(out), height, channels, np.repeat(share, channels))
    return out.permute(0, 3, 1, 2)


def _reduced(cell: Reduction, x: list[Tensor], norms: _Norms) -> list[Tensor]:
    maps, (pool, widen) = [_rectified(v) for v in x], cell.downsample
    for block in (cell.conv_a, cell.conv_b):
        term = _Normed(block.op[2], norms, block.op[1])
        for v in maps:
            term.take(v)
        term.close(norms)
        if block is cell.conv_a:
            node = _Sum([term])
            maps = [node(k, rectify=True)[1] for k in range(len(x))]
    node = _Sum([term])
    out = [node(k)[0] + widen(pool(v)) for k, v in enumerate(x)]
    return [torch.cat(out[k:k + 2]) for k in range(0, len(out), 2)]     # smaller maps: more images in a piece


def _tail(bn: nn.BatchNorm2d, x: list[Tensor], norms: _Norms) -> Tensor:
    term = _Normed(bn, norms)
    for v in x:
        term.take(v)
    term.close(norms)
    node = _Sum([term])
    return torch.cat([node(k)[0].relu().mean((2, 3)) for k in range(len(x))])


def _rectified(x: Tensor) -> Tensor:
    """ReLU, in the type that autocast computes with: convolutions of one input do not cast it each."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.relu().to(torch.get_autocast_dtype(kind)) if cast else x.relu()


def _rows(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` as ``[B * H, W * C]``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0] * x.shape[2], -1)


def _flat(x: Tensor) -> np.ndarray:
    return _bits(x.permute(0, 2, 3, 1).contiguous())


def _bits(x: Tensor) -> np.ndarray:
    """Flat, as the kernels take it; ``x`` is contiguous."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy().ravel()


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


@lru_cache
def _kernels() -> dict:
    from nas_lib import fused  # numba takes long to import

    return {torch.float32: (fused.moments, fused.blend), torch.bfloat16: (fused.moments16, fused.blend16),
            "average": fused.average}
