"""Pickled tables of numbers, read in parts and without running anything that they name.

What such a file may call is the short list ``ALLOWED``, of functions of our own: no type is looked up, no module
imported. What it looks like is checked before the unpickler sees it (``opcodes``), since a small file can also
crash the interpreter (the hash of deeply nested tuples) or ask for all memory.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from struct import Struct
from typing import BinaryIO

import numpy as np

from nas_lib import opcodes

CHUNK = 1 << 18
TORCH = 0x1950A86A20F9469CFC6C       # the first value in a file of torch before 1.6

# numpy's names of numbers, and those of the module struct
LETTERS = dict(zip("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split(), "?bhiqBHIQefd", strict=True))


class RefusedError(ValueError):
    """A pickle that is cut, damaged or asks for more than plain values."""


class _Type:
    """The type of a numpy scalar, ``numpy.dtype(code)``."""
    __slots__ = ("code", "read")

    def __init__(self, code, align=False, copy=False):
        if code not in LETTERS:
            raise RefusedError("it holds a numpy value that is no number")
        self.code, self.read = code, Struct(f"<{LETTERS[code]}").unpack

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "|", "="):
            raise RefusedError("it holds a numpy value of no known byte order")
        self.read = Struct(f"{'>' if state[1] == '>' else '<'}{LETTERS[self.code]}").unpack


def _scalar(kind, content):
    return kind.read(content if isinstance(content, bytes) else content.encode("latin1"))[0]


def _encode(text, encoding="latin1"):
    return text.encode("latin1")        # how protocol 2 writes bytes


def _set(items=()):
    return set(items)


def _dict(factory=None):
    return {}


ALLOWED = {
    ("collections", "OrderedDict"): _dict, ("collections", "defaultdict"): _dict, ("builtins", "set"): _set,
    ("__builtin__", "set"): _set, ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar, ("numpy", "dtype"): _Type, ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, part):
        super().__init__(file, encoding="latin1")
        self.part = part

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise RefusedError(f"it asks for {ascii(module)[1:50]}.{ascii(name)[1:50]}".replace("'", "")
                               + ", which is not allowed in a table of numbers")
        return ALLOWED[module, name]

    def persistent_load(self, value):
        # Only the opcode that ``opcodes.rewrite`` puts in leads here; it refuses the file's own.
        return self.part(value)


class _Rewritten(io.RawIOBase):
    """The pickle at the present position of ``stream``, rewritten with the numbers ``kept``."""

    def __init__(self, stream: BinaryIO, kept: np.ndarray):
        self.stream, self.kept, self.outside = stream, kept, np.empty(0, np.int64)
        self.state, self.rest, self.ready, self.done, self.used = opcodes.start(), b"", b"", False, 0
        self.kinds = np.zeros(len(kept) + opcodes.PART_MEMO, np.uint8)

    def readable(self):
        return True

    def readinto(self, target):
        while not self.ready and not self.done:
            self._fill()
        n = min(len(target), len(self.ready))
        target[:n], self.ready = self.ready[:n], self.ready[n:]
        return n

    def _fill(self):
        chunk = self.stream.read(CHUNK)
        data = np.frombuffer(self.rest + chunk, np.uint8)
        out, outside = np.empty(5 * len(data) + 8, np.uint8), np.empty(len(data), np.int64)
        used, written, crossed, status = opcodes.rewrite(
            data, len(data), *self.state, self.kept, self.kinds, out, outside)
        if status == opcodes.MORE and not chunk:
            status = opcodes.CUT
        if status not in (opcodes.MORE, opcodes.DONE):
            raise RefusedError(opcodes.REASONS[status])
        self.done, self.rest, self.used = status == opcodes.DONE, data[used:].tobytes(), self.used + used
        self.ready = memoryview(out)[:written]
        if crossed:
            self.outside = np.union1d(self.outside, outside[:crossed])

    def readall(self):
        """Read to the end of the pickle and forget it."""
        while not self.done:
            self._fill()


def load(open_: Callable[[], BinaryIO], part: Callable = lambda value: value):
    """The pickled value that fills the stream which ``open_`` opens; also in the file format of torch before 1.6.

    ``part`` is called with every dictionary two levels below the outermost one as soon as it is read, and its
    answer takes the place of the dictionary: with a short answer, memory is that of one such part. The file is
    read twice: what later parts look up in earlier ones is known only at its end. Raises RefusedError; what
    ``part`` and ``open_`` raise as ValueError or OSError is passed on.
    """
    value, end, more = _load(open_, part, 0)
    if isinstance(value, int) and value == TORCH:           # then: version, machine, the value, names of weights
        for _ in range(2):
            _, end, _ = _load(open_, part, end)
        value, end, _ = _load(open_, part, end)
        weights, end, more = _load(open_, part, end)
        if weights:
            raise RefusedError(opcodes.REASONS[opcodes.OPCODE])
    if more:
        raise RefusedError("something follows its end")
    return value


def _load(open_, part, offset):
    """A pickled value, where it ends, and whether anything follows."""
    try:
        with open_() as stream:
            stream.seek(offset)
            first = _Rewritten(stream, np.empty(0, np.int64))
            first.readall()
            more = bool(first.rest or stream.read(1))
        with open_() as stream:
            stream.seek(offset)
            second = _Rewritten(stream, first.outside)
            value = _Unpickler(io.BufferedReader(second, CHUNK), part).load()
        if len(second.outside):
            raise RefusedError("it changed while it was read")
        return value, offset + first.used, more
    except EOFError:
        raise RefusedError(opcodes.REASONS[opcodes.CUT]) from None
    except (ValueError, OSError):
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise RefusedError(f"its values make no sense ({type(error).__name__})") from error
