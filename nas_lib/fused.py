"""Passes through large feature maps on a CPU that do several things at once, compiled; plain twins are in ``pieces``.

Maps are flat, ``[B * H, W * C]`` row by row; what belongs to a channel is repeated for every place of such a row. Kernels
whose names end in 16 read and write bfloat16, the upper half of a float32, as int16.
"""

import numpy as np

from nas_lib.jit import ON, ROW, TABLE, I, native

HALF, WIDE = "i2[::1]", "f8[:,::1]"


@native(ROW, ROW, WIDE)
def moments(z, pivot, found):
    """Add the sums of ``z - pivot`` and of their squares to ``found [2, row]``; float32 sums stay short."""
    n = len(pivot)
    sums, squares = np.empty(n, np.float32), np.empty(n, np.float32)
    rows = len(z) // n
    for first in range(0, rows, 64):
        sums[:] = 0
        squares[:] = 0
        for r in range(first, min(first + 64, rows)):
            at = z[r * n:(r + 1) * n]
            for t in range(n):
                d = at[t] - pivot[t]
                sums[t] += d
                squares[t] += d * d
        for t in range(n):
            found[0, t] += sums[t]
            found[1, t] += squares[t]


@native(HALF, ROW, WIDE)
def moments16(z, pivot, found):
    n = len(pivot)
    sums, squares, bits = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
    at, rows = bits.view(np.float32), len(z) // n
    for first in range(0, rows, 64):
        sums[:] = 0
        squares[:] = 0
        for r in range(first, min(first + 64, rows)):
            half = z[r * n:(r + 1) * n]
            for t in range(n):
                bits[t] = np.int32(half[t]) << 16
            for t in range(n):
                d = at[t] - pivot[t]
                sums[t] += d
                squares[t] += d * d
        for t in range(n):
            found[0, t] += sums[t]
            found[1, t] += squares[t]


@native(ROW, ROW, ROW, ON, ROW, ROW, ROW, I, TABLE, ROW, ON)
def blend(total, r, base, based, z0, z1, z2, count, scale, shift, rectify):
    """``total = base + shift + sum_k z_k scale[k]`` over the first ``count`` of z, r its ReLU if asked for."""
    n = len(shift)
    for row in range(len(total) // n):
        to, out = total[row * n:(row + 1) * n], r[row * n:(row + 1) * n]
        a, b, c = z0[row * n:(row + 1) * n], z1[row * n:(row + 1) * n], z2[row * n:(row + 1) * n]
        if based:
            more = base[row * n:(row + 1) * n]
            for t in range(n):
                to[t] = more[t] + shift[t]
        else:
            for t in range(n):
                to[t] = shift[t]
        if count > 0:
            for t in range(n):
                to[t] += a[t] * scale[0, t]
        if count > 1:
            for t in range(n):
                to[t] += b[t] * scale[1, t]
        if count > 2:
            for t in range(n):
                to[t] += c[t] * scale[2, t]
        if rectify:
            for t in range(n):
                out[t] = max(to[t], np.float32(0))


@native(ROW, HALF, ROW, ON, HALF, HALF, HALF, I, TABLE, ROW, ON)
def blend16(total, r, base, based, z0, z1, z2, count, scale, shift, rectify):
    """``blend`` of bfloat16 z into a float32 total and a bfloat16 r, rounded to even."""
    n = len(shift)
    bits = np.empty(n, np.int32)
    at = bits.view(np.float32)
    for row in range(len(total) // n):
        to, out = total[row * n:(row + 1) * n], r[row * n:(row + 1) * n]
        if based:
            more = base[row * n:(row + 1) * n]
            for t in range(n):
                to[t] = more[t] + shift[t]
        else:
            for t in range(n):
                to[t] = shift[t]
        for k in range(count):
            half = z0[row * n:(row + 1) * n] if k == 0 else z1[row * n:(row + 1) * n] if k == 1 else z2[row * n:(row + 1) * n]
            s = scale[k]
            for t in range(n):
                bits[t] = np.int32(half[t]) << 16
            for t in range(n):
                to[t] += at[t] * s[t]
        if not rectify:
            continue
        for t in range(n):
            at[t] = max(to[t], np.float32(0))
        for t in range(n):
            out[t] = np.int16((bits[t] + 32767 + ((bits[t] >> 16) & 1)) >> 16)


@native(ROW, ROW, I, I, ROW)
def average(x, out, height, channels, share):
    """3x3 average of maps of ``height``, cut at the border; ``share`` is one by the columns there are, by place of a row."""
    n = len(share)
    column = np.zeros(n + 2 * channels, np.float32)
    middle, left, right = column[channels:channels + n], column[:n], column[2 * channels:]
    for row in range(len(x) // n):
        y = row % height
        at, to = x[row * n:(row + 1) * n], out[row * n:(row + 1) * n]
        for t in range(n):
            middle[t] = at[t]
        if y > 0:
            above = x[(row - 1) * n:row * n]
            for t in range(n):
                middle[t] += above[t]
        if y < height - 1:
            below = x[(row + 1) * n:(row + 2) * n]
            for t in range(n):
                middle[t] += below[t]
        one = np.float32(1) / np.float32(1 + (y > 0) + (y < height - 1))
        for t in range(n):
            to[t] = (left[t] + middle[t] + right[t]) * share[t] * one
