"""Batches of images stored as Python pickles (CIFAR, downsampled ImageNet), read without running any of them.

A pickle is a program that can import and call anything. The few names that a pickled array needs are answered by
stand-ins here, all others are refused, so that nothing but plain values and arrays of numbers can come out.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re

import numpy as np

TUPLES = 80_000     # nested deeper than a C stack can follow they would end the process, in a key of a dict
AGAIN = {"BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "GLOBAL",
         "STACK_GLOBAL"}
NEVER = {"BYTEARRAY8", "DUP", "POP", "POP_MARK"}     # what a pickler does not write for plain values


def load(content: bytes, *keys: str) -> list:
    """The values of ``keys`` in the dict pickled in ``content``, arrays as read-only numpy arrays.

    Raises pickle.UnpicklingError for a name that does not belong there, and whatever damaged content leads to.
    """
    found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    return [v.values if isinstance(v := found[k], _Array) else v for k in keys]


def check(content: bytes, objects=True) -> None:
    """Refuse, by UnpicklingError, a pickle made to exhaust memory, stack or patience, before it is read.

    A few dozen containers of which each holds the last one twice would take for ever to hash or to walk through. So only
    texts, names and, where asked, what is called may be used again. For content of unknown origin; it costs about a second per million values.
    """
    tuples, numbers, made = 0, {}, ""       # numbers: what each number of the memo stands for
    for op, argument, _ in pickletools.genops(content):
        name = op.name
        tuples += name.startswith("TUPLE")
        if "PUT" in name or name == "MEMOIZE":
            numbers[len(numbers) if argument is None else argument] = made
        elif name not in ("FRAME", "PROTO"):
            made = name
        if (name in NEVER or tuples > TUPLES or "PUT" in name and argument > len(content)
                or "GET" in name and numbers.get(argument) not in (AGAIN | {"REDUCE"} if objects else AGAIN)):
            raise pickle.UnpicklingError(f"{name} does not belong in a file of plain values")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        # Methods, not classes or functions: a pickle can set attributes of what it is given. And not methods of the
        # unpickler, which remembers them: in that circle everything read would outlive the reading.
        calls = _StandIns()
        known = {"numpy.core.multiarray._reconstruct": calls.array, "numpy.core.multiarray.scalar": calls.scalar,
                 "numpy.dtype": calls.kind, "numpy.ndarray": "ndarray", "_codecs.encode": calls.encode}
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in known:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a batch of images")
        return known[full]


class _StandIns:
    def array(self, *_):
        return _Array()

    def kind(self, code, *_):
        return _Kind(code)

    def scalar(self, kind, raw):
        if len(raw) != kind.dtype.itemsize:
            raise pickle.UnpicklingError("a number of another size does not belong in a batch of images")
        return np.frombuffer(_encoded(raw), kind.dtype)[0]

    def encode(self, text, _):
        return text         # encoded where it is used, so that a text used often is not there as often


class _Kind:
    """For ``numpy.dtype``: numbers of 1 to 8 bytes."""

    def __init__(self, code):
        if not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError(f"arrays of {code} do not belong in a batch of images")
        self.code, self.order = code, "="

    def __setstate__(self, state):
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """For ``numpy.ndarray``."""

    def __setstate__(self, state):
        _, self.shape, self.kind, self.fortran, self.raw = state

    @property
    def values(self) -> np.ndarray:
        flat = np.frombuffer(_encoded(self.raw), self.kind.dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _encoded(raw) -> bytes:
    """Python 2 wrote bytes as text."""
    return raw.encode("latin1") if isinstance(raw, str) else raw
