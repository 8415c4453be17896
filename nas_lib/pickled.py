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

TUPLES = 10_000     # nested deeper than a C stack can follow they would end the process, in a key of a dict


def load(content: bytes) -> dict:
    """The dict pickled in ``content``, its arrays as read-only numpy arrays.

    Raises pickle.UnpicklingError for a name that does not belong there, and whatever damaged content leads to.
    """
    found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    return {k: v.values if isinstance(v, _Array) else v for k, v in found.items()}


def check(content: bytes) -> None:
    """Refuse, by UnpicklingError, a pickle made to exhaust memory or stack, before it is read.

    For content of unknown origin; it costs about a second per million values.
    """
    tuples = 0
    for op, argument, _ in pickletools.genops(content):
        tuples += op.name.startswith("TUPLE")
        if op.name == "BYTEARRAY8" or "PUT" in op.name and argument > len(content) or tuples > TUPLES:
            raise pickle.UnpicklingError(f"{op.name} does not belong in a batch of images")


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
        return np.frombuffer(_encoded(raw), kind.dtype)[0]

    def encode(self, text, _):
        return _encoded(text)


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
        _, shape, kind, fortran, raw = state
        self.values = np.frombuffer(_encoded(raw), kind.dtype).reshape(shape, order="F" if fortran else "C")


def _encoded(raw) -> bytes:
    """Python 2 wrote bytes as text."""
    return raw.encode("latin1") if isinstance(raw, str) else raw
