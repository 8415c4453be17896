"""A small network as a list of instructions, worked off forward and backward by compiled loops.

On small feature maps with few channels PyTorch spends most of its time between the multiplications. Here feature
maps are ``[C, side, side, B]``, one flat array for all, so that the innermost loops run over image columns and
batch at once. The number of channels of a map is a multiple of four: others are filled up by channels of zeros.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from nas_lib import convolution, kernels
from nas_lib.jit import ON, ROW, TABLE, F, I, native

CONV, NORM, ADD, POOL, IDLE, CLEAR = range(6)


def full(channels: int) -> int:
    return -(-channels // 4) * 4


class Program:
    """The instructions of a network, and where its parameters and feature maps lie.

    ``shape`` (C, side, side) of an image; ``names`` of the stem, of the cells and reductions, of the last batch
    norm. ``places`` maps a parameter to its positions in the vector theta, ``stats`` a batch norm to those in the
    vectors of running statistics. ``theta[0]`` is the constant 1. Unless ``recorded``, what goes into the batch
    norms is overwritten, and there is no way back.
    """

    def __init__(self, shape, channels, cells, names, batch, recorded=True):
        self.batch, self.recorded, self.rows, self.places, self.stats = batch, recorded, [], {}, {}
        self.drafts = self.channels = self.room = 0
        self.parameters = 1
        (stem, *inner, last), side, width = names, shape[1], channels
        self.nodes = self.images = full(shape[0]) * side**2 * batch
        x = self.conv(0, self.node(width, side), f"{stem}.0", shape[0], width, side, 3, relu=0, norm=f"{stem}.1")
        for stage in range(3):
            if stage:
                x, side, width = self.reduction(x, inner.pop(0), width, side)
            for _ in range(cells):
                x = self.cell(x, inner.pop(0), width, side)
        self.output, self.width, self.area = self.node(width, side), width, side**2
        self.row(NORM, x, self.output, x, (width, width), (side, side), norm=self.affine(last, width))
        self.code = np.array(self.rows, dtype=np.int64)
        self.code[self.code[:, 0] == CONV, 3] += self.nodes     # drafts lie behind the nodes

    def cell(self, x, name, width, side) -> int:
        """Add the rows of a cell that reads the node x; returns its output."""
        raise NotImplementedError

    def reduction(self, x, name, width, side):
        half, wide = -(-side // 2), 2 * width
        a, y, pooled = self.node(wide, half), self.node(wide, half), self.node(width, half)
        self.conv(x, a, f"{name}.conv_a.op.1", width, wide, side, 3, 2, norm=f"{name}.conv_a.op.2")
        self.conv(a, y, f"{name}.conv_b.op.1", wide, wide, half, 3, norm=f"{name}.conv_b.op.2")
        self.row(POOL, x, pooled, 0, (width, width), (side, half), stride=2)
        self.conv(pooled, y, f"{name}.downsample.1", width, wide, half, 1, relu=0)
        return y, half, wide

    def conv(self, x, y, name, c_in, c_out, side, kernel, stride=1, relu=1, norm=None, affine=None):
        """A convolution and, unless ``norm`` is None, the batch norm of that name; returns y."""
        out = -(-side // stride)
        weight = self.parameter(f"{name}.weight", (c_out, c_in, kernel, kernel))
        places = (0, 0) if norm is None else (affine or self.affine)(norm, c_out)
        draft = self.drafts if self.recorded else 0
        self.drafts = max(self.drafts, draft + full(c_out) * out**2 * self.batch)
        self.room = max(self.room, (full(max(c_in, c_out)) * (side + 2) + 4 * side) * side * self.batch)
        self.row(CONV, x, y, draft, (c_in, c_out), (side, out), weight, kernel, stride, relu, places)
        return y

    def row(self, op, x, y, draft, channels, sides, weight=0, kernel=0, stride=1, relu=0, norm=(0, 0)):
        """An instruction: add to node y what an operation makes of node x.

        ``norm``: positions of the scale (of a batch norm, its shift behind it, or of what is added; 0: none) and
        of the statistics. What a batch norm reads is at ``draft``.
        """
        self.rows.append((op, x, y, draft, weight, *map(full, channels), *sides, kernel, stride, relu, *norm))

    def node(self, channels, side) -> int:
        """A map that instructions add to, from 0."""
        start = self.nodes
        self.nodes += full(channels) * side**2 * self.batch
        self.row(CLEAR, 0, start, 0, (channels, channels), (side, side))
        return start

    def parameter(self, name, shape, padded=None) -> int:
        """Make room for a parameter; rows and columns are filled up to multiples of four unless ``padded`` is given."""
        start = self.parameters
        padded = [full(n) if k < 2 else n for k, n in enumerate(shape)] if padded is None else padded
        self.parameters += math.prod(padded)
        places = np.arange(start, self.parameters).reshape(padded)
        self.places[name] = places[tuple(map(slice, shape))].ravel()
        return start

    def affine(self, name, channels) -> tuple[int, int]:
        scale = self.parameter(f"{name}.weight", (channels,))
        self.parameter(f"{name}.bias", (channels,))
        return scale, self.statistics(name, channels)

    def statistics(self, name, channels) -> int:
        start = self.channels
        self.stats[name] = np.arange(start, start + channels)
        self.channels += full(channels)
        return start


def by_column(x: torch.Tensor, channels: int) -> np.ndarray:
    """Images ``[..., B, C, H, W]`` as ``[..., channels, H, W, B]``, filled up by zeros."""
    x = x.movedim(-4, -1)
    out = np.zeros((*x.shape[:-4], channels, *x.shape[-3:]), np.float32)
    out[..., :x.shape[-4], :, :, :] = x.numpy()
    return out


@native("i8[:,::1]", I, ROW, ROW, ROW, ROW, F, TABLE, ROW)
def forward(code, batch, maps, theta, mean, var, momentum, saved, pad):
    """Fill the nodes, from the images in the first.

    Batch norms use the batch's statistics, which the running ones ``mean, var [channel]`` follow with
    ``momentum``; with momentum 0 they use the running ones. ``saved [2, channel]``: mean, 1/deviation used.
    """
    for i in range(len(code)):
        op, x, y, draft, weight, c_in, c_out, side, out, kernel, stride, relu, scale, stat = code[i]
        n = out * out * batch
        if op == CONV:
            convolution.conv(maps, x, draft if scale else y, theta[weight:], c_in, c_out, side, out, kernel, stride,
                         relu, batch, scale > 0, pad)
        elif op == ADD:
            kernels.add(maps, y, maps, x, c_in * n, theta[scale])
        elif op == POOL:
            kernels.pool(maps, x, maps, y, c_in, side, out, stride, 2 - stride, batch, False)
        elif op == CLEAR:
            kernels.clear(maps, y, c_out * n)
        if op == NORM or op == CONV and scale:
            kernels.measure(maps, draft, c_out, n, mean[stat:], var[stat:], momentum, saved[:, stat:])
            kernels.norm(maps, draft, y, theta[scale:], c_out, n, saved[:, stat:])


@native("i8[:,::1]", I, ROW, ROW, I, ROW, ROW, TABLE, ROW, ROW, ON, ON)
def backward(code, batch, maps, slopes, spare, theta, gradient, saved, pad, back, weights, inputs):
    """From the gradient of the output node in ``slopes`` to those of all nodes and of theta, added.

    After ``forward`` with the batch's statistics. Gradients of convolutions' weights only if ``weights``, of the
    images only if ``inputs``. ``slopes[spare:]`` takes the gradient of one draft.
    """
    for i in range(len(code) - 1, -1, -1):
        op, x, y, draft, weight, c_in, c_out, side, out, kernel, stride, relu, scale, stat = code[i]
        n = out * out * batch
        if op == NORM or op == CONV and scale:
            kernels.norm_back(maps, slopes, draft, y, spare, theta[scale:], gradient[scale:], c_out, n,
                              saved[:, stat:])
        if op == CONV:
            convolution.conv_back(maps, slopes, x, spare if scale else y, theta[weight:], gradient[weight:], c_in,
                              c_out, side, out, kernel, stride, relu, batch, pad, back, weights, inputs or x > 0)
        elif op == NORM:
            kernels.add(slopes, x, slopes, spare, c_in * n, np.float32(1))
        elif op == ADD:
            kernels.add(slopes, x, slopes, y, c_in * n, theta[scale])
            if scale:
                gradient[scale] += kernels.dot(slopes, y, maps, x, c_in * n)
        elif op == POOL:
            kernels.pool(slopes, y, slopes, x, c_in, side, out, stride, 2 - stride, batch, True)
        elif op == IDLE:
            gradient[scale] += kernels.total(slopes, y, c_in * n)
