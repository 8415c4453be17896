"""Compiled convolutions of small networks, forward and backward: see ``kernels`` for how maps are stored."""

import numpy as np

from nas_lib.jit import ON, ROW, F, I, inlined, native
from nas_lib.kernels import add_where, clear, copy

BLOCK = 1024        # values of a row that are worked on together: four such rows fit the first cache


@native(ROW, I, I, I, I, I, ROW)
def _padded(maps, x, channels, side, batch, relu, pad):
    """Rows of ``[C, side, B * (side + 2)]`` with a zero column left and right, ReLU applied."""
    row, run = side * batch, (side + 2) * batch
    for r in range(channels * side):
        start = r * run
        clear(pad, start, batch)
        clear(pad, start + batch + row, batch)
        copy(pad, start + batch, maps, x + r * row, row, relu)


@inlined
def _taps(dst, d, gap, src, s, n, batch, w, f, leap, step):
    """Four rows gain three neighbouring columns each: the inner loop of a 3x3 convolution.

    The rows are ``gap`` apart, their weights ``leap``, those of the columns ``step``.
    """
    g, h, i = f + leap, f + 2 * leap, f + 3 * leap
    u0, u1, u2, v0, v1, v2 = w[f], w[f + step], w[f + 2 * step], w[g], w[g + step], w[g + 2 * step]
    p0, p1, p2, q0, q1, q2 = w[h], w[h + step], w[h + 2 * step], w[i], w[i + step], w[i + 2 * step]
    d0, d1 = dst[d:d + n], dst[d + gap:d + gap + n]
    d2, d3 = dst[d + 2 * gap:d + 2 * gap + n], dst[d + 3 * gap:d + 3 * gap + n]
    a, b, c = src[s:s + n], src[s + batch:s + batch + n], src[s + 2 * batch:s + 2 * batch + n]
    for t in range(n):
        d0[t] += u0 * a[t] + u1 * b[t] + u2 * c[t]
        d1[t] += v0 * a[t] + v1 * b[t] + v2 * c[t]
        d2[t] += p0 * a[t] + p1 * b[t] + p2 * c[t]
        d3[t] += q0 * a[t] + q1 * b[t] + q2 * c[t]


@native(ROW, I, ROW, I, I, I, F, F)
def _add_two(dst, d, src, s0, s1, n, u, v):
    to, a, b = dst[d:d + n], src[s0:s0 + n], src[s1:s1 + n]
    for t in range(n):
        to[t] += u * a[t] + v * b[t]


@native(ROW, I, I, ROW, I, I, I, I, ROW)
def _conv1(maps, x, y, w, c_in, c_out, n, relu, pad):
    copy(pad, 0, maps, x, c_in * n, relu)
    for o in range(c_out):
        for c in range(0, c_in, 2):
            f = o * c_in + c
            _add_two(maps, y + o * n, pad, c * n, (c + 1) * n, n, w[f], w[f + 1])


@native(ROW, I, I, ROW, I, I, I, I, I, I, I, I, ROW)
def conv(maps, x, y, w, c_in, c_out, side, out, kernel, stride, relu, batch, pad):
    """``y += conv(relu(x))``, four output channels at a time, of each as many values as stay at hand."""
    if kernel == 1:
        _conv1(maps, x, y, w, c_in, c_out, side * side * batch, relu, pad)
        return
    _padded(maps, x, c_in, side, batch, relu, pad)
    run, row = (side + 2) * batch, out * batch
    block = min(BLOCK, row) if stride == 1 else batch
    for o in range(0, c_out, 4):
        for oy in range(out):
            for q in range(0, row, block):
                to, n = y + (o * out + oy) * row + q, min(block, row - q)
                for c in range(c_in):
                    for ky in range(3):
                        iy = oy * stride + ky - 1
                        if 0 <= iy < side:
                            _taps(maps, to, out * row, pad, (c * side + iy) * run + q * stride, n, batch,
                                  w, (o * c_in + c) * 9 + ky * 3, c_in * 9, 1)


@inlined
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


@native(ROW, ROW, I, I, ROW, I, I, I, I, I, I, I, ROW)
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


@native(ROW, ROW, I, I, ROW, I, I, I, I, I, I, I, ROW)
def _data_gradient(maps, slopes, x, y, w, c_in, c_out, side, out, stride, relu, batch, back):
    """Input gradient of a 3x3 convolution: the same inner loop on the gradient, taps reversed.

    A strided convolution's gradient is first spread over a side x side map with zeros between.
    """
    run, row = (side + 2) * batch, side * batch
    rows = c_out * side * run                                 # behind it: four rows of results
    clear(back, 0, rows)
    for o in range(c_out):
        for oy in range(out):
            for ox in range(out):
                copy(back, (o * side + oy * stride) * run + (ox * stride + 1) * batch,
                      slopes, y + ((o * out + oy) * out + ox) * batch, batch, 0)
    for c in range(0, c_in, 4):
        for iy in range(side):
            clear(back, rows, 4 * row)
            for q in range(0, row, BLOCK):
                for o in range(c_out):
                    for ky in range(3):
                        oy = iy + 1 - ky
                        if 0 <= oy < side and oy % stride == 0:
                            _taps(back, rows + q, row, back, (o * side + oy) * run + q, min(BLOCK, row - q), batch,
                                  w, (o * c_in + c) * 9 + ky * 3 + 2, 9, -1)
            for k in range(4):
                to = ((c + k) * side + iy) * row + x
                add_where(slopes, to, back, rows + k * row, row, maps, to, relu)


@native(ROW, ROW, I, I, ROW, ROW, I, I, I, I, ROW, ON, ON)
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


@native(ROW, ROW, I, I, ROW, ROW, I, I, I, I, I, I, I, I, ROW, ROW, ON, ON)
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
