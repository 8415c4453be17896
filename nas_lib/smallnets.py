"""Training of one small network on a CPU, compiled: the fast path of ``standalone`` for truth tables.

PyTorch's grouped convolutions reach a few percent of a CPU's arithmetic at four channels; whole truth
tables are then days of work. Here one network trains alone, step after step, in compiled loops whose
innermost run is contiguous over image columns and batch. Feature maps are ``[C, H, W, B]``, one flat
array for all of them; a network is a list of instructions. The plain twin is ``standalone.Network``.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from numba import njit

from nas_lib import kernels
from nas_lib.kernels import FAST
from nas_lib.spaces import Space

CONV, NORM, ADD, POOL, HEAD = range(5)


class Program:
    """The instructions of one network, and where its parameters and feature maps lie.

    ``names`` maps the parameters of ``standalone.Network`` to (offset, shape), ``stats`` its batch norms to
    (offset, channels) in the running mean and variance. ``shape`` (C, H, W) of an image.
    """

    def __init__(self, space: Space, arch, shape, channels, cells, classes, batch):
        if channels % 2:
            raise ValueError(f"compiled networks need an even number of channels, got {channels}")
        self.batch, self.code, self.names, self.stats = batch, [], {}, {}
        self.size = self.parameters = self.channels = 0
        x, side, width, layer = self._map(shape[0], shape[1]), shape[1], channels, 1
        y = self._map(width, side)
        x = self._conv(x, "body.0.0", shape[0], width, side, 3, relu=0)
        x = self._norm(x, y, "body.0.1", width, side)
        for stage in range(3):
            if stage:
                x, side, width = self._reduction(x, f"body.{layer}", width, side)
                layer += 1
            for _ in range(cells):
                x = self._cell(space, arch, x, f"body.{layer}", width, side)
                layer += 1
        y = self._norm(x, self._map(width, side), f"body.{layer}", width, side)
        weight = self._parameter("classifier.weight", (classes, width, 1, 1))
        self._parameter("classifier.bias", (classes,))
        self.code.append((HEAD, y, 0, weight, width, classes, side, 0, 0, 0, 0))
        self.code = np.array(self.code, dtype=np.int64)

    def _map(self, channels, side) -> int:
        start = self.size
        self.size += channels * side * side * self.batch
        return start

    def _parameter(self, name, shape) -> int:
        start = self.parameters
        self.names[name] = (start, shape)
        self.parameters += math.prod(shape)
        return start

    def _conv(self, x, name, c_in, c_out, side, kernel, stride=1, relu=1, into=None):
        out = -(-side // stride)
        y = self._map(c_out, out) if into is None else into
        weight = self._parameter(f"{name}.weight", (c_out, c_in, kernel, kernel))
        self.code.append((CONV, x, y, weight, c_in, c_out, side, out, kernel, stride, relu))
        return y

    def _norm(self, x, y, name, channels, side):
        gamma = self._parameter(f"{name}.weight", (channels,))
        self._parameter(f"{name}.bias", (channels,))
        self.stats[name] = (self.channels, channels)
        self.code.append((NORM, x, y, gamma, channels, side * side, self.channels, 0, 0, 0, 0))
        self.channels += channels
        return y

    def _conv_norm(self, x, y, name, c_in, c_out, side, kernel, stride=1):
        z = self._conv(x, f"{name}.op.1", c_in, c_out, side, kernel, stride)
        return self._norm(z, y, f"{name}.op.2", c_out, -(-side // stride))

    def _reduction(self, x, name, width, side):
        half, wide = -(-side // 2), 2 * width
        y = self._map(wide, half)
        a = self._conv_norm(x, self._map(wide, half), f"{name}.conv_a", width, wide, side, 3, 2)
        self._conv_norm(a, y, f"{name}.conv_b", wide, wide, half, 3)
        pooled = self._map(width, half)
        self.code.append((POOL, x, pooled, 0, width, 0, side, half, 0, 2, 0))
        self._conv(pooled, f"{name}.downsample.1", width, wide, half, 1, relu=0, into=y)
        return y, half, wide

    def _cell(self, space, arch, x, name, width, side):
        live, nodes = space.live(arch), [x] + [None] * (space.nodes - 1)
        for e in np.flatnonzero(live):
            (target, source), op = space.edges[e], space.ops[arch[e]]
            if nodes[target] is None:
                nodes[target] = self._map(width, side)
            edge = (nodes[source], nodes[target])
            if op == "skip_connect":
                self.code.append((ADD, *edge, 0, width, 0, side, 0, 0, 0, 0))
            elif op == "avg_pool_3x3":
                self.code.append((POOL, *edge, 0, width, 0, side, side, 1, 1, 0))
            else:
                kernel = 3 if op == "nor_conv_3x3" else 1
                self._conv_norm(*edge, f"{name}.edges.{target}<-{source}", width, width, side, kernel)
        return self._map(width, side) if nodes[-1] is None else nodes[-1]


def train(program: Program, state: dict, batches, rates: np.ndarray, momentum: float,
          weight_decay: float) -> dict:
    """SGD with Nesterov momentum from ``state`` (tensors by name), one step per rate; returns the last state.

    ``batches`` yields images ``[B, C, H, W]`` and labels ``[B]``; the loss is the mean cross-entropy.
    """
    theta, mean, var = _vectors(program, state)
    x, y = zip(*itertools.islice(batches, len(rates)), strict=True)
    x = torch.stack(x).permute(0, 2, 3, 4, 1).contiguous().numpy()          # step, C, H, W, B
    _train(program.code, program.size, program.batch, theta, mean, var, x, torch.stack(y).numpy(),
           rates.astype(np.float32), np.float32(momentum), np.float32(weight_decay))
    out = dict(state)
    for name, (start, shape) in program.names.items():
        out[name] = torch.from_numpy(theta[start:start + math.prod(shape)].reshape(shape))
    for name, (start, channels) in program.stats.items():
        out[f"{name}.running_mean"] = torch.from_numpy(mean[start:start + channels])
        out[f"{name}.running_var"] = torch.from_numpy(var[start:start + channels])
    return out


def accuracy(program: Program, state: dict, x: torch.Tensor, y: torch.Tensor) -> float:
    """Top-1 accuracy in percent of a trained state on images ``[n, C, H, W]``, with running statistics."""
    short = -len(x) % program.batch
    found = _predict(program.code, program.size, program.batch, *_vectors(program, state),
                     _batched(torch.cat([x, x[:short]]), program.batch)).argmax(1)
    return 100 * float((found.ravel()[:len(y)] == y.numpy()).mean())


def _batched(x: torch.Tensor, batch: int) -> np.ndarray:
    """Images ``[n, C, H, W]`` as ``[n / B, C, H, W, B]``."""
    return x.unflatten(0, (-1, batch)).permute(0, 2, 3, 4, 1).contiguous().numpy()


def _vectors(program: Program, state: dict):
    """Parameters, running means and running variances of a state, each as one vector."""
    theta = np.empty(program.parameters, dtype=np.float32)
    mean, var = np.empty((2, program.channels), dtype=np.float32)
    for name, (start, shape) in program.names.items():
        theta[start:start + math.prod(shape)] = state[name].numpy().ravel()
    for name, (start, channels) in program.stats.items():
        mean[start:start + channels] = state[f"{name}.running_mean"].numpy()
        var[start:start + channels] = state[f"{name}.running_var"].numpy()
    return theta, mean, var


@njit(**FAST)
def _train(code, size, batch, theta, mean, var, inputs, labels, rates, momentum, decay):
    maps, slopes = np.zeros(size, np.float32), np.zeros(size, np.float32)
    gradient, velocity = np.zeros_like(theta), np.zeros_like(theta)
    saved = np.zeros((2, len(mean)), np.float32)
    pad, back = np.zeros(size + 4096, np.float32), np.zeros(size + 4096, np.float32)
    for s in range(len(rates)):
        _forward(code, batch, maps, inputs[s].ravel(), theta, mean, var, saved, pad, True)
        slopes[:] = 0
        gradient[:] = 0
        op, x, y, w, a, b, side, out, kernel, stride, relu = code[-1]
        _head(maps[x:], slopes[x:], theta[w:], gradient[w:], a, b, side * side, batch, labels[s])
        for i in range(len(code) - 2, -1, -1):
            op, x, y, w, a, b, side, out, kernel, stride, relu = code[i]
            if op == CONV:
                kernels.conv_back(maps, slopes, x, y, theta[w:], gradient[w:], a, b, side, out, kernel,
                                  stride, relu, batch, pad, back)
            elif op == NORM:
                kernels.norm_back(maps, slopes, x, y, theta[w:], gradient[w:], a, b * batch, saved[:, side:])
            elif op == ADD:
                kernels.add(slopes, x, slopes, y, a * side * side * batch, np.float32(1))
            else:
                kernels.pool(slopes, y, slopes, x, a, side, out, stride, kernel, batch, True)
        for t in range(len(theta)):
            g = gradient[t] + decay * theta[t]
            velocity[t] = momentum * velocity[t] + g
            theta[t] -= rates[s] * (g + momentum * velocity[t])


@njit(**FAST)
def _forward(code, batch, maps, images, theta, mean, var, saved, pad, training):
    """All feature maps for one batch of images, up to the input of the head."""
    maps[:len(images)] = images
    maps[len(images):] = 0
    for i in range(len(code) - 1):
        op, x, y, w, a, b, side, out, kernel, stride, relu = code[i]
        if op == CONV:
            kernels.conv(maps, x, y, theta[w:], a, b, side, out, kernel, stride, relu, batch, pad)
        elif op == NORM:
            if training:
                kernels.measure(maps, x, a, b * batch, mean[side:], var[side:], saved[:, side:])
            else:
                saved[0, side:side + a] = mean[side:side + a]
                saved[1, side:side + a] = 1 / np.sqrt(var[side:side + a] + np.float32(1e-5))
            kernels.norm(maps, x, y, theta[w:], a, b * batch, saved[:, side:])
        elif op == ADD:
            kernels.add(maps, y, maps, x, a * side * side * batch, np.float32(1))
        else:
            kernels.pool(maps, x, maps, y, a, side, out, stride, kernel, batch, False)


@njit(**FAST)
def _predict(code, size, batch, theta, mean, var, inputs):
    """Logits ``[step, classes, B]`` under running statistics."""
    maps, pad = np.zeros(size, np.float32), np.zeros(size + 4096, np.float32)
    saved = np.zeros((2, len(mean)), np.float32)
    op, x, y, w, channels, classes, side, out, kernel, stride, relu = code[-1]
    found = np.zeros((len(inputs), classes, batch), np.float32)
    for s in range(len(inputs)):
        _forward(code, batch, maps, inputs[s].ravel(), theta, mean, var, saved, pad, False)
        found[s] = _logits(_features(maps[x:], channels, side * side, batch), theta[w:], classes)
    return found


@njit(**FAST)
def _features(x, channels, area, batch):
    """ReLU and mean over the map, ``[C, B]``."""
    f = np.zeros((channels, batch), np.float32)
    for c in range(channels):
        for p in range(area):
            at = x[(c * area + p) * batch:(c * area + p + 1) * batch]
            for t in range(batch):
                f[c, t] += max(at[t], np.float32(0)) / np.float32(area)
    return f


@njit(**FAST)
def _logits(f, w, classes):
    """The linear layer, ``[classes, B]``."""
    channels, batch = f.shape
    z = np.zeros((classes, batch), np.float32)
    for k in range(classes):
        z[k] += w[classes * channels + k]
        for c in range(channels):
            z[k] += w[k * channels + c] * f[c]
    return z


@njit(**FAST)
def _head(x, slope, w, gw, channels, classes, area, batch, labels):
    """Gradients of the mean cross-entropy: of the linear layer, and back through mean and ReLU to x."""
    f = _features(x, channels, area, batch)
    z = _logits(f, w, classes)
    for t in range(batch):
        z[:, t] = np.exp(z[:, t] - z[:, t].max())
        z[:, t] /= z[:, t].sum() * np.float32(batch)
        z[labels[t], t] -= np.float32(1) / np.float32(batch)
    for k in range(classes):
        gw[classes * channels + k] += z[k].sum()
        for c in range(channels):
            gw[k * channels + c] += (z[k] * f[c]).sum()
    for c in range(channels):
        df = np.zeros(batch, np.float32)
        for k in range(classes):
            df += w[k * channels + c] * z[k] / np.float32(area)
        for p in range(area):
            at = (c * area + p) * batch
            kernels.add_where(slope, at, df, 0, batch, x, at, 1)
