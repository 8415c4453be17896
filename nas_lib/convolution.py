"""Compiled convolutions of small networks, forward and backward: see ``kernels`` for how maps are stored.

The inner loops work on several rows of values at once, so that what is read once is used in many products. Rows are
cut to blocks that stay in the first cache.
"""

import numpy as np

from nas_lib import tiles
from nas_lib.jit import ON, ROW, I, inlined, native
from nas_lib.kernels import add_where, clear, copy

BLOCK = 1024        # values of a row that are worked on together
HOPS, LEAPS = "UniTuple(i8, 6)", "UniTuple(i8, 4)"


@native(ROW, I, I, I, I, I, I, ROW)
def _padded(maps, x, channels, side, batch, relu, stride, pad):
    """Rows of ``[C, side, (side + 2) * B]`` with a zero column left and right, ReLU applied.

    For stride 2 columns 0, 2, 4, ... come first, then the others: so a tap's inputs lie side by side.
    """
    row, run, odd = side * batch, (side + 2) * batch, (side + 3) // 2
    for r in range(channels * side):
        start, last = r * run, side + 1
        if stride == 2:
            last = last // 2 + (odd if last % 2 else 0)
        clear(pad, start, batch)
        clear(pad, start + last * batch, batch)
        if stride == 1:
            copy(pad, start + batch, maps, x + r * row, row, relu)
        else:
            for c in range(side):
                to = (c + 1) // 2 if c % 2 else odd + c // 2
                copy(pad, start + to * batch, maps, x + r * row + c * batch, batch, relu)


@inlined
def _shifts(side, batch, stride):
    """From the first of a tap's three columns to the second, and to the third, in padded rows."""
    if stride == 1:
        return batch, 2 * batch
    return (side + 3) // 2 * batch, batch


@native(I, ROW, I, I, ROW, I, I, HOPS, ROW, I, LEAPS, ON)
def fill(columns, dst, d, gap, src, s, n, hops, w, f, leaps, fresh):
    """Put sums of products into n places each of four rows of ``dst``: see ``tiles``; ``columns`` 1 to 3."""
    whole = n - n % tiles.WIDTH
    if columns == 1:
        for t in range(0, whole, tiles.WIDTH):
            tiles.one(dst, d + t, gap, src, s + t, hops, w, f, leaps, fresh)
    elif columns == 2:
        for t in range(0, whole, tiles.WIDTH):
            tiles.two(dst, d + t, gap, src, s + t, hops, w, f, leaps, fresh)
    else:
        for t in range(0, whole, tiles.WIDTH):
            tiles.three(dst, d + t, gap, src, s + t, hops, w, f, leaps, fresh)
    channels, hop, rows, line, second, third = hops
    leap, across, turn, step = leaps
    for r in range(4):
        for t in range(whole, n):
            total = np.float32(0) if fresh else dst[d + r * gap + t]
            for c in range(channels):
                for k in range(rows):
                    at, weight = s + c * hop + k * line + t, f + r * leap + c * across + k * turn
                    total += w[weight] * src[at]
                    if columns > 1:
                        total += w[weight + step] * src[at + second]
                    if columns > 2:
                        total += w[weight + 2 * step] * src[at + third]
            dst[d + r * gap + t] = total


@native(ROW, I, I, ROW, I, I, I, I, ON, ROW)
def _conv1(maps, x, y, w, c_in, c_out, n, relu, fresh, pad):
    copy(pad, 0, maps, x, c_in * n, relu)
    for q in range(0, n, BLOCK):
        for o in range(0, c_out, 4):
            fill(1, maps, y + o * n + q, n, pad, q, min(BLOCK, n - q), (c_in, n, 1, 0, 0, 0), w, o * c_in,
                 (c_in, 1, 0, 0), fresh)


@native(ROW, I, I, ROW, I, I, I, I, I, I, I, I, ON, ROW)
def conv(maps, x, y, w, c_in, c_out, side, out, kernel, stride, relu, batch, fresh, pad):
    """``y = conv(relu(x))`` if ``fresh``, else ``y += ...``; row by row, four output channels at a time."""
    if kernel == 1:
        _conv1(maps, x, y, w, c_in, c_out, side * side * batch, relu, fresh, pad)
        return
    _padded(maps, x, c_in, side, batch, relu, stride, pad)
    run, row = (side + 2) * batch, out * batch
    second, third = _shifts(side, batch, stride)
    for oy in range(out):
        above = oy * stride - 1                                # the input row of the first tap, which may not exist
        k, end = max(0, -above), min(3, side - above)
        hops = c_in, side * run, end - k, run, second, third
        for q in range(0, row, BLOCK):
            for o in range(0, c_out, 4):
                fill(3, maps, y + (o * out + oy) * row + q, out * row, pad, (above + k) * run + q, min(BLOCK, row - q),
                     hops, w, o * c_in * 9 + k * 3, (c_in * 9, 9, 3, 1), fresh)


@inlined
def _dots(slopes, g0, g1, src, p, second, third, gu, gv, n):
    """Six products of two gradient rows with three shifts of an input row."""
    u0 = u1 = u2 = v0 = v1 = v2 = np.float32(0)
    g, h = slopes[g0:g0 + n], slopes[g1:g1 + n]
    a, b, c = src[p:p + n], src[p + second:p + second + n], src[p + third:p + third + n]
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
    _padded(maps, x, c_in, side, batch, relu, stride, pad)
    run, area = (side + 2) * batch, out * out * batch
    second, third = _shifts(side, batch, stride)
    for o in range(0, c_out, 2):
        for c in range(c_in):
            for ky in range(3):
                f = (o * c_in + c) * 9 + ky * 3
                for oy in range(out):
                    iy = oy * stride + ky - 1
                    if 0 <= iy < side:
                        g0 = y + (o * out + oy) * out * batch
                        _dots(slopes, g0, g0 + area, pad, (c * side + iy) * run, second, third,
                              gw[f:], gw[f + c_in * 9:], out * batch)


@native(ROW, ROW, I, I, ROW, I, I, I, I, I, ROW)
def _data_gradient(maps, slopes, x, y, w, c_in, c_out, side, relu, batch, back):
    """Input gradient of a 3x3 convolution of stride 1: that of its output convolved, taps reversed."""
    run, row = (side + 2) * batch, side * batch
    rows = c_out * side * run                                 # behind it: four rows of results
    _padded(slopes, y, c_out, side, batch, 0, 1, back)
    for iy in range(side):
        k, end = max(0, iy + 2 - side), min(3, iy + 2)         # taps of output rows that exist
        hops = c_out, side * run, end - k, -run, batch, 2 * batch
        for c in range(0, c_in, 4):
            for q in range(0, row, BLOCK):
                fill(3, back, rows + q, row, back, (iy + 1 - k) * run + q, min(BLOCK, row - q), hops,
                     w, c * 9 + k * 3 + 2, (9, c_in * 9, 3, -1), True)
            for r in range(4):
                to = ((c + r) * side + iy) * row + x
                add_where(slopes, to, back, rows + r * row, row, maps, to, relu)


@native(ROW, ROW, I, I, ROW, I, I, I, I, I, I, ROW)
def _strided_data_gradient(maps, slopes, x, y, w, c_in, c_out, side, out, relu, batch, back):
    """Input gradient at stride 2: even columns were read by the middle tap, odd ones by the two outer taps."""
    run, row = (out + 1) * batch, out * batch                 # a zero column on the right
    rows = c_out * out * run                                  # behind it: four rows of even columns, four of odd ones
    for r in range(c_out * out):
        copy(back, r * run, slopes, y + r * row, row, 0)
        clear(back, r * run + row, batch)
    for iy in range(side):
        k = 1 - iy % 2                                         # an odd row was read by taps 0 and 2 of two output rows
        if iy % 2 and iy // 2 + 1 == out:
            k = 2                                              # of which the lower does not exist
        hops = c_out, out * run, 2 if iy % 2 and k == 0 else 1, -run, batch, 0
        s, turns = (iy + 1 - k) // 2 * run, (9, c_in * 9, 6, -2)
        for c in range(0, c_in, 4):
            f = c * 9 + k * 3
            fill(1, back, rows, row, back, s, row, hops, w, f + 1, turns, True)
            fill(2, back, rows + 4 * row, row, back, s, row, hops, w, f + 2, turns, True)
            for r in range(4):
                for ix in range(side):
                    to = x + (((c + r) * side + iy) * side + ix) * batch
                    add_where(slopes, to, back, rows + (ix % 2 * 4 + r) * row + ix // 2 * batch, batch, maps, to, relu)


@native(ROW, I, I, ROW, I, I, ROW, I, I)
def _products(slopes, g, gap, src, s, n, gw, f, leap):
    """Four products of gradient rows, ``gap`` apart, with one input row."""
    u0 = u1 = u2 = u3 = np.float32(0)
    g0, g1 = slopes[g:g + n], slopes[g + gap:g + gap + n]
    g2, g3, a = slopes[g + 2 * gap:g + 2 * gap + n], slopes[g + 3 * gap:g + 3 * gap + n], src[s:s + n]
    for t in range(n):
        u0 += g0[t] * a[t]
        u1 += g1[t] * a[t]
        u2 += g2[t] * a[t]
        u3 += g3[t] * a[t]
    gw[f] += u0
    gw[f + leap] += u1
    gw[f + 2 * leap] += u2
    gw[f + 3 * leap] += u3


@native(ROW, ROW, I, I, ROW, ROW, I, I, I, I, ROW, ON, ON)
def _conv1_back(maps, slopes, x, y, w, gw, c_in, c_out, n, relu, pad, weights, inputs):
    if weights:
        copy(pad, 0, maps, x, c_in * n, relu)
    for q in range(0, n, BLOCK):
        m = min(BLOCK, n - q)
        if weights:
            for o in range(0, c_out, 4):
                for c in range(c_in):
                    _products(slopes, y + o * n + q, n, pad, c * n + q, m, gw, o * c_in + c, c_in)
        if inputs:
            for c in range(0, c_in, 4):
                rows = c_in * n                                # behind the input: four rows of results
                fill(1, pad, rows, m, slopes, y + q, m, (c_out, n, 1, 0, 0, 0), w, c, (1, c_in, 0, 0), True)
                for k in range(4):
                    to = x + (c + k) * n + q
                    add_where(slopes, to, pad, rows + k * m, m, maps, to, relu)


@native(ROW, ROW, I, I, ROW, ROW, I, I, I, I, I, I, I, I, ROW, ROW, ON, ON)
def conv_back(maps, slopes, x, y, w, gw, c_in, c_out, side, out, kernel, stride, relu, batch, pad, back,
              weights, inputs):
    """Gradients from that of the output, at y in ``slopes``: of the weights and of the input, if asked for."""
    if kernel == 1:
        _conv1_back(maps, slopes, x, y, w, gw, c_in, c_out, side * side * batch, relu, pad, weights, inputs)
        return
    if weights:
        _weight_gradient(maps, slopes, x, y, gw, c_in, c_out, side, out, stride, relu, batch, pad)
    if inputs and stride == 1:
        _data_gradient(maps, slopes, x, y, w, c_in, c_out, side, relu, batch, back)
    elif inputs:
        _strided_data_gradient(maps, slopes, x, y, w, c_in, c_out, side, out, relu, batch, back)
