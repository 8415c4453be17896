"""Compiled layers of small networks: forward and backward, on flat float32 arrays.

A feature map is ``[C, side, side, B]`` at some offset of ``maps``; ``slopes`` holds the gradient of the loss
by every entry of ``maps`` at the same offset; parameters w and their gradients gw are flat too. Layers add
to their output, so that a node of a cell is the sum of what its edges add.
"""

import numpy as np

from nas_lib.jit import ANY, ON, ROW, TABLE, F, I, native

# Runs are taken as slices before each inner loop: numba vectorises a loop over a slice, but not one over
# computed positions, which it must guard against negative indices.


@native(ROW, I, ROW, I, I, F)
def add(dst, d, src, s, n, share):
    to, at = dst[d:d + n], src[s:s + n]
    for t in range(n):
        to[t] += share * at[t]


@native(ROW, I, ROW, I, I, I)
def copy(dst, d, src, s, n, relu):
    to, at = dst[d:d + n], src[s:s + n]
    if relu:
        for t in range(n):
            to[t] = max(at[t], np.float32(0))
    else:
        for t in range(n):
            to[t] = at[t]


@native(ROW, I, I)
def clear(a, x, n):
    to = a[x:x + n]
    for t in range(n):
        to[t] = 0


@native(ROW, I, ROW, I, I, ROW, I, I)
def add_where(dst, d, src, s, n, sign, x, relu):
    """``dst += src``, with ReLU only where its input ``sign`` was positive."""
    to, at, on = dst[d:d + n], src[s:s + n], sign[x:x + n]
    if relu:
        for t in range(n):
            to[t] += at[t] if on[t] > 0 else np.float32(0)
    else:
        for t in range(n):
            to[t] += at[t]


@native(ROW, I, I, I, ROW, ROW, F, ANY)
def measure(maps, x, channels, n, mean, var, momentum, saved):
    """Batch statistics into ``saved`` (mean, 1/deviation); running ones follow with ``momentum``.

    With momentum 0 the running statistics are taken instead.
    """
    for c in range(channels):
        if momentum > 0:
            at = maps[x + c * n:x + (c + 1) * n]
            m = s = np.float32(0)
            for t in range(n):
                m += at[t]
            m /= np.float32(n)
            for t in range(n):
                s += (at[t] - m) * (at[t] - m)
            s /= np.float32(n)
            mean[c] += momentum * (m - mean[c])
            var[c] += momentum * (s * np.float32(n) / np.float32(max(n - 1, 1)) - var[c])
        else:
            m, s = mean[c], var[c]
        saved[0, c], saved[1, c] = m, np.float32(1) / np.sqrt(s + np.float32(1e-5))


@native(ROW, I, I, ROW, I, I, ANY)
def norm(maps, x, y, w, channels, n, saved):
    """Batch norm with the statistics in ``saved``, added to y."""
    for c in range(channels):
        at, to = maps[x + c * n:x + (c + 1) * n], maps[y + c * n:y + (c + 1) * n]
        scale = saved[1, c] * w[c]
        shift = w[channels + c] - saved[0, c] * scale
        for t in range(n):
            to[t] += at[t] * scale + shift


@native(ROW, ROW, I, I, I, ROW, ROW, I, I, ANY)
def norm_back(maps, slopes, x, y, d, w, gw, channels, n, saved):
    """The gradient of the input x, put at d in ``slopes``, from that of the output y."""
    for c in range(channels):
        m, r = saved[0, c], saved[1, c]
        at, g = maps[x + c * n:x + (c + 1) * n], slopes[y + c * n:y + (c + 1) * n]
        to = slopes[d + c * n:d + (c + 1) * n]
        total = product = np.float32(0)
        for t in range(n):
            total += g[t]
            product += g[t] * (at[t] - m)
        product *= r
        gw[c] += product
        gw[channels + c] += total
        scale, a, b = r * w[c], total / np.float32(n), product * r / np.float32(n)
        for t in range(n):
            to[t] = scale * (g[t] - a - (at[t] - m) * b)


@native(ROW, I, ROW, I, I, I, I, I, I, I, ON)
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


@native(ROW, I, ROW, I, I, returns=F)
def dot(a, x, b, y, n):
    u, v, total = a[x:x + n], b[y:y + n], np.float32(0)
    for t in range(n):
        total += u[t] * v[t]
    return total


@native(ROW, I, I, returns=F)
def total(a, x, n):
    u, found = a[x:x + n], np.float32(0)
    for t in range(n):
        found += u[t]
    return found


@native(ROW, I, I, TABLE)
def features(maps, x, area, f):
    """ReLU and mean over the map at x, into ``f [C, B]``."""
    channels, batch = f.shape
    for c in range(channels):
        for t in range(batch):
            f[c, t] = 0
        for p in range(area):
            at = maps[x + (c * area + p) * batch:x + (c * area + p + 1) * batch]
            for t in range(batch):
                f[c, t] += max(at[t], np.float32(0)) / np.float32(area)


@native(ROW, ROW, I, I, TABLE)
def features_back(maps, slopes, x, area, df):
    """The gradient of the map at x, added, from that of its features, ``df [C, B]``."""
    channels, batch = df.shape
    for c in range(channels):
        share = np.empty(batch, np.float32)
        for t in range(batch):
            share[t] = df[c, t] / np.float32(area)
        for p in range(area):
            at = x + (c * area + p) * batch
            add_where(slopes, at, share, 0, batch, maps, at, 1)
