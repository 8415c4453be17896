"""Compiled functions that give the same bits in every process.

A compiled function carries copies of those that it calls, optimised once more, so that sums are taken in another
order; of several copies the loader uses the one it met first. Here every function is compiled, or loaded from numba's
store, for one signature and where it is defined, callees before callers: whatever a process does, and whether it
compiled the functions itself or found them stored, it runs the same code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock
from numba import njit
from numba.extending import register_jitable

SOURCES = ("jit", "kernels", "tiles", "convolution", "program", "compiled", "smallnets", "fused")
FAST = {"fastmath": True, "error_model": "numpy"}

# Short names for signatures.
I, F, ON = "i8", "f4", "b1"     # noqa: E741  whole number, float32, truth value
ROW = "f4[::1]"                 # the flat arrays
TABLE = "f4[:,::1]"
ANY = "f4[:,:]"                 # columns of a table


def native(*arguments: str, returns: str = "void") -> Callable:
    """Compile a function for these ``arguments``; one process at a time, since numba's store may mix up what two
    write at the same moment."""
    def decorate(function):
        dispatcher = njit(cache=True, **FAST)(function)
        folder = Path(dispatcher.stats.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "compiling.lock"):
            _renew_once(folder)
            dispatcher.compile(f"{returns}({', '.join(arguments)})")
        dispatcher.disable_compile()
        return dispatcher

    return decorate


inlined = njit(inline="always", **FAST)     # has no code of its own


@register_jitable
def aligned(n):
    """Room for n float32 values, from a multiple of 64 bytes on: vectors that cross cache lines take twice as long."""
    found = np.empty(n + 16, np.float32)
    start = -(found.ctypes.data // 4) % 16
    return found[start:start + n]


@lru_cache
def _renew_once(folder: Path) -> None:
    renew(folder)


def renew(folder: Path) -> None:
    """Empty numba's store if any source is another: it would notice only in the file of the function called."""
    sources = b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in SOURCES)
    stamp, now = folder / "compiled.sha256", hashlib.sha256(sources).hexdigest()
    if not stamp.exists() or stamp.read_text() != now:
        for index in folder.glob("*.nbi"):
            index.unlink()
        stamp.write_text(now)
