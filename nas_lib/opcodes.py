"""A pickle, opcode by opcode, rewritten so that the C unpickler needs little memory and can come to no harm.

The unpickler keeps all that a pickle numbers (PUT, MEMOIZE) to its end: every text and container of a file of
5 GB. Here the objects are numbered anew. A number that is looked up (GET) only before the next end of a part is
used again in the next part, so that what stood there is let go; one looked up later is ``kept`` and stays. A part
ends where a dictionary two levels below the outermost one is complete, in a benchmark file the results of
one architecture: there an opcode is put in that hands it to ``persistent_load``, whose answer takes its place.
"""

import numpy as np
from numba import njit

MORE, DONE, CUT, OPCODE, LONG, DEEP, MEMO, STACK, PART, CALL = range(10)
REASONS = {
    CUT: "it ends early", OPCODE: "it holds something else than plain values (weights, objects), or is no pickle",
    LONG: "one of its values claims to be too long", DEEP: "its values are nested too deeply",
    MEMO: "it refers to a value that it does not have", STACK: "its values are incomplete",
    PART: "the part of one architecture is too long", CALL: "it calls something that is not a type",
}
TOKEN, PART_BYTES, PART_MEMO, HEIGHT, MARKS, NESTED = 1 << 16, 1 << 24, 1 << 20, 1 << 16, 64, 8
TYPE, UNKNOWN = 255, 254        # kinds of values: 0 plain, 1 to NESTED a tuple by its depth, a type, not known yet

# What follows an opcode: FIXED bytes (-1: the opcode is refused), of which PREFIX are the length of what follows them.
FIXED, PREFIX = np.full(256, -1), np.zeros(256, np.int64)
for _op in b"(.N\x88\x89}])\x8ftueas\x90Rb\x85\x86\x87\x93\x94":
    FIXED[_op] = 0
for _op, _n in zip(b"KMJGqrhj\x80\x95c", (1, 2, 4, 8, 1, 4, 1, 4, 1, 8, 0), strict=True):
    FIXED[_op] = _n
for _op, _n in zip(b"\x8a\x8bX\x8c\x8dCB\x8eUT", (1, 4, 4, 1, 8, 1, 4, 8, 1, 4), strict=True):
    FIXED[_op] = PREFIX[_op] = _n
PUSHES = np.zeros(256, np.bool_)
NUMBERS = np.zeros(256, np.bool_)
NUMBERS[list(b"hjqr\x94")] = True        # GET and PUT, short and long; MEMOIZE
PUSHES[list(b"N\x88\x89}])\x8fKMJGc\x8a\x8bX\x8c\x8dCB\x8eUT")] = True


H, M, NEXT, FIRST, SIZE = range(5)     # of the state: height, marks, numbers given, those before this part, its bytes


def start():
    """State, stack (kinds of values) and marks (heights) at the beginning of a pickle; ``rewrite`` changes them."""
    return np.zeros(5, np.int64), np.zeros(HEIGHT, np.uint8), np.zeros(MARKS, np.int64)


@njit(cache=True)
def rewrite(data, size, state, stack, marks, kept, kinds, out, outside):
    """Rewrite the opcodes that are complete in ``data[:size]`` into ``out``.

    ``kept``: sorted numbers of the values to keep; they come first in the new numbering. ``kinds``: of every
    number in it. Numbers looked up from another part and not in ``kept`` go to ``outside``. Returns the bytes
    read, the bytes written, how many numbers are in ``outside``, and the status.
    """
    pos = written = crossed = 0
    status = MORE
    while pos < size and status == MORE:
        op = data[pos]
        end, status = _end(data, pos, size)
        if status != DONE:
            break
        if NUMBERS[op]:
            old = state[NEXT] if op == 148 else _number(data, pos + 1, end - pos - 1)
            slot = _slot(kept, old, state[FIRST])
            if op > 106:
                status = _put(old, slot, state, stack, marks, kinds)
            else:
                status = MEMO if old >= state[NEXT] else _push(state, stack, UNKNOWN if slot < 0 else kinds[slot])
                if slot < 0:
                    outside[crossed] = old
                    crossed += 1
            out[written] = 114 if op > 106 else 106
            for k in range(4):
                out[written + 1 + k] = (max(slot, 0) >> (8 * k)) & 255
            written += 5
        else:
            status = _step(op, state, stack, marks)
            if op != 149:                                                   # FRAME: lengths change
                for k in range(end - pos):
                    out[written + k] = data[pos + k]
                written += end - pos
        state[SIZE] += end - pos
        pos = end
        if op == 117 and state[M] == 2 and status == MORE:                  # SETITEMS: a part is complete
            out[written] = 81                                               # BINPERSID
            written, state[FIRST], state[SIZE] = written + 1, state[NEXT], 0
        elif state[SIZE] > PART_BYTES:
            status = PART
    return pos, written, crossed, status


@njit(cache=True, inline="always")
def _end(data, pos, size):
    """Where the opcode at ``pos`` ends, and DONE, MORE (it is not all there) or an error."""
    op = data[pos]
    if FIXED[op] < 0:
        return pos, OPCODE
    end = pos + 1 + FIXED[op]
    if op == 99:                                                            # GLOBAL: two lines
        lines = 0
        while lines < 2:
            if end >= size:
                return end, LONG if end - pos > TOKEN else MORE
            lines += data[end] == 10
            end += 1
        return end, DONE
    if PREFIX[op]:
        if end > size:
            return end, MORE
        length = _number(data, pos + 1, PREFIX[op])
        if length < 0 or length > TOKEN:
            return end, LONG
        end += length
    return end, DONE if end <= size else MORE


@njit(cache=True, inline="always")
def _number(data, at, width):
    value = np.int64(0)
    for k in range(width):
        value |= np.int64(data[at + k]) << (8 * k)
    return value


@njit(cache=True, inline="always")
def _slot(kept, old, first):
    """The new number of ``old``, negative if it has none: what is kept comes before this part's own."""
    slot = np.searchsorted(kept, old)
    if slot < len(kept) and kept[slot] == old:
        return slot
    return len(kept) + old - first if old >= first else -1


@njit(cache=True, inline="always")
def _put(old, slot, state, stack, marks, kinds):
    # Numbers run on by one; those of Python 2 begin with 1.
    if state[H] <= _floor(state, marks) or (old != state[NEXT] and not (state[NEXT] == 0 and old == 1)):
        return MEMO
    if slot >= len(kinds):
        return PART
    state[NEXT], kinds[slot] = old + 1, stack[state[H] - 1]
    return MORE


@njit(cache=True, inline="always")
def _floor(state, marks):
    return marks[state[M] - 1] if state[M] else 0


@njit(cache=True, inline="always")
def _push(state, stack, kind):
    if state[H] >= HEIGHT:
        return DEEP
    stack[state[H]] = kind
    state[H] += 1
    return MORE


@njit(cache=True, inline="always")
def _step(op, state, stack, marks):
    """What an opcode does to the stack."""
    if PUSHES[op]:
        return _push(state, stack, TYPE if op == 99 else op == 41)          # GLOBAL; EMPTY_TUPLE
    if op == 40:                                                            # MARK
        if state[M] >= MARKS:
            return DEEP
        marks[state[M]] = state[H]
        state[M] += 1
        return MORE
    if op == 46:                                                            # STOP
        return DONE if state[H] == 1 and state[M] == 0 else STACK
    if op in (128, 149):                                                    # PROTO FRAME
        return MORE
    return _fold(op, state, stack, marks)


@njit(cache=True, inline="always")
def _fold(op, state, stack, marks):
    """An opcode that makes one value of several."""
    floor = _floor(state, marks)
    if op in (116, 117, 101, 144):                                          # TUPLE SETITEMS APPENDS ADDITEMS
        if state[M] == 0:
            return STACK
        state[M] -= 1
        if op == 116:
            return _tuple(floor, state, stack)
        state[H] = floor
        return MORE if floor > _floor(state, marks) else STACK
    first = state[H] - (op - 132 if 133 <= op <= 135 else 3 if op == 115 else 2)
    if first < floor:
        return STACK
    if 133 <= op <= 135:                                                    # TUPLE1 TUPLE2 TUPLE3
        return _tuple(first, state, stack)
    if (op == 82 and stack[first] < UNKNOWN) or (op == 98 and stack[first] == TYPE):
        return CALL
    if op in (82, 147):                                                     # REDUCE STACK_GLOBAL
        stack[first] = TYPE if op == 147 else 0
    state[H] = first + 1
    return MORE


@njit(cache=True, inline="always")
def _tuple(first, state, stack):
    """A tuple of what is on the stack from ``first`` on: one level deeper than the deepest of it."""
    depth = 0
    for k in range(first, state[H]):
        if stack[k] < UNKNOWN:
            depth = max(depth, stack[k])
    if first >= HEIGHT:
        return DEEP
    stack[first], state[H] = depth + 1, first + 1
    return MORE if depth < NESTED else DEEP
