"""Training of one small network on a CPU, compiled: the fast path of ``standalone`` for truth tables.

PyTorch's grouped convolutions reach a few percent of a CPU's arithmetic at four channels; whole truth
tables are then days of work. Here one network trains alone, step after step, in compiled loops whose
innermost run is contiguous over image columns and batch. Feature maps are ``[C, H, W, B]``, one flat
array for all of them; a network is a list of instructions. The plain twin is ``standalone.Network``.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numba import njit

from nas_lib.spaces import Space

CONV, NORM, ADD, POOL3, POOL2, HEAD = range(6)
FAST = {"fastmath": True, "cache": True, "error_model": "numpy"}


class Program:
    """The instructions of one network, and where its parameters and feature maps lie.

    ``names`` maps the parameters' names in ``standalone.Network`` to (offset, shape); ``stats`` the batch
    norms' names to (offset, channels) in the running mean and variance.
    """

    def __init__(self, space: Space, arch, data, recipe):
        if recipe.channels % 2:
            raise ValueError(f"compiled training needs an even number of channels, got {recipe.channels}")
        self.recipe, self.batch, self.code, self.names, self.stats = recipe, recipe.batch, [], {}, {}
        self.size = self.parameters = self.channels = 0
        shape, classes, width = data.shape, data.classes, recipe.channels
        x, side = self._map(shape[0], shape[1]), shape[1]
        y = self._map(width, side)
        x = self._norm(self._conv(x, "body.0.0", shape[0], width, side, 3, relu=0), y, "body.0.1", width, side)
        layer = 1
        for stage in range(3):
            if stage:
                x, side, width = self._reduction(x, f"body.{layer}", width, side)
                layer += 1
            for _ in range(recipe.cells):
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
        self.parameters += int(np.prod(shape))
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
        self.code.append((POOL2, x, pooled, 0, width, 0, side, half, 0, 0, 0))
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
                self.code.append((POOL3, *edge, 0, width, 0, side, 0, 0, 0, 0))
            else:
                kernel = 3 if op == "nor_conv_3x3" else 1
                self._conv_norm(*edge, f"{name}.edges.{target}<-{source}", width, width, side, kernel)
        return self._map(width, side) if nodes[-1] is None else nodes[-1]


def train(program: Program, state: dict, batches, rates: np.ndarray) -> dict:
    """SGD with Nesterov momentum from ``state`` (tensors by name), one step per rate; returns the last state.

    ``batches`` yields images ``[B, C, H, W]`` and labels ``[B]``; the loss is the mean cross-entropy.
    """
    theta, mean, var = _vectors(program, state)
    x, y = zip(*itertools.islice(batches, len(rates)), strict=True)
    x = torch.stack(x).permute(0, 2, 3, 4, 1).contiguous().numpy()          # step, C, H, W, B
    _train(program.code, program.size, program.batch, theta, mean, var, x, torch.stack(y).numpy(),
           rates.astype(np.float32), np.float32(program.recipe.momentum),
           np.float32(program.recipe.weight_decay))
    out = dict(state)
    for name, (start, shape) in program.names.items():
        out[name] = torch.from_numpy(theta[start:start + int(np.prod(shape))].reshape(shape))
    for name, (start, channels) in program.stats.items():
        out[f"{name}.running_mean"] = torch.from_numpy(mean[start:start + channels])
        out[f"{name}.running_var"] = torch.from_numpy(var[start:start + channels])
    return out


def accuracy(program: Program, state: dict, x: torch.Tensor, y: torch.Tensor) -> float:
    """Top-1 accuracy in percent of a trained state on images ``[n, C, H, W]``, with running statistics."""
    short = -len(x) % program.batch
    batches = torch.cat([x, x[:short]]).unflatten(0, (-1, program.batch)).permute(0, 2, 3, 4, 1)
    found = _predict(program.code, program.size, program.batch, *_vectors(program, state),
                     batches.contiguous().numpy())
    return 100 * float((found.ravel()[:len(y)] == y.numpy()).mean())


def _vectors(program: Program, state: dict):
    """Parameters, running means and running variances of a state, each as one vector."""
    theta = np.empty(program.parameters, dtype=np.float32)
    mean, var = np.empty((2, program.channels), dtype=np.float32)
    for name, (start, shape) in program.names.items():
        theta[start:start + int(np.prod(shape))] = state[name].numpy().ravel()
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
                _conv_back(maps, slopes, x, y, theta[w:], gradient[w:], a, b, side, out, kernel, stride, relu,
                           batch, pad, back)
            elif op == NORM:
                _norm_back(maps, slopes, x, y, theta[w:], gradient[w:], a, b * batch, saved[:, side:])
            elif op == ADD:
                _add(slopes, x, slopes, y, a * side * side * batch, np.float32(1))
            elif op == POOL3:
                _pool3(slopes, y, slopes, x, a, side, batch, True)
            else:
                _pool2(slopes, y, slopes, x, a, side, out, batch, True)
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
            _conv(maps, x, y, theta[w:], a, b, side, out, kernel, stride, relu, batch, pad)
        elif op == NORM:
            if training:
                _measure(maps, x, a, b * batch, mean[side:], var[side:], saved[:, side:])
            else:
                saved[0, side:side + a] = mean[side:side + a]
                saved[1, side:side + a] = 1 / np.sqrt(var[side:side + a] + np.float32(1e-5))
            _norm(maps, x, y, theta[w:], a, b * batch, saved[:, side:])
        elif op == ADD:
            _add(maps, y, maps, x, a * side * side * batch, np.float32(1))
        elif op == POOL3:
            _pool3(maps, x, maps, y, a, side, batch, False)
        else:
            _pool2(maps, x, maps, y, a, side, out, batch, False)


@njit(**FAST)
def _predict(code, size, batch, theta, mean, var, inputs):
    maps, pad = np.zeros(size, np.float32), np.zeros(size + 4096, np.float32)
    saved = np.zeros((2, len(mean)), np.float32)
    found = np.zeros((len(inputs), batch), np.int64)
    for s in range(len(inputs)):
        _forward(code, batch, maps, inputs[s].ravel(), theta, mean, var, saved, pad, False)
        op, x, y, w, channels, classes, side, out, kernel, stride, relu = code[-1]
        z = _logits(_features(maps[x:], channels, side * side, batch), theta[w:], classes)
        for t in range(batch):
            found[s, t] = np.argmax(z[:, t])
    return found


# Runs are taken as slices before each inner loop: numba vectorises a loop over a slice, but not one over
# computed positions, which it must guard against negative indices.


@njit(inline="always", **FAST)
def _add(dst, d, src, s, n, share):
    to, at = dst[d:d + n], src[s:s + n]
    for t in range(n):
        to[t] += share * at[t]


@njit(inline="always", **FAST)
def _copy(dst, d, src, s, n, relu):
    to, at = dst[d:d + n], src[s:s + n]
    if relu:
        for t in range(n):
            to[t] = max(at[t], np.float32(0))
    else:
        for t in range(n):
            to[t] = at[t]


@njit(inline="always", **FAST)
def _add_where(dst, d, src, s, n, sign, x, relu):
    """``dst += src``, with ReLU only where its input ``sign`` was positive."""
    to, at, on = dst[d:d + n], src[s:s + n], sign[x:x + n]
    if relu:
        for t in range(n):
            to[t] += at[t] if on[t] > 0 else np.float32(0)
    else:
        for t in range(n):
            to[t] += at[t]


@njit(**FAST)
def _padded(maps, x, channels, side, batch, relu, pad):
    """Rows of ``[C, side, B * (side + 2)]`` with a zero column left and right, ReLU applied."""
    row, run = side * batch, (side + 2) * batch
    for r in range(channels * side):
        start = r * run
        pad[start:start + batch] = 0
        pad[start + batch + row:start + run] = 0
        _copy(pad, start + batch, maps, x + r * row, row, relu)


@njit(**FAST)
def _conv(maps, x, y, w, c_in, c_out, side, out, kernel, stride, relu, batch, pad):
    """``y += conv(relu(x))``, two output channels at a time."""
    if kernel == 1:
        _conv1(maps, x, y, w, c_in, c_out, side * side * batch, relu, pad)
        return
    _padded(maps, x, c_in, side, batch, relu, pad)
    run, area = (side + 2) * batch, out * out * batch
    for o in range(0, c_out, 2):
        for oy in range(out):
            y0 = y + (o * out + oy) * out * batch
            for c in range(c_in):
                for ky in range(3):
                    iy = oy * stride + ky - 1
                    if 0 <= iy < side:
                        f = (o * c_in + c) * 9 + ky * 3
                        _taps(maps, y0, y0 + area, pad, (c * side + iy) * run, w[f:], w[f + c_in * 9:],
                              out, stride, batch)


@njit(inline="always", **FAST)
def _taps(dst, y0, y1, src, p, u, v, out, stride, batch):
    """Two rows gain three neighbouring columns each: the inner loop of a 3x3 convolution."""
    u0, u1, u2, v0, v1, v2 = u[0], u[1], u[2], v[0], v[1], v[2]
    n = out * batch if stride == 1 else batch
    for k in range(1 if stride == 1 else out):
        q, s = k * batch, p + k * stride * batch
        d0, d1 = dst[y0 + q:y0 + q + n], dst[y1 + q:y1 + q + n]
        a, b, c = src[s:s + n], src[s + batch:s + batch + n], src[s + 2 * batch:s + 2 * batch + n]
        for t in range(n):
            d0[t] += u0 * a[t] + u1 * b[t] + u2 * c[t]
            d1[t] += v0 * a[t] + v1 * b[t] + v2 * c[t]


@njit(inline="always", **FAST)
def _add_two(dst, d, src, s0, s1, n, u, v):
    to, a, b = dst[d:d + n], src[s0:s0 + n], src[s1:s1 + n]
    for t in range(n):
        to[t] += u * a[t] + v * b[t]


@njit(**FAST)
def _conv1(maps, x, y, w, c_in, c_out, n, relu, pad):
    _copy(pad, 0, maps, x, c_in * n, relu)
    for o in range(c_out):
        for c in range(0, c_in, 2):
            f = o * c_in + c
            _add_two(maps, y + o * n, pad, c * n, (c + 1) * n, n, w[f], w[f + 1])


@njit(**FAST)
def _conv_back(maps, slopes, x, y, w, gw, c_in, c_out, side, out, kernel, stride, relu, batch, pad, back):
    """Gradients of the weights and, unless x is the network's input, of the input."""
    if kernel == 1:
        _conv1_back(maps, slopes, x, y, w, gw, c_in, c_out, side * side * batch, relu, pad)
        return
    _padded(maps, x, c_in, side, batch, relu, pad)
    run, area = (side + 2) * batch, out * out * batch
    for o in range(0, c_out, 2):
        for c in range(c_in):
            for ky in range(3):
                f = (o * c_in + c) * 9 + ky * 3
                for oy in range(out):
                    iy = oy * stride + ky - 1
                    if 0 <= iy < side:
                        g0 = y + (o * out + oy) * out * batch
                        _dots(slopes, g0, g0 + area, pad, (c * side + iy) * run, gw[f:], gw[f + c_in * 9:],
                              out, stride, batch)
    if x:
        _data_gradient(maps, slopes, x, y, w, c_in, c_out, side, out, stride, relu, batch, back)


@njit(inline="always", **FAST)
def _dots(slopes, g0, g1, src, p, gu, gv, out, stride, batch):
    """Six products of two gradient rows with three shifts of an input row."""
    u0 = u1 = u2 = v0 = v1 = v2 = np.float32(0)
    n = out * batch if stride == 1 else batch
    for k in range(1 if stride == 1 else out):
        q, s = k * batch, p + k * stride * batch
        g, h = slopes[g0 + q:g0 + q + n], slopes[g1 + q:g1 + q + n]
        a, b, c = src[s:s + n], src[s + batch:s + batch + n], src[s + 2 * batch:s + 2 * batch + n]
        for t in range(n):
            u0 += g[t] * a[t]
            u1 += g[t] * b[t]
            u2 += g[t] * c[t]
            v0 += h[t] * a[t]
            v1 += h[t] * b[t]
            v2 += h[t] * c[t]
    gu[0] += u0
    gu[1] += u1
    gu[2] += u2
    gv[0] += v0
    gv[1] += v1
    gv[2] += v2


@njit(**FAST)
def _data_gradient(maps, slopes, x, y, w, c_in, c_out, side, out, stride, relu, batch, back):
    """Input gradient of a 3x3 convolution: the same inner loop on the gradient, taps reversed.

    A strided convolution's gradient is first spread over a side x side map with zeros between.
    """
    run, row = (side + 2) * batch, side * batch
    rows = c_out * side * run                                 # behind it: two rows of results
    back[:rows] = 0
    for o in range(c_out):
        for oy in range(out):
            for ox in range(out):
                _copy(back, (o * side + oy * stride) * run + (ox * stride + 1) * batch,
                      slopes, y + ((o * out + oy) * out + ox) * batch, batch, 0)
    u, v = np.empty(3, np.float32), np.empty(3, np.float32)
    for c in range(0, c_in, 2):
        for iy in range(side):
            back[rows:rows + 2 * row] = 0
            for o in range(c_out):
                for ky in range(3):
                    oy = iy + 1 - ky
                    if 0 <= oy < side and oy % stride == 0:
                        f = (o * c_in + c) * 9 + ky * 3
                        for k in range(3):
                            u[k], v[k] = w[f + 2 - k], w[f + 11 - k]
                        _taps(back, rows, rows + row, back, (o * side + oy) * run, u, v, side, 1, batch)
            for half in range(2):
                to = ((c + half) * side + iy) * row + x
                _add_where(slopes, to, back, rows + half * row, row, maps, to, relu)


@njit(**FAST)
def _conv1_back(maps, slopes, x, y, w, gw, c_in, c_out, n, relu, pad):
    row = c_in * n
    _copy(pad, 0, maps, x, row, relu)
    for c in range(c_in):
        at = pad[c * n:(c + 1) * n]
        pad[row:row + n] = 0
        for o in range(0, c_out, 2):
            f, u, v = o * c_in + c, np.float32(0), np.float32(0)
            g, h = slopes[y + o * n:y + (o + 1) * n], slopes[y + (o + 1) * n:y + (o + 2) * n]
            for t in range(n):
                u += g[t] * at[t]
                v += h[t] * at[t]
            gw[f] += u
            gw[f + c_in] += v
            _add_two(pad, row, slopes, y + o * n, y + (o + 1) * n, n, w[f], w[f + c_in])
        _add_where(slopes, x + c * n, pad, row, n, maps, x + c * n, relu)


@njit(**FAST)
def _measure(maps, x, channels, n, mean, var, saved):
    """Batch statistics into ``saved`` (mean, 1/deviation); running ones follow with momentum 0.1."""
    for c in range(channels):
        at = maps[x + c * n:x + (c + 1) * n]
        m = s = np.float32(0)
        for t in range(n):
            m += at[t]
        m /= np.float32(n)
        for t in range(n):
            s += (at[t] - m) * (at[t] - m)
        s /= np.float32(n)
        mean[c] += np.float32(0.1) * (m - mean[c])
        var[c] += np.float32(0.1) * (s * np.float32(n) / np.float32(n - 1) - var[c])
        saved[0, c], saved[1, c] = m, np.float32(1) / np.sqrt(s + np.float32(1e-5))


@njit(**FAST)
def _norm(maps, x, y, w, channels, n, saved):
    """Batch norm with the statistics in ``saved``, added to y."""
    for c in range(channels):
        at, to = maps[x + c * n:x + (c + 1) * n], maps[y + c * n:y + (c + 1) * n]
        scale = saved[1, c] * w[c]
        shift = w[channels + c] - saved[0, c] * scale
        for t in range(n):
            to[t] += at[t] * scale + shift


@njit(**FAST)
def _norm_back(maps, slopes, x, y, w, gw, channels, n, saved):
    for c in range(channels):
        m, r = saved[0, c], saved[1, c]
        at, g = maps[x + c * n:x + (c + 1) * n], slopes[y + c * n:y + (c + 1) * n]
        to = slopes[x + c * n:x + (c + 1) * n]
        total = product = np.float32(0)
        for t in range(n):
            total += g[t]
            product += g[t] * (at[t] - m)
        product *= r
        gw[c] += product
        gw[channels + c] += total
        scale, a, b = r * w[c], total / np.float32(n), product * r / np.float32(n)
        for t in range(n):
            to[t] += scale * (g[t] - a - (at[t] - m) * b)


@njit(**FAST)
def _pool3(src, s, dst, d, channels, side, batch, back):
    """3x3 average over the cells inside the map; backward, the roles of the two maps swap."""
    for c in range(channels):
        for py in range(side):
            for px in range(side):
                y0, y1 = max(py - 1, 0), min(py + 2, side)
                x0, x1 = max(px - 1, 0), min(px + 2, side)
                share = np.float32(1) / np.float32((y1 - y0) * (x1 - x0))
                centre = ((c * side + py) * side + px) * batch
                for qy in range(y0, y1):
                    for qx in range(x0, x1):
                        near = ((c * side + qy) * side + qx) * batch
                        if back:
                            _add(dst, d + near, src, s + centre, batch, share)
                        else:
                            _add(dst, d + centre, src, s + near, batch, share)


@njit(**FAST)
def _pool2(src, s, dst, d, channels, side, out, batch, back):
    """2x2 average, cut at an odd map's border; backward, the roles of the two maps swap."""
    for c in range(channels):
        for py in range(out):
            for px in range(out):
                y1, x1 = min(2 * py + 2, side), min(2 * px + 2, side)
                share = np.float32(1) / np.float32((y1 - 2 * py) * (x1 - 2 * px))
                small = ((c * out + py) * out + px) * batch
                for qy in range(2 * py, y1):
                    for qx in range(2 * px, x1):
                        large = ((c * side + qy) * side + qx) * batch
                        if back:
                            _add(dst, d + large, src, s + small, batch, share)
                        else:
                            _add(dst, d + small, src, s + large, batch, share)


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
            _add_where(slope, at, df, 0, batch, x, at, 1)
