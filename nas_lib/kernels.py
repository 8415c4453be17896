"""Compiled layers of small networks: forward and backward, on flat float32 arrays.

A feature map is ``[C, side, side, B]`` at some offset of ``maps``; ``slopes`` holds the gradient of the loss
by every entry of ``maps`` at the same offset; parameters w and their gradients gw are flat too. Layers add
to their output, so that a node of a cell is the sum of what its edges add.
"""

import numpy as np
from numba import njit

FAST = {"fastmath": True, "cache": True, "error_model": "numpy"}

# Runs are taken as slices before each inner loop: numba vectorises a loop over a slice, but not one over
# computed positions, which it must guard against negative indices.


@njit(**FAST)
def add(dst, d, src, s, n, share):
    to, at = dst[d:d + n], src[s:s + n]
    for t in range(n):
        to[t] += share * at[t]


@njit(**FAST)
def _copy(dst, d, src, s, n, relu):
    to, at = dst[d:d + n], src[s:s + n]
    if relu:
        for t in range(n):
            to[t] = max(at[t], np.float32(0))
    else:
        for t in range(n):
            to[t] = at[t]


@njit(**FAST)
def add_where(dst, d, src, s, n, sign, x, relu):
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
    _copy(pad, 0, maps, x, c_in * n, relu)
    for o in range(c_out):
        for c in range(0, c_in, 2):
            f = o * c_in + c
            _add_two(maps, y + o * n, pad, c * n, (c + 1) * n, n, w[f], w[f + 1])


@njit(**FAST)
def conv_back(maps, slopes, x, y, w, gw, c_in, c_out, side, out, kernel, stride, relu, batch, pad, back):
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
                add_where(slopes, to, back, rows + half * row, row, maps, to, relu)


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
        add_where(slopes, x + c * n, pad, row, n, maps, x + c * n, relu)


@njit(**FAST)
def measure(maps, x, channels, n, mean, var, saved):
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
def norm(maps, x, y, w, channels, n, saved):
    """Batch norm with the statistics in ``saved``, added to y."""
    for c in range(channels):
        at, to = maps[x + c * n:x + (c + 1) * n], maps[y + c * n:y + (c + 1) * n]
        scale = saved[1, c] * w[c]
        shift = w[channels + c] - saved[0, c] * scale
        for t in range(n):
            to[t] += at[t] * scale + shift


@njit(**FAST)
def norm_back(maps, slopes, x, y, w, gw, channels, n, saved):
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
def pool(src, s, dst, d, channels, side, out, stride, reach, batch, back):
    """Average over the cells from ``reach`` before a position to one after it, cut at the border.

    3x3 at stride 1 has reach 1, 2x2 at stride 2 reach 0. Backward, the roles of the two maps swap.
    """
    for c in range(channels):
        for py in range(out):
            for px in range(out):
                y0, y1 = max(py * stride - reach, 0), min(py * stride + 2, side)
                x0, x1 = max(px * stride - reach, 0), min(px * stride + 2, side)
                share = np.float32(1) / np.float32((y1 - y0) * (x1 - x0))
                one = ((c * out + py) * out + px) * batch
                for qy in range(y0, y1):
                    for qx in range(x0, x1):
                        many = ((c * side + qy) * side + qx) * batch
                        if back:
                            add(dst, d + many, src, s + one, batch, share)
                        else:
                            add(dst, d + one, src, s + many, batch, share)
