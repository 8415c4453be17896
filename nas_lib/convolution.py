"""Compiled convolutions of small networks, forward and backward: see ``kernels`` for how maps are stored."""

import numpy as np
from numba import njit

from nas_lib.kernels import FAST, add_where, clear, copy


@njit(**FAST)
def _padded(maps, x, channels, side, batch, relu, pad):
    """Rows of ``[C, side, B * (side + 2)]`` with a zero column left and right, ReLU applied."""
    row, run = side * batch, (side + 2) * batch
    for r in range(channels * side):
        start = r * run
        clear(pad, start, batch)
        clear(pad, start + batch + row, batch)
        copy(pad, start + batch, maps, x + r * row, row, relu)


@njit(**FAST)
def conv(maps, x, y, w, c_in, c_out, side, out, kernel, stride, relu, batch, pad):
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


@njit(**FAST)
def _add_two(dst, d, src, s0, s1, n, u, v):
    to, a, b = dst[d:d + n], src[s0:s0 + n], src[s1:s1 + n]
    for t in range(n):
        to[t] += u * a[t] + v * b[t]


@njit(**FAST)
def _conv1(maps, x, y, w, c_in, c_out, n, relu, pad):
    copy(pad, 0, maps, x, c_in * n, relu)
    for o in range(c_out):
        for c in range(0, c_in, 2):
            f = o * c_in + c
            _add_two(maps, y + o * n, pad, c * n, (c + 1) * n, n, w[f], w[f + 1])


@njit(**FAST)
def conv_back(maps, slopes, x, y, w, gw, c_in, c_out, side, out, kernel, stride, relu, batch, pad, back,
              weights, inputs):
    """Gradients from that of the output, at y in ``slopes``: of the weights and of the input, if asked for."""
    if kernel == 1:
        _conv1_back(maps, slopes, x, y, w, gw, c_in, c_out, side * side * batch, relu, pad, weights, inputs)
        return
    if weights:
        _weight_gradient(maps, slopes, x, y, gw, c_in, c_out, side, out, stride, relu, batch, pad)
    if inputs:
        _data_gradient(maps, slopes, x, y, w, c_in, c_out, side, out, stride, relu, batch, back)


@njit(**FAST)
def _weight_gradient(maps, slopes, x, y, gw, c_in, c_out, side, out, stride, relu, batch, pad):
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
    clear(back, 0, rows)
    for o in range(c_out):
        for oy in range(out):
            for ox in range(out):
                copy(back, (o * side + oy * stride) * run + (ox * stride + 1) * batch,
                      slopes, y + ((o * out + oy) * out + ox) * batch, batch, 0)
    u, v = np.empty(3, np.float32), np.empty(3, np.float32)
    for c in range(0, c_in, 2):
        for iy in range(side):
            clear(back, rows, 2 * row)
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
                add_where(slopes, to, back, rows + half * row, row, maps, to, relu)


@njit(**FAST)
def _conv1_back(maps, slopes, x, y, w, gw, c_in, c_out, n, relu, pad, weights, inputs):
    row = c_in * n
    if weights:
        copy(pad, 0, maps, x, row, relu)
    for c in range(c_in):
        at = pad[c * n:(c + 1) * n]
        clear(pad, row, n)
        for o in range(0, c_out, 2):
            f, u, v = o * c_in + c, np.float32(0), np.float32(0)
            g, h = slopes[y + o * n:y + (o + 1) * n], slopes[y + (o + 1) * n:y + (o + 2) * n]
            if weights:
                for t in range(n):
                    u += g[t] * at[t]
                    v += h[t] * at[t]
                gw[f] += u
                gw[f + c_in] += v
            if inputs:
                _add_two(pad, row, slopes, y + o * n, y + (o + 1) * n, n, w[f], w[f + c_in])
        if inputs:
            add_where(slopes, x + c * n, pad, row, n, maps, x + c * n, relu)
