"""The inner loop of convolutions, with its sums in the registers of the processor.

Loops as numba compiles them keep sums in memory, which takes as long as the products. Here 4 rows x 16 values are
summed over all input rows before they are written. The plain twin is the loop at the end of ``convolution.fill``.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS, LANES, VECTORS = 4, 8, 2      # output rows; values of a vector; vectors of a row
WIDTH = LANES * VECTORS
FLAGS = ("fast",)


def _tile(columns):
    """Put sums of products into ``dst[d + r gap + t]``, r < 4, t < 16; they begin at 0 if ``fresh``.

    To each is added, over ``c < channels``, ``k < rows`` and the columns: ``src[s + c hop + k line + shift + t]`` times
    ``w[f + r leap + c across + k turn + column step]``, where ``shift`` is 0, ``second``, ``third``.
    ``hops`` = (channels, hop, rows, line, second, third), ``leaps`` = (leap, across, turn, step).
    """
    row, whole = types.Array(types.float32, 1, "C"), types.int64
    signature = types.void(row, whole, whole, row, whole, types.UniTuple(whole, 6), row, whole,
                           types.UniTuple(whole, 4), types.boolean)

    def code(context, builder, sig, args):
        to, d, gap, at, s, hops, weights, f, leaps, fresh = args
        to, at, weights = (context.make_array(sig.args[k])(context, builder, args[k]).data for k in (0, 3, 6))
        channels, hop, rows, line, *shifts = cgutils.unpack_tuple(builder, hops)
        leap, across, turn, step = cgutils.unpack_tuple(builder, leaps)
        vector = ir.VectorType(ir.FloatType(), LANES)
        zero = ir.Constant(vector, [0.0] * LANES)

        def number(k):
            return ir.Constant(ir.IntType(64), k)

        def place(base, position):
            return builder.bitcast(builder.gep(base, [position]), vector.as_pointer())

        def load(base, position):
            return builder.load(place(base, position), align=4)

        def splat(position):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), builder.load(builder.gep(weights, [position])),
                                         ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

        def target(r, v):
            return builder.add(d, builder.add(builder.mul(gap, number(r)), number(v * LANES)))

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(VECTORS)] for _ in range(ROWS)]
        for r in range(ROWS):
            for v in range(VECTORS):
                builder.store(zero, sums[r][v])
        with cgutils.if_likely(builder, builder.not_(fresh)):
            for r in range(ROWS):
                for v in range(VECTORS):
                    builder.store(load(to, target(r, v)), sums[r][v])
        with cgutils.for_range(builder, channels) as over_channels, cgutils.for_range(builder, rows) as over_rows:
            c, k = over_channels.index, over_rows.index
            start = builder.add(s, builder.add(builder.mul(c, hop), builder.mul(k, line)))
            first = builder.add(f, builder.add(builder.mul(c, across), builder.mul(k, turn)))
            for column, shift in enumerate([number(0), *shifts][:columns]):
                values = [load(at, builder.add(start, builder.add(shift, number(v * LANES)))) for v in range(VECTORS)]
                for r in range(ROWS):
                    weight = splat(builder.add(first, builder.add(builder.mul(leap, number(r)),
                                                                  builder.mul(step, number(column)))))
                    for v in range(VECTORS):
                        product = builder.fmul(weight, values[v], flags=FLAGS)
                        builder.store(builder.fadd(builder.load(sums[r][v]), product, flags=FLAGS), sums[r][v])
        for r in range(ROWS):
            for v in range(VECTORS):
                builder.store(builder.load(sums[r][v]), place(to, target(r, v)), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, dst, d, gap, src, s, hops, w, f, leaps, fresh):
        return signature, code

    return tile


one, two, three = map(_tile, (1, 2, 3))
